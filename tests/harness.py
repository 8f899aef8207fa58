"""A whole product in a test: a served sandbox, a database, and the use cases between them. Nothing here is faked but time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Dialect, event, func, select

from monitor.domain.letter import Brand
from monitor.domain.model import Mode
from monitor.mail.mailer import TemplateMailer
from monitor.mail.smtp import SmtpTransport
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.sandbox.faults import Faults
from monitor.sandbox.mailbox import MailCatcher
from monitor.sandbox.server import SandboxServer
from monitor.sandbox.world import World
from monitor.store.accounts import find_account
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.store.revision import upgrade
from monitor.store.schema import notifications
from monitor.usecases.context import Account, Tools, travelled_now
from monitor.usecases.dispatch import Delivery, Dispatch
from monitor.usecases.letters import LetterDesk
from monitor.usecases.run import Run, RunOptions, RunReport
from monitor.wiring.keys import address_mac

MAILER = TemplateMailer()
_COMPILED: dict[str, tuple[Dialect, dict]] = {}
"""By database: a dialect, and the statements compiled for it."""


class WorldClock:
    """The product's clock, following the world's."""

    def __init__(self, world: World) -> None:
        self.world = world

    def now(self) -> datetime:
        return self.world.now

    def monotonic(self) -> float:
        return self.world.now.timestamp()


async def instantly(_seconds: float) -> None:
    """Waiting takes no time in tests, but lets others go on."""
    await asyncio.sleep(0)


async def forever(_seconds: float) -> None:
    """For beats: nobody needs a heartbeat in a test's second."""
    await asyncio.Event().wait()


mac = address_mac(b"a key for tests")


def unsynced(db: Database) -> Database:
    """No test cuts the power, so SQLite need not wait for the disk; what was written outlives any kill all the same."""
    if db.is_sqlite:

        def relax(raw, _record) -> None:
            cursor = raw.cursor()
            cursor.execute("PRAGMA synchronous=OFF")
            cursor.close()

        event.listen(db.engine.sync_engine, "connect", relax)
    return db


def remembering(db: Database) -> Database:
    """Compile each statement once a test process, not once a stage: SQLAlchemy keys what it compiled by the dialect object."""
    engine = db.engine.sync_engine
    engine.dialect, compiled = _COMPILED.setdefault(engine.name, (engine.dialect, {}))
    engine.update_execution_options(compiled_cache=compiled)
    return db


@dataclass
class Stage:
    """What a test plays on."""

    world: World
    faults: Faults
    server: SandboxServer
    db: Database
    state_dir: Path
    tools: Tools
    account: Account
    locks: FileLocks
    mailbox: MailCatcher
    mailer: TemplateMailer

    async def run(self, **options: object) -> RunReport:
        """One pass up to the gate."""
        return await Run(self.tools, self.account, RunOptions(state_dir=self.state_dir, **options)).execute()

    async def row(self):
        async with self.db.read() as conn:
            return await find_account(conn, self.account.name)

    async def deliver(self, now: datetime | None = None, *, port: int | None = None) -> Delivery:
        """One delivery pass, to this stage's mail catcher."""
        transport = SmtpTransport("127.0.0.1", port or self.mailbox.port, security="none")
        row = await self.row()
        desk = LetterDesk(self.mailer)
        return await Dispatch(self.tools, self.account, row, transport, desk).deliver(
            now or travelled_now(self.tools.clock, row, None)
        )

    async def states(self) -> dict[str, int]:
        row = await self.row()
        async with self.db.read() as conn:
            n = notifications.c
            counted = select(n.state, func.count()).where(n.account_id == row.id).group_by(n.state)
            return {row[0]: row[1] for row in await conn.execute(counted)}

    def change(self, **values: object) -> None:
        """Other choices of the account."""
        self.account = replace(self.account, **values)


@asynccontextmanager
async def staged(world: World, url: str, folder: Path, *, faults: Faults | None = None, key: str | None = None):
    """Serve `world`, open the database at `url`, and put the use cases between them."""
    async with AsyncExitStack() as stack:
        faults = faults or Faults()
        server = await stack.enter_async_context(SandboxServer(world, faults, clock=world.clock))
        db = remembering(unsynced(Database(url)))
        stack.push_async_callback(db.aclose)
        await upgrade(db)
        folder.mkdir(parents=True, exist_ok=True)
        locks = FileLocks(folder)
        stack.callback(locks.close)
        clock = WorldClock(world)
        provider = QBitFlowV2(
            base_url=server.url, api_key=key or world.ids.api_key, account="acme", clock=clock, sleep=instantly
        )
        stack.push_async_callback(provider.aclose)
        tools = Tools(db=db, clock=clock, owner=locks.owner, locks=locks, address_mac=mac, sleep=forever)
        account = Account(
            name="acme",
            provider_name="qbitflow-v2",
            mode=Mode.TEST if world.test else Mode.LIVE,
            provider=provider,
            sender="Acme Billing <billing@acme.example>",
            sender_address="billing@acme.example",
            reply_to="help@acme.example",
            brand=Brand("Acme", "https://acme.example", "#3456d1"),
            zone="Europe/Budapest",
            link_hosts=frozenset({"qbitflow.example", "acme.example"}),
            mail_test_rows=world.test,
        )
        mailbox = MailCatcher()
        await mailbox.start()
        stack.push_async_callback(mailbox.close)
        yield Stage(world, faults, server, db, folder, tools, account, locks, mailbox, MAILER)


def days(n: float) -> timedelta:
    return timedelta(days=n)
