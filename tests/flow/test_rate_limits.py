"""A run against an API that keeps it waiting: nothing earlier than asked, an end in time, and the next run goes on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from monitor.config import BillingSettings
from monitor.domain.model import Mode
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.qbitflow_v1 import QBitFlowV1
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.sandbox import faults
from monitor.sandbox.seeding import healthy
from monitor.sandbox.till import stock
from monitor.store.schema import payments, subscriptions
from monitor.usecases.importing import import_ids
from tests.harness import staged

LIMIT = timedelta(minutes=2)
ROUTES = {"qbitflow-v2": "subscriptions", "qbitflow-v1": "subscription", "billing-platform": "payments"}


class Limited:
    """Every other request of a route is refused, and told how long to stay away."""

    def __init__(self, world, seconds: int) -> None:
        self.world = world
        self.seconds = seconds
        self.quiet_until = world.now
        self.early = self.refused = 0

    def __call__(self, call, answer):
        self.early += self.world.now < self.quiet_until
        if call.number % 2:
            return answer
        self.refused += 1
        self.quiet_until = self.world.now + timedelta(seconds=self.seconds)
        return faults.rate_limited(str(self.seconds))(call, answer)


def speak(stage, dialect: str):
    """The account's provider, whose waits move the world's clock."""

    async def sleep(seconds: float) -> None:
        stage.world.advance(timedelta(seconds=seconds))

    common = {"account": "acme", "clock": stage.tools.clock, "sleep": sleep}
    if dialect == "billing-platform":
        till = stage.server.platform.till
        secrets = {"billing": BillingSettings(tenant_id=till.tenant_id), "tenant_secret": till.tenant_secret}
        provider = BillingPlatform(base_url=stage.server.platform_url, mode=Mode.LIVE, **secrets, **common)
    else:
        made, url = {
            "qbitflow-v1": (QBitFlowV1, stage.server.v1_url),
            "qbitflow-v2": (QBitFlowV2, stage.server.url),
        }[dialect]
        provider = made(base_url=url, api_key=stage.world.ids.api_key, **common)
    wanted = dialect == "billing-platform"
    stage.change(provider=provider, provider_name=dialect, run_time=LIMIT, payments=wanted, read_at_once=1)
    return provider


@pytest.mark.parametrize("dialect", ROUTES)
@pytest.mark.parametrize("seconds", [1, 45, 61, 10_800])
async def test_a_run_that_is_kept_waiting_ends_in_time_and_the_next_goes_on(sqlite_url, tmp_path, dialect, seconds):
    pages = 7 if seconds == 45 else 2
    world = healthy(100 * pages - 50 if dialect == "qbitflow-v2" else pages * 6)
    async with staged(world, sqlite_url, tmp_path / "var") as stage:
        provider = speak(stage, dialect)
        if dialect == "qbitflow-v1":
            await import_ids(stage.tools, stage.account, [world.id_of(sub) for sub in world.living()])
        elif dialect == "billing-platform":
            stock(stage.server.platform.till, 250)
        limited = Limited(world, seconds)
        rule = stage.faults.add(limited, route=ROUTES[dialect])
        began = world.now
        report = await stage.run()
        assert (limited.early, world.now - began <= LIMIT) == (0, True), report.problems
        told, took = " ".join(report.problems), world.now - began
        if dialect != "billing-platform" and seconds == 1:
            assert (report.outcome, told) == ("complete", "")
        else:  # the platform's contract lets no 4xx be asked again; the others wait, but never above 60 s
            assert report.outcome == "partial"
            assert "429" in told or "quiet" in told or "run_minutes" in told
            waits = dialect != "billing-platform" and seconds == 45
            assert took > LIMIT - timedelta(seconds=46) if waits else took < timedelta(seconds=10)
        assert limited.refused
        stage.faults.rules.remove(rule)
        world.advance(timedelta(hours=4))
        await provider.identify()  # between two runs nothing of it holds
        report = await stage.run()
        assert (report.outcome, report.problems) == ("complete", [])
        table, whole = (payments, 250) if dialect == "billing-platform" else (subscriptions, len(world.subscriptions))
        async with stage.db.read() as conn:
            assert (await conn.execute(select(func.count()).select_from(table))).scalar_one() == whole
        await provider.aclose()
