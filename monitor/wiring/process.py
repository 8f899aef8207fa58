"""One process: its tools, and its accounts as they are asked for."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from monitor.alarm import AppriseAlarm, NoAlarm
from monitor.clock import Clock, SystemClock
from monitor.config import Settings, secret_key
from monitor.domain.model import Mode
from monitor.heartbeat import Heartbeat
from monitor.mail.mailer import TemplateMailer
from monitor.mail.smtp import SmtpTransport
from monitor.metrics import Meter
from monitor.schedule.crew import Charge, Crew
from monitor.schedule.readers import HookReaders
from monitor.usecases.alerts import Alerts
from monitor.usecases.context import Account, Tools, no_failpoint, no_progress
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.watch import Watched
from monitor.web.hooks import Door, Hooks
from monitor.wiring.accounts import Sleep, build_account, build_transport, hook_dialect
from monitor.wiring.keys import address_mac
from monitor.wiring.place import Schema, open_database, prepare_state_dir, take_locks

_COLLECT_AFTER = (50_000, 10, 10)
"""Containers made and not freed, before the youngest, the middle and the oldest are searched (`gc.set_threshold`)."""


class Wiring:
    """One process's tools, and its accounts as they are asked for. Made by `wired`, which closes all of it."""

    def __init__(self, settings: Settings, tools: Tools, stack: AsyncExitStack, sleep: Sleep, meter: Meter) -> None:
        """`sleep` is what the provider waits with between two tries."""
        self.settings = settings
        self.meter = meter
        self.tools = tools
        self.db = tools.db
        self._stack = stack
        self._sleep = sleep
        self._mailer: TemplateMailer | None = None
        self._accounts: dict[str, Account] = {}

    @property
    def mailer(self) -> TemplateMailer:
        """The templates, read at the first use. Raises `RenderError`."""
        if self._mailer is None:
            self._mailer = TemplateMailer(self.settings.templates_dir)
        return self._mailer

    def account_names(self, only: str | None = None) -> tuple[str, ...]:
        """The configured accounts in the file's order, or the named one. Raises `ConfigError` for an unknown name."""
        return tuple(self.settings.accounts) if only is None else (self.settings.account(only).name,)

    def account(self, name: str) -> Account:
        """The account with its provider. Nothing is asked yet. Raises `ConfigError`."""
        if name not in self._accounts:
            account = build_account(
                self.settings, name, clock=self.tools.clock, sleep=self._sleep, on_request=self.meter.request(name)
            )
            self._stack.push_async_callback(account.provider.aclose)
            self._accounts[name] = account
        return self._accounts[name]

    def transport(self, name: str) -> SmtpTransport:
        """The mail server of this account. Nothing is opened yet."""
        return build_transport(self.settings.smtp_for(name))

    def watched(self) -> tuple[Watched, ...]:
        """All accounts, as somebody watches over them."""
        return tuple(Watched(name, one.schedule, one.zone) for name, one in self.settings.accounts.items())

    def crew(self) -> Crew:
        """Who does the daemon's duties over all accounts. Raises `ConfigError`, `RenderError`."""
        charges = [
            Charge(
                self.account(name),
                one.schedule,
                self.transport(name),
                Heartbeat(name, self.settings.heartbeat_for(one)),
            )
            for name, one in self.settings.accounts.items()
        ]
        urls = [url.get_secret_value() for url in self.settings.alerts.urls]
        alerts = Alerts(AppriseAlarm(urls) if urls else NoAlarm(), self.tools.db)
        accounts = [charge.account for charge in charges]
        return Crew(
            self.tools,
            charges,
            self.mailer,
            state_dir=self.settings.state_dir,
            meter=self.meter,
            alerts=alerts,
            readers=self._readers(accounts),
        )

    def readers(self) -> HookReaders:
        """Who reads again what webhooks tell, for the accounts that have any. Raises `ConfigError`."""
        return self._readers([self.account(name) for name in self.hooked_names()])

    def _readers(self, accounts: Sequence[Account]) -> HookReaders:
        by_name = {account.name: account for account in accounts}
        return HookReaders(self.tools, by_name, self.meter, pause=self._sleep)

    def hooked_names(self) -> tuple[str, ...]:
        """The accounts that take webhooks: those with a secret to verify them."""
        return tuple(name for name, one in self.settings.accounts.items() if one.webhook_secret)

    def hooks(self, on_taken: Callable[[str], None]) -> Hooks:
        """The way in for webhooks; `on_taken` hears of each account that got one."""
        accounts = [self.settings.account(name) for name in self.hooked_names()]
        clock = self.tools.clock
        doors = {
            one.name: Door(Addressee(one.name, one.provider, one.mode), hook_dialect(one), Mode(one.mode))
            for one in accounts
        }
        return Hooks(doors, Inbox(self.db, clock), clock, self.meter, on_taken)


@asynccontextmanager
async def wired(
    settings: Settings,
    *,
    schema: Schema = Schema.READY,
    clock: Clock | None = None,
    sleep: Sleep = asyncio.sleep,
    progress: Callable[[str, int, int | None], None] = no_progress,
    stopping: Callable[[], bool] = lambda: False,
    failpoint: Callable[[str], None] = no_failpoint,
    meter: Meter | None = None,
) -> AsyncIterator[Wiring]:
    """Everything for one process, closed at the end. `failpoint` is for tests, `meter` for who has one already.

    `sleep` is for waits that a stop may cut short; the beat of a lock sleeps by asyncio's own and never hurries.
    Raises `ConfigError` for what an operator must mend, `StoreError` when the database refuses.
    """
    async with AsyncExitStack() as stack:
        inert = schema is Schema.UNTOUCHED and not settings.state_dir.exists()
        state_dir = Path(stack.enter_context(TemporaryDirectory())) if inert else prepare_state_dir(settings)
        unnamed = settings.secret_key is None and settings.secret_key_file is None
        key = os.urandom(32) if inert and unnamed else secret_key(settings)
        db = await open_database(settings, schema)
        stack.push_async_callback(db.aclose)
        locks = take_locks(state_dir)
        stack.callback(locks.close)
        tools = Tools(
            db=db,
            clock=clock or SystemClock(),
            owner=locks.owner,
            locks=locks,
            address_mac=address_mac(key),
            sleep=asyncio.sleep,
            failpoint=failpoint,
            progress=progress,
            stopping=stopping,
        )
        _collect_rarely(stack)
        yield Wiring(settings, tools, stack, sleep, meter or Meter())


def _collect_rarely(stack: AsyncExitStack) -> None:
    """Look for garbage cycles seldom: pages of plain values have none, and looking took a fifth of a first sync."""
    stack.callback(gc.set_threshold, *gc.get_threshold())
    gc.set_threshold(*_COLLECT_AFTER)
