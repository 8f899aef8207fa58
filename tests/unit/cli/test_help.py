"""The help of every command, what is made from it, and the completion of the shells."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main

from monitor.cli.main import app, main

ROOT = Path(__file__).parents[3]
SAID = "run `make generated`"
ROOT_COMMAND = typer.main.get_command(app)
COMPLETION = {
    "bash": {"COMP_WORDS": "monitor outb", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "monitor outb"},
    "fish": {"_TYPER_COMPLETE_ARGS": "monitor outb", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def script(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manual = script("make_manual")
licences = script("make_licences")


def groups_and_commands(command=ROOT_COMMAND, path="monitor"):
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from groups_and_commands(each, f"{path} {name}")


ALL = dict(groups_and_commands())


def understood(line: str) -> None:
    """Raises unless `monitor ...` is a command with options that it has."""
    command, words = ROOT_COMMAND, shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    if not hasattr(command, "commands"):
        command.make_context(command.name, words)


@pytest.mark.parametrize("path", ALL)
def test_every_help_ends_with_an_example_of_that_command(path):
    examples = re.findall(r"`([^`]+)`", ALL[path].epilog or "")
    assert any(example.startswith(path) for example in examples), ALL[path].epilog


@pytest.mark.no_cover  # traced, laying the pages out takes most of the time
@pytest.mark.parametrize("path", ALL)
def test_no_help_shows_a_value_behind_a_flag(path, capsys):
    assert main([*path.split()[1:], "--help"]) == 0
    assert "bool" not in capsys.readouterr().out


@pytest.mark.parametrize("path", ALL)
def test_the_examples_are_commands_that_there_are(path):
    for example in re.findall(r"`([^`]+)`", ALL[path].epilog or ""):
        for line in example.split("&&"):
            assert line.split()[0] == "monitor"
            understood(line.strip())


@pytest.mark.parametrize("shell", COMPLETION)
def test_a_shell_completes_a_command(shell, monkeypatch, capsys):
    monkeypatch.setenv("_MONITOR_COMPLETE", f"complete_{shell}")
    for name, value in COMPLETION[shell].items():
        monkeypatch.setenv(name, value)
    main([])
    said = capsys.readouterr().out
    assert "outbox" in said
    assert "runs" not in said


def test_the_manual_page_is_current():
    assert (ROOT / "docs" / "monitor.1").read_text() == manual.manual(), SAID


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed (apt install groff)")
def test_roff_understands_every_line_of_the_manual_page():
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", ROOT / "docs" / "monitor.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_the_list_of_licences_is_current():
    assert (ROOT / "docs" / "licences.md").read_text() == licences.listing(), SAID


def test_every_library_states_a_licence_and_none_asks_for_our_sources():
    names = [name for name, _ in licences.locked()]
    assert len(names) > 50
    for name, pinned in licences.locked():
        assert version(name) == pinned, "the environment differs from the lock: make check"
        stated = licences.licence(licences.metadata(name))
        assert stated != "not stated", name
        assert not re.search(r"(?<!L)(GPL|General Public)", stated.replace("Lesser General Public", "LGPL")), (
            name,
            stated,
        )
