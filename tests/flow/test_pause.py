"""The kill switch of one account: honoured before every single mail, by whoever is sending."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from monitor.config.tables import CONNECTIONS
from monitor.domain.halt import Halt, HaltRule
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


def pause_from_elsewhere(url: str, name: str = "acme") -> None:
    """As another process does it, between two steps of the sender."""
    engine = create_engine(url.replace("+aiosqlite", ""))
    with engine.begin() as conn:
        conn.execute(
            text("UPDATE accounts SET paused_at = '2026-04-01 09:00:00+00:00' WHERE name = :name"), {"name": name}
        )
    engine.dispose()


async def with_mails_ready(stage) -> int:
    """More mails than connections; a few customers cannot be mailed, so it says how many."""
    await stage.run()
    cause(stage.world, {"low_on_funds": 16})
    stage.world.advance(timedelta(minutes=1))
    mails = (await stage.run()).counts["mails"]
    assert mails > 8
    return mails


async def waiting(stage) -> int:
    states = await stage.states()
    assert set(states) <= {"ready", "sent", "voided"}
    return states.get("ready", 0)


@pytest.fixture
async def stage(database_url, tmp_path: Path):
    async with staged(healthy(100, start=START), database_url, tmp_path / "var") as stage:
        yield stage


def pausing_at(stage, point: str) -> None:
    """Have the account paused the first time the sender passes this point."""
    url = stage.db.engine.url.render_as_string(hide_password=False)
    paused = []

    def failpoint(name: str) -> None:
        if name == point and not paused:
            paused.append(name)
            pause_from_elsewhere(url)

    stage.tools = replace(stage.tools, failpoint=failpoint)


async def test_no_claimed_mail_leaves_after_a_pause(stage):
    mails = await with_mails_ready(stage)
    pausing_at(stage, "after_claim")
    delivery = await stage.deliver()
    assert delivery.sent == 0
    assert stage.mailbox.messages == []
    assert delivery.stopped_by == Halt(HaltRule.PAUSED_BY_HAND)
    assert (await waiting(stage)) == mails


async def test_a_pause_in_the_middle_lets_only_those_finish_whose_body_was_on_its_way(stage):
    mails = await with_mails_ready(stage)
    pausing_at(stage, "after_mark_commit")
    delivery = await stage.deliver()
    assert 1 <= delivery.sent <= CONNECTIONS  # one each
    assert (await waiting(stage)) == mails - delivery.sent


async def test_after_resume_what_waited_goes_once(stage):
    mails = await with_mails_ready(stage)
    pausing_at(stage, "after_mark_commit")
    first = (await stage.deliver()).sent
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, paused_at=None)
    stage.world.advance(timedelta(minutes=1))
    assert (await stage.deliver()).sent == mails - first
    assert len(stage.mailbox.messages) == mails


async def test_a_paused_account_claims_nothing(stage):
    mails = await with_mails_ready(stage)
    pause_from_elsewhere(stage.db.engine.url.render_as_string(hide_password=False))
    claimed: list[str] = []
    stage.tools = replace(stage.tools, failpoint=claimed.append)
    assert (await stage.deliver()).sent == 0
    assert claimed == []
    assert (await waiting(stage)) == mails


async def test_a_turn_ends_after_its_claims_and_says_that_there_is_more(stage):
    mails = await with_mails_ready(stage)
    from monitor.mail.smtp import SmtpTransport
    from monitor.usecases.deliver import deliver_account

    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    first = await deliver_account(stage.tools, stage.account, transport, stage.mailer, turn=5)
    second = await deliver_account(stage.tools, stage.account, transport, stage.mailer, turn=5)
    assert (first.sent, first.more, second.sent, second.more) == (5, True, 5, mails > 10)
    assert sum(first.by_kind.values()) == 5
    assert first.by_kind["low_on_funds", "sent"] == 5
