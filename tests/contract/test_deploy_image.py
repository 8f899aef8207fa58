"""The Dockerfile: read for its rules, and its own commands run in another folder, since no engine is at hand here."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
ONLINE = "MONITOR_DEPLOY_ONLINE"
EPOCH = "1767225600"
BUILDERS = {"hatchling", "editables", "pathspec", "pluggy", "setuptools", "tomlkit", "trove-classifiers"}


@dataclass(frozen=True)
class Instruction:
    stage: int
    name: str
    value: str


def instructions() -> list[Instruction]:
    """The Dockerfile's instructions with their stage, from 0; -1 is before the first FROM."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    found, stage = [], -1
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, _, value = line.partition(" ")
            stage += name == "FROM"
            found.append(Instruction(stage, name, value.strip()))
    return found


ALL = instructions()
LAST = max(one.stage for one in ALL)


def values(name: str, stage: int = LAST) -> list[str]:
    return [one.value for one in ALL if one.name == name and one.stage == stage]


def test_only_instructions_that_docker_knows():
    known = "FROM ARG ENV WORKDIR RUN COPY LABEL USER VOLUME STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD".split()
    assert {one.name for one in ALL} <= set(known)
    assert ALL[0].name == "ARG"


def test_both_stages_stand_on_the_same_plain_image():
    images = [one.value.split()[0] for one in ALL if one.name == "FROM"]
    assert images == ["python:${PYTHON}-slim"] * 2
    assert re.fullmatch(r"PYTHON=3\.1[1-3]", values("ARG", -1)[0])


def test_the_last_stage_gets_one_folder_and_nothing_to_build_with():
    assert values("COPY") == ["--from=build /opt/monitor /opt/monitor"]
    assert "pip uninstall" in values("RUN")[0]
    assert len(values("RUN")) == 1
    removed = next(shlex.split(run) for run in values("RUN", 0) if "hatchling" in run)
    assert set(removed[removed.index("--yes") + 1 :]) == BUILDERS
    assert values("RUN", 0)[-1].endswith("pip uninstall --yes pip")


def test_nothing_is_fetched_but_by_hash():
    for run in [one.value for one in ALL if one.name == "RUN"]:
        assert not re.search(r"curl|wget|apt|://|ADD", run)
        if "pip install" in run or "pip wheel" in run:
            assert "--require-hashes" in run or "--no-index" in run, run


def test_it_runs_as_a_numbered_user_that_is_not_root():
    (user,) = values("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user), "a name cannot be checked by runAsNonRoot"
    owner = re.search(r"--owner=(\d+) --group=(\d+)", values("RUN")[0])
    assert user == f"{owner[1]}:{owner[2]}"
    names = [one.name for one in ALL if one.stage == LAST]
    assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")


def test_it_stops_cleanly_and_starts_without_a_shell():
    assert values("STOPSIGNAL") == ["SIGTERM"]
    assert values("ENTRYPOINT") == ['["monitor"]']
    assert values("CMD") == ['["run"]']
    assert values("HEALTHCHECK") == ["NONE"]


def test_no_secret_is_baked_in():
    assert not re.search(
        r"(?i)key|password|secret|token", " ".join(one.value for one in ALL if one.name in {"ENV", "ARG"})
    )


def test_what_is_copied_is_all_that_is_let_through():
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    lines = [line for line in ignore if line and not line.startswith("#")]
    assert lines[0] == "*"
    let = {line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")}
    copied = {source for copy in values("COPY", 0) for source in copy.split()[:-1]}
    assert {entry.partition("/")[0] if entry.startswith("config/") else entry for entry in let} == copied
    assert {"**/__pycache__", "**/.*"} <= set(lines)


def copy_sources(target: Path) -> None:
    """Into `target`, what the build stage copies."""
    for copy in values("COPY", 0):
        *sources, place = copy.split()
        for source in sources:
            goal = target / source if place == "./" else target / place
            goal.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, goal, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(ROOT / source, goal)


def run(arguments: list[str | Path], cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """A command with nothing of this checkout in its environment."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    proxies = {
        key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_")) or "proxy" in key.lower()
    }
    return subprocess.run(
        arguments, cwd=cwd, env={**proxies, **environ, **extra}, capture_output=True, text=True, check=False
    )


def pip_step(containing: str) -> list[str]:
    """The pip arguments of the build stage's command that has these words."""
    (found,) = [run for run in values("RUN", 0) if containing in run]
    words = shlex.split(found)
    assert words[:3] == ["/opt/monitor/bin/python", "-m", "pip"]
    return words[3:]


def build_wheel(folder: Path, name: str = "wheels") -> Path:
    """The wheel, made by the Dockerfile's command from a copy of what it copies."""
    copy_sources(folder / "src")
    arguments = [str(folder / name) if word == "/wheels" else word for word in pip_step("pip wheel")]
    done = run([sys.executable, "-m", "pip", *arguments], folder / "src", SOURCE_DATE_EPOCH=EPOCH)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / name).iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A folder with the libraries of the production lock and no others, borrowed from this environment."""
    folder = tmp_path_factory.mktemp("libraries")
    lock = (ROOT / "requirements" / "run.lock").read_text()
    for name in re.findall(r"^([\w.\-]+)==(?!.*win32)", lock, flags=re.MULTILINE):
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top != ".." and not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
    return folder


@pytest.fixture(scope="module")
def installed(wheel, libraries, tmp_path_factory):
    """An environment with the wheel and what the production lock names. Its folder of programs."""
    folder = tmp_path_factory.mktemp("venv")
    assert run([sys.executable, "-m", "venv", "--without-pip", folder], folder).returncode == 0
    arguments = [str(wheel.parent) if word == "/wheels" else word for word in pip_step("--find-links")]
    done = run([sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *arguments], folder)
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "bin"


def test_the_wheel_has_mails_settings_and_migrations_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "monitor/_data/templates/base.html",
        "monitor/_data/templates/locale/messages.pot",
        "monitor/_data/config/monitor.toml",
        "monitor/store/migrations/versions/0001_state.py",
        "monitor/store/migrations/env.py",
        "subscription_monitor-0.1.0.data/data/share/man/man1/monitor.1",
    ):
        assert wanted in names
    assert {name.split("/")[0] for name in names} == {
        "monitor", "subscription_monitor-0.1.0.data", "subscription_monitor-0.1.0.dist-info"
    }  # fmt: skip


def test_two_builds_are_the_same_to_the_byte(wheel, tmp_path):
    again = build_wheel(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_the_wheel_works_in_an_empty_folder_and_writes_nothing_beside_itself(installed, tmp_path):
    site = next((installed.parent / "lib").glob("python*/site-packages"))
    before = listing(site)
    place = run(
        [installed / "python", "-c", "import monitor; print(monitor.__file__)"], tmp_path, PYTHONDONTWRITEBYTECODE="1"
    )
    assert place.stdout.startswith(str(site)), place.stderr
    for arguments in (["--help"], ["--version"], ["preview", "low_on_funds"], ["init", "monitor.toml"]):
        done = run([installed / "monitor", *arguments], tmp_path, PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert listing(site) == before


def test_the_wheel_shows_the_whole_product(installed, tmp_path):
    done = run([installed / "monitor", "demo"], tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.eml"))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.skipif(not os.environ.get(ONLINE), reason=f"downloads every library: set {ONLINE}=1")
def test_every_command_of_the_build_stage_works_as_it_stands(tmp_path):
    """With the libraries of the lock, by their hashes; afterwards nothing is left that builds."""
    copy_sources(tmp_path / "src")
    places = {"/opt/monitor": tmp_path / "monitor", "/wheels": tmp_path / "wheels"}
    for command in values("RUN", 0):
        words = shlex.split(command)
        for old, new in places.items():
            words = [word.replace(old, str(new)) for word in words]
        if words[0] == "python":
            words[0] = sys.executable
        done = run(words, tmp_path / "src", SOURCE_DATE_EPOCH=EPOCH)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    (site,) = (tmp_path / "monitor" / "lib").glob("python*/site-packages")
    left = {path.name.split("-")[0].replace("_", "-").lower() for path in site.glob("*.dist-info")}
    assert not (BUILDERS | {"pip", "wheel"}) & left
    done = run([tmp_path / "monitor" / "bin" / "monitor", "demo"], tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
