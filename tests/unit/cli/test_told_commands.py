"""Commands that are told to a person can be typed as they stand."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from monitor.cli import console, decisions
from monitor.cli.console import config_option
from monitor.cli.demo.stage import Played, _clear
from monitor.cli.demo.telling import _program, tell_end
from monitor.cli.passes import Pass
from monitor.cli.remedies import started_with
from monitor.cli.summary import print_pass
from monitor.domain.halt import Halt, HaltRule
from monitor.errors import ConfigError
from monitor.sandbox.mailbox import CaughtMail
from monitor.store.summaries import HeldMails
from monitor.usecases.adopt import Adoption
from monitor.usecases.dispatch import Delivery
from monitor.usecases.operate import Ruling
from monitor.usecases.run import RunReport


@pytest.mark.parametrize(
    ("config", "option"),
    [(None, ""), ("monitor.toml", ""), ("a/b.toml", " --config a/b.toml"), ("a b.toml", " --config 'a b.toml'")],
)
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


@pytest.fixture
def elsewhere():
    """A command that was started with `--config`."""
    started_with(" --config 'my shop/monitor.toml'")
    yield " --config 'my shop/monitor.toml'"
    started_with("")


def test_the_next_command_after_a_decision_names_the_settings_file(capsys, elsewhere):
    reviewed = Ruling("reviewed", "batch 7: 2 mails would go", command="monitor outbox approve 7")
    decisions._print(reviewed)
    assert capsys.readouterr().out.splitlines()[-1] == f"  monitor outbox approve 7{elsewhere}"
    assert decisions.ruling_json(reviewed)["command"] == f"monitor outbox approve 7{elsewhere}"


def test_the_plan_of_an_adoption_is_approved_under_the_same_settings(capsys, elsewhere):
    adoption = Adoption("acme", batch_id=3, plan_hash="5d1c", episodes=1, mails=1)
    decisions._print_adoption(adoption, dry_run=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"  monitor outbox approve 3 --plan-hash 5d1c{elsewhere}"


def test_every_command_in_a_sentence_is_completed_unless_it_takes_no_settings(capsys, elsewhere):
    for tell in (console.say, console.warn, console.complain):
        tell("run `monitor run`, then `monitor outbox batches`; `monitor init` writes a file, `mode` is a setting")
    out, err = capsys.readouterr()
    for line in (out, *err.replace("error: ", "").splitlines()):
        assert line.strip() == (
            f"run `monitor run{elsewhere}`, then `monitor outbox batches{elsewhere}`; `monitor init` writes a file, "
            "`mode` is a setting"
        )


def test_what_a_pass_tells_to_do_next_is_whole_on_a_narrow_terminal(capsys, monkeypatch, elsewhere):
    monkeypatch.setenv("COLUMNS", "50")
    delivery = Delivery(waiting=2, stopped_by=Halt(HaltRule.PAUSED_BY_HAND))
    held = [HeldMails(4, whole=True, mails=3)]
    print_pass(Pass("acme", "UTC", delivery=delivery, waiting_for_people=held))
    told = capsys.readouterr().out
    assert f"`monitor deliver{elsewhere}`" in told
    assert f"`monitor resume acme{elsewhere}`" in told
    assert f"monitor outbox review 4{elsewhere}\n" in told


def test_an_empty_batch_that_the_guard_holds_is_named_with_the_command_and_nothing_is_said_twice(capsys, elsewhere):
    doubt = "the database is older than its last use: it was restored from a backup"
    counts = dict.fromkeys(("rows", "pages", "new", "changed", "facts", "bad", "missing"), 0)
    report = RunReport("acme", "held", run_id=4, batch_id=8, held=[doubt], counts=counts)
    print_pass(Pass("acme", "UTC", report, Delivery(stopped_by=Halt(HaltRule.RESTORED, doubt))))
    told = capsys.readouterr().out
    assert f"Batch 8, empty, waits for a person. Look, then decide: monitor outbox review 8{elsewhere}\n" in told
    assert (told.count("restored from a backup"), "monitor run" in told, "these mails" in told) == (1, False, False)
    print_pass(Pass("acme", "UTC", report, Delivery()))
    told = capsys.readouterr().out
    assert ("nothing to decide" in told, "outbox review" in told) == (True, False), "another reason than the database"
    held = [HeldMails(8, whole=True, mails=1)]
    print_pass(Pass("acme", "UTC", report, Delivery(stopped_by=Halt(HaltRule.PAUSED_BY_HAND)), waiting_for_people=held))
    told = capsys.readouterr().out
    assert ("these mails" in told, "empty" in told, "monitor resume acme" in told) == (True, False, True)


def test_an_interrupted_first_contact_is_not_said_to_be_done(capsys):
    counts = dict.fromkeys(("rows", "pages", "new", "changed", "facts", "bad", "missing"), 0)
    print_pass(Pass("acme", "UTC", RunReport("acme", "interrupted", run_id=1, baseline=True, counts=counts)))
    assert "not complete yet: start it again" in capsys.readouterr().out


def test_the_demo_counts_the_mails_that_came_twice():
    out = Console(file=io.StringIO(), width=200)
    mails = [
        CaughtMail(
            number,
            "shop@acme.example",
            ("ann@mail.example",),
            f"Message-ID: <{name}@acme.example>\r\n\r\n".encode(),
            None,
        )
        for number, name in enumerate(("a", "b", "a"), 1)
    ]
    tell_end(out, [Played(None, Pass("acme", "UTC"))], mails, Path("shown"), Path("shown/index.html"))
    assert "3 mails to 1 customer, 1 TWICE, WHICH MUST NOT HAPPEN." in out.file.getvalue()


def test_the_demos_commands_are_not_folded_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monitor"])
    out = Console(file=io.StringIO(), width=40)
    played = Played(None, Pass("acme", "UTC"))
    tell_end(out, [played], [], Path("shown/in/a/deep/folder"), Path("shown/in/a/deep/folder/index.html"))
    told = out.file.getvalue()
    assert "none twice." in told, "nothing held and nothing left unsent is not told as 0"
    assert "  Ask why            monitor explain EMAIL -c shown/in/a/deep/folder/monitor.toml\n" in told
