"""Commands that are told to a person can be typed as they stand."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from monitor.cli import decisions
from monitor.cli.console import config_option
from monitor.cli.demo.stage import Played, _clear
from monitor.cli.demo.telling import _program, tell_end
from monitor.cli.passes import Pass
from monitor.errors import ConfigError
from monitor.usecases.adopt import Adoption
from monitor.usecases.operate import Ruling


@pytest.mark.parametrize(("config", "option"), [(None, ""), ("monitor.toml", ""), ("a/b.toml", " --config a/b.toml")])
def test_a_settings_file_is_named_unless_it_is_found_by_itself(config, option):
    assert config_option(config and Path(config)) == option


@pytest.mark.parametrize(
    ("started", "found", "typed"),
    [
        (".venv/bin/monitor", None, ".venv/bin/monitor"),
        ("/usr/bin/monitor", "/usr/bin/monitor", "monitor"),
        ("/app/monitor/__main__.py", None, "monitor"),
    ],
)
def test_the_demo_names_the_program_as_the_shell_finds_it(monkeypatch, started, found, typed):
    monkeypatch.setattr(sys, "argv", [started, "demo"])
    monkeypatch.setattr(shutil, "which", lambda _name: found)
    assert _program() == typed


def test_a_demo_cannot_be_kept_in_a_file(tmp_path):
    file = tmp_path / "thesis.txt"
    file.write_text("years of work")
    with pytest.raises(ConfigError, match="is no folder"):
        _clear(file)
    assert file.read_text() == "years of work"


def test_the_next_command_after_a_decision_names_the_settings_file(capsys):
    reviewed = Ruling("reviewed", "batch 7: 2 mails would go", command="monitor outbox approve 7")
    decisions._print(reviewed, Path("demo/monitor.toml"))
    assert capsys.readouterr().out.splitlines()[-1] == "  monitor outbox approve 7 --config demo/monitor.toml"


def test_the_plan_of_an_adoption_is_approved_under_the_same_settings(capsys):
    adoption = Adoption("acme", batch_id=3, plan_hash="5d1c", episodes=1, mails=1)
    decisions._print_adoption(adoption, Path("demo/monitor.toml"), dry_run=False)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "  monitor outbox approve 3 --plan-hash 5d1c --config demo/monitor.toml"
    )


def test_the_demos_commands_are_not_folded_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monitor"])
    out = Console(file=io.StringIO(), width=40)
    played = Played(None, Pass("acme", "UTC"))
    tell_end(out, [played], [], Path("shown/in/a/deep/folder"), Path("shown/in/a/deep/folder/index.html"))
    told = out.file.getvalue()
    assert "  Ask why            monitor explain EMAIL -c shown/in/a/deep/folder/monitor.toml\n" in told
