"""The guides are true: commands that there are, messages that are printed, links that lead somewhere, figures with a command."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from monitor.cli.exits import Exit
from monitor.cli.main import app

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = typer.main.get_command(app)
FENCE = re.compile(r"^\s*```(\w*)\n(.*?)^\s*```", flags=re.MULTILINE | re.DOTALL)
SHELLS = {"sh", "console"}
INTERRUPTED = ("130", "143")
MEASURED = ROOT / "docs" / "benchmarks.md"
"""`make bench` writes it, where there is time to measure: a checkout may be without it."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- commands


def typed(text: str) -> Iterator[list[str]]:
    """The words after `monitor` of each line that a reader is told to type."""
    for kind, block in FENCE.findall(text):
        if kind not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|^\$ |/bin/|&& |sudo |-- )(?:subscription-)?monitor ([a-z-].*)", line.strip())
            if found:
                yield shlex.split(found[1].partition("&&")[0], comments=True)


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_what_a_reader_types_is_understood(guide):
    for words in typed(guide.read_text()):
        command, rest = COMMAND, words
        while rest and hasattr(command, "commands"):
            if rest[0].startswith("-"):
                break
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        if not hasattr(command, "commands"):
            command.make_context(command.name, list(rest))  # raises for an option that it has not


def test_completion_and_the_manual_page_are_documented():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert "`monitor --install-completion`" in text
    assert "`man monitor`" in text


def test_the_guides_tell_enough_commands_for_that_to_mean_something():
    assert sum(len(list(typed(guide.read_text()))) for guide in GUIDES) > 40


# --- exit codes


@pytest.mark.parametrize("code", [str(int(code)) for code in Exit])
def test_every_exit_code_is_documented(code):
    assert f"\n| {code} |" in (ROOT / "docs" / "commands.md").read_text()


def test_so_are_those_of_a_stop():
    assert f"| {', '.join(INTERRUPTED)} |" in (ROOT / "docs" / "commands.md").read_text()


# --- messages


def printed() -> list[list[str]]:
    """Every text of the product as its fixed pieces, in order: `"{a} is {b}"` is `["", " is ", ""]`."""
    found = []
    for path in sorted((ROOT / "monitor").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                pieces = [""]
                for part in node.values:
                    if isinstance(part, ast.Constant):
                        pieces[-1] += str(part.value)
                    else:
                        pieces.append("")
                found.append(pieces)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append([node.value])
    return found


TEXTS = ["\x00".join(pieces) for pieces in printed()]
QUOTED = re.findall(r"^> (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_that_is_quoted_is_one_that_is_printed(message):
    """Each piece between two `…` stands in the code, all in one text or in texts that are put together."""
    for piece in (part.strip() for part in message.split("…")):
        words = piece.strip(" :;,.()")
        if len(words) > 3:
            assert any(words in text for text in TEXTS), words


def test_enough_messages_are_quoted_for_that_to_mean_something():
    assert len(QUOTED) > 30


# --- links


def anchors(path: Path) -> set[str]:
    """What may stand behind a # of a link to this guide."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_every_link_leads_somewhere(guide):
    for target in re.findall(r"\]\(([^)\s]+)\)", guide.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (guide.parent / place).resolve() if place else guide
        assert path.exists() or path == MEASURED, target
        if anchor:
            assert anchor in anchors(path), target


def test_every_guide_stands_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [guide.name for guide in (ROOT / "docs").glob("*.md") if f"({guide.name}" not in index] == ["README.md"]


# --- the README's claims


def claims() -> list[list[str]]:
    """The rows of its tables of promises and of systems: what, how, what to type."""
    tables = re.findall(
        r"^\| (?:promise|system) .*?\n\n", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    rows = [row for table in tables for row in table.strip().splitlines()[2:]]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim[0][:40])
def test_every_claim_has_a_command_beside_it_that_there_is(claim):
    commands = re.findall(r"`([^`]+)`", claim[-1])
    assert commands, claim[0]
    for line in commands:
        words = shlex.split(line)
        assert words[0] in {"make", "monitor", "python"}, line
        if words[0] == "monitor":
            assert words[1] in COMMAND.commands
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        for path in re.findall(r"tests/[\w/.]+", line):
            assert (ROOT / path).exists(), path
