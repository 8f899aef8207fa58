"""Rules that no linter knows, read from the source itself."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_cover  # it reads the product and does not run it
ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "monitor").rglob("*.py"))
CEILING = 400
CLOCKS = {
    ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
    ("time", "time"), ("time", "time_ns"), ("time", "monotonic"), ("time", "sleep"), ("asyncio", "sleep"),
}  # fmt: skip
OWN_TIME = {"clock.py"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(path: Path) -> Iterator[tuple[int, tuple[str, str], ast.Call]]:
    """Calls of the form `owner.name(...)`, with their line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            yield node.lineno, (name, node.func.attr), node


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


# A migration is a frozen record of one step, however many tables it makes: nobody reads on in it.
@pytest.mark.parametrize("path", [path for path in MODULES if "versions" not in path.parts], ids=named)
def test_no_module_passes_the_ceiling(path):
    assert len(path.read_text().splitlines()) <= CEILING, "make it two modules"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_module_has_a_name_that_says_nothing(path):
    assert not VAGUE & {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in OWN_TIME], ids=named)
def test_time_is_an_argument(path):
    """Only the clock reads a clock, and nothing waits by itself: an edge gets its `sleep`."""
    sandbox = "sandbox" in path.parts
    found = [
        f"line {line}: {owner}.{name}()"
        for line, (owner, name), call in calls(path)
        if (owner, name) in CLOCKS and not (sandbox and owner in {"asyncio", "time"}) and not is_yield(call, name)
    ]
    assert not found


def is_yield(call: ast.Call, name: str) -> bool:
    """`asyncio.sleep(0)` waits for nothing: it lets others run."""
    return (
        name == "sleep" and len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    )


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_nothing_is_left_to_do_and_no_check_is_silenced_without_a_reason(path):
    for line, text in comments(path):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|pragma: no (cover|branch)", text), f"line {line}: {text}"
        silenced = re.match(r"#\s*(?:noqa|type: ignore)(?P<which>[:\[][\w\s,\-\]]+)?(?P<rest>.*)", text)
        if silenced:
            assert silenced["which"], f"line {line}: say which check: {text}"
            assert re.search(r"\w{3}", silenced["rest"].lstrip(" #-")), f"line {line}: say why: {text}"


@pytest.mark.parametrize("path", sorted((ROOT / "monitor" / "store").glob("*.py")), ids=named)
def test_store_functions_never_commit(path):
    """The use case owns the transaction; only the engine, which makes connections, may end one."""
    if path.name in {"engine.py", "revision.py"}:
        return
    assert [line for line, (_, name), _ in calls(path) if name in {"commit", "rollback"}] == []


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.lock")), ids=named)
def test_dependencies_are_locked_by_hash_and_name_no_index(lock):
    text = lock.read_text()
    assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    assert "index-url" not in text
    entries = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())
    assert [entry.split(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_runtime_lock_agrees_with_the_developers():
    def versions(lock: str) -> set[str]:
        text = (ROOT / "requirements" / lock).read_text()
        return set(re.findall(r"^([\w.\-]+==[^ \\;]+)", text, flags=re.MULTILINE))

    assert versions("run.lock") - versions("dev.lock") == set()


def test_every_make_target_is_explained():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z]+):.*## \S", makefile, flags=re.MULTILINE))
    assert set(phony[1].split()) == explained
