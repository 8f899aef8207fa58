"""Everything that deploy/ starts is a command of the monitor, with options that it has."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from monitor.cli.main import app

DEPLOY = Path(__file__).parents[3] / "deploy"


def started() -> list[tuple[str, list[str]]]:
    """(where, the words after `monitor`) of every place that starts it."""
    found = []
    for path in sorted(path for path in DEPLOY.rglob("*") if path.is_file()):
        text = path.read_text()
        if path.suffix == ".service":
            lines = re.findall(r"^ExecStart=\S+/monitor (.+)$", text, flags=re.MULTILINE)
        elif path.suffix == ".cron":
            lines = re.findall(r"bin/monitor (\w+)", text)
        elif path.name == "Dockerfile":
            lines = [" ".join(json.loads(each)) for each in re.findall(r"^CMD (.+)$", text, flags=re.MULTILINE)]
        else:
            lines = [each.replace(",", " ") for each in re.findall(r"^ +args: \[(.+)\]$", text, flags=re.MULTILINE)]
        found += [(path.name, shlex.split(line)) for line in lines]
    return found


STARTED = started()


def test_every_way_is_found():
    assert {words[0] for _, words in STARTED} == {"run", "deliver", "daemon", "db"}
    assert len(STARTED) == 3 + 2 + 1 + 4


@pytest.mark.parametrize(("where", "words"), STARTED, ids=[f"{where}: {' '.join(words)}" for where, words in STARTED])
def test_the_monitor_understands_it(where, words):
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))  # raises for an option that it has not
    assert isinstance(command, click.Command) or command.params is not None
