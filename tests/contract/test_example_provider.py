"""The guide "adding a provider" holds: its example passes the common suite and its payments reach the database."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from monitor.clock import SystemClock
from monitor.providers.base import Capability, PaymentSource, Provider
from monitor.sandbox import seeding
from monitor.sandbox.server import SandboxServer
from monitor.store.schema import payments
from tests.contract.example_provider import ExampleProvider
from tests.contract.test_provider_contract import ProviderContract, Stage, Stager
from tests.harness import instantly, staged

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "adding-a-provider.md"


class TestExampleProvider(ProviderContract):
    @pytest.fixture
    def stage(self) -> Stager:
        @asynccontextmanager
        async def open_stage(world):
            sleeps: list[float] = []

            async def sleep(seconds: float) -> None:
                sleeps.append(seconds)
                await asyncio.sleep(0)

            async with SandboxServer(world) as server:
                provider = ExampleProvider(
                    base_url=server.url, api_key=world.ids.api_key, account="acme", clock=SystemClock(), sleep=sleep
                )
                yield Stage(world, server.faults, provider, sleeps)
                await provider.aclose()

        return open_stage


async def test_its_payments_reach_the_database(sqlite_url, tmp_path):
    async with staged(seeding.healthy(7), sqlite_url, tmp_path / "var") as stage:
        provider: Provider = ExampleProvider(
            base_url=stage.server.url,
            api_key=stage.world.ids.api_key,
            account="acme",
            clock=stage.tools.clock,
            sleep=instantly,
        )
        assert isinstance(provider, PaymentSource)
        stage.change(provider=provider, provider_name=provider.name, payments=True)
        report = await stage.run()
        async with stage.db.read() as conn:
            kept = (await conn.execute(select(func.count()).select_from(payments))).scalar_one()
        assert (report.outcome, kept) == ("complete", 7)
        await provider.aclose()


def test_the_guide_names_files_that_are_there_and_every_capability():
    text = GUIDE.read_text()
    files = re.findall(r"`((?:monitor|tests|docs|config)/[\w/.-]+\.(?:py|md|toml))`", text)
    assert len(files) >= 8
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert [one.name for one in Capability if f"`{one.name}`" not in text] == []
