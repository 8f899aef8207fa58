"""Webhooks that stay away are noticed: by the run, by the watch, by `check`."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from monitor.cli.checks.finding import Mark
from monitor.cli.checks.webhooks import endpoint
from monitor.clock import SystemClock
from monitor.config import Settings
from monitor.domain.endpoint import EndpointSeen
from monitor.domain.model import Mode
from monitor.metrics import Meter
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.sandbox import faults as fault
from monitor.sandbox.entities import Endpoint
from monitor.sandbox.seeding import healthy
from monitor.sandbox.sender import DISABLED_AFTER, PUNCTUAL, HookSender
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.watch import Cause, Watched, look_after
from monitor.web.app import build_app, served
from monitor.web.health import Site
from monitor.web.hooks import Door, Hooks
from tests.harness import Stage

SECRET = "whsec_acme"
URL = "https://monitor.acme.example/hooks/acme"


@pytest.fixture
async def stage(play):
    stage = await play(healthy(60))
    stage.change(hooked=True)
    stage.world.endpoints.append(Endpoint(URL, 0))
    await stage.run()
    return stage


async def problem(stage: Stage) -> str | None:
    """What the next run finds, everywhere it can be seen."""
    report = await stage.run()
    row = await stage.row()
    told = [one.removeprefix("webhooks: ") for one in report.problems]
    found = await look_after(stage.db, [Watched("acme", "0 7 * * *", ZoneInfo("UTC"))], stage.world.now)
    alerts = [one.sentence for one in found if one.cause is Cause.WEBHOOKS]
    assert told == alerts == ([] if row.hook_problem is None else [row.hook_problem])
    return row.hook_problem


async def heard(stage: Stage) -> None:
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, hook_at=stage.world.now)


async def test_events_that_only_the_log_told_show_a_silent_endpoint_until_one_comes(stage):
    assert await problem(stage) is None
    cause(stage.world, {"low_on_funds": 1})
    stage.world.advance(timedelta(minutes=50))
    assert await problem(stage) is None  # it may be on its way
    cause(stage.world, {"paused": 1})
    stage.world.advance(timedelta(minutes=61))
    said = await problem(stage)
    assert "none ever came" in said
    assert "/hooks/acme" in said
    stage.world.advance(timedelta(hours=1))
    assert await problem(stage) == said  # nothing new, and still nothing heard
    await heard(stage)
    assert await problem(stage) is None
    stage.world.advance(timedelta(minutes=1))
    cause(stage.world, {"stopped": 1})
    stage.world.advance(timedelta(hours=2))
    assert "the last one came" in await problem(stage)


async def test_a_webhook_that_came_after_the_event_shows_that_the_endpoint_lives(stage):
    cause(stage.world, {"low_on_funds": 1})
    stage.world.advance(timedelta(hours=2))
    await heard(stage)
    assert await problem(stage) is None


async def test_what_the_vendor_says_of_the_endpoint_is_told(stage):
    [ours] = stage.world.endpoints
    ours.failing_since_at = stage.world.now
    assert "fail since" in await problem(stage)
    ours.disabled_at, ours.disabled_reason = stage.world.now, "failing"
    assert "disabled since 2026-" in await problem(stage)
    assert "(failing)" in await problem(stage)
    stage.world.endpoints.append(Endpoint(URL + "/", 1))
    assert await problem(stage) is None  # another one leads here too, and is well
    stage.world.endpoints.clear()
    assert "no webhook endpoint is registered" in await problem(stage)
    stage.faults.add(fault.error(403, "policy_disabled"), route="endpoints")
    assert await problem(stage) is None  # a key that may not ask


async def test_without_a_secret_nothing_is_expected(stage):
    stage.change(hooked=False)
    stage.world.endpoints.clear()
    assert await problem(stage) is None


async def test_a_provider_that_tells_nothing_of_endpoints_is_not_asked(stage):
    stage.world.endpoints.clear()
    real = stage.account.provider

    class Mute:
        """The provider without this one question."""

        def __getattr__(self, name: str):
            if name == "endpoints":
                raise AttributeError(name)
            return getattr(real, name)

    stage.change(provider=Mute())
    assert await problem(stage) is None


async def test_an_endpoint_whose_rows_tell_little_is_read(stage):
    stage.faults.add(fault.raw(b'[{"url":"https://x.example/hooks/acme"},{"url":5},{}]'), route="endpoints", times=1)
    assert await stage.account.provider.endpoints() == (EndpointSeen("https://x.example/hooks/acme"), EndpointSeen(""))


async def test_the_sandbox_gives_an_endpoint_up_after_three_days_as_the_vendor_does(stage):
    stage.world.endpoints.clear()
    sender = HookSender(stage.world, "http://127.0.0.1:9/hooks/acme", [SECRET], manner=PUNCTUAL)
    cause(stage.world, {"low_on_funds": 1})
    assert set(await sender.send()) == {0}
    assert sender.waiting == 1
    stage.world.advance(DISABLED_AFTER)
    await sender.send(all_of_it=True)
    assert await sender.send() == {}
    assert "disabled" in await problem(stage)
    await sender.aclose()


def settings(**account: object) -> Settings:
    acme = {
        "provider": "qbitflow-v2",
        "mode": "live",
        "base_url": "https://api.qbitflow.app/v2",
        "api_key": "sk_1_secret",
        "sender": "billing@acme.example",
        "brand": {"name": "Acme", "url": "https://acme.example"},
    }
    public = account.pop("public_url", None)
    return Settings(accounts={"acme": {**acme, **account}}, web={"public_url": public})


async def test_check_tries_the_endpoint_from_outside(stage):
    hint = await endpoint(settings(), "acme", None)
    assert (hint.mark, "webhook_secret" in hint.text) == (Mark.HINT, True)
    hint = await endpoint(settings(webhook_secret=SECRET), "acme", None)
    assert (hint.mark, "web.public_url" in hint.text) == (Mark.HINT, True)
    away = await endpoint(settings(webhook_secret=SECRET, public_url="http://127.0.0.1:9"), "acme", None)
    assert (away.mark, "does not answer" in away.text) == (Mark.FAIL, True)
    clock = SystemClock()
    site = Site(stage.db, (), clock, Meter())
    async with served(build_app(site), "127.0.0.1:0") as at:
        asked = settings(webhook_secret=SECRET, public_url=at)
        other = await endpoint(asked, "acme", None)
        assert (other.mark, "answers 404" in other.text) == (Mark.FAIL, True)
        door = Door(Addressee("acme", "qbitflow-v2", "live"), QBitFlowHooks([SECRET]), Mode.LIVE)
        site.hooks = Hooks({"acme": door}, Inbox(stage.db, clock), clock, Meter())
        well = await endpoint(asked, "acme", await stage.row())
        assert (well.mark, "none came yet" in well.text) == (Mark.OK, True)
        await heard(stage)
        assert "the last one came" in (await endpoint(asked, "acme", await stage.row())).text
        stage.world.endpoints.clear()
        await problem(stage)
        silent = await endpoint(asked, "acme", await stage.row())
        assert (silent.mark, "no webhook endpoint" in silent.text) == (Mark.HINT, True)
