"""Builds everything from settings: the only module that knows which class does what."""

from __future__ import annotations

import asyncio
import gc
import hmac
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory

from monitor.alarm import AppriseAlarm, NoAlarm
from monitor.clock import Clock, SystemClock
from monitor.config import Account as AccountSettings
from monitor.config import BillingSettings, GuardSettings, Settings, SmtpSettings, secret_key
from monitor.domain.calendar import SendingWindow
from monitor.domain.guard import GuardLimits
from monitor.domain.letter import Brand
from monitor.domain.model import Kind, Mode
from monitor.errors import ConfigError, UnmailableAddressError
from monitor.heartbeat import Heartbeat
from monitor.mail.address import normalise_address
from monitor.mail.mailer import TemplateMailer
from monitor.mail.smtp import SmtpTransport
from monitor.metrics import Meter
from monitor.providers.base import Provider
from monitor.providers.billing_platform import BillingPlatform, PlatformNames
from monitor.providers.billing_platform_hooks import BillingPlatformHooks, Scheme
from monitor.providers.billing_platform_wire import PaymentNames
from monitor.providers.hooks import HookDialect
from monitor.providers.http import OnRequest
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.providers.qbitflow_v1 import QBitFlowV1
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.schedule.crew import Charge, Crew
from monitor.schedule.readers import HookReaders
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.store.revision import require_current, upgrade
from monitor.usecases.alerts import Alerts
from monitor.usecases.context import Account, Tools, no_failpoint, no_progress
from monitor.usecases.inbox import Addressee, Inbox
from monitor.usecases.watch import Watched
from monitor.web.hooks import Door, Hooks

Sleep = Callable[[float], Awaitable[None]]

_COLLECT_AFTER = (50_000, 10, 10)
"""Containers made and not freed, before the youngest, the middle and the oldest are searched (`gc.set_threshold`)."""


class Schema(Enum):
    """What to do about the database's revision before anything else."""

    READY = auto()
    """SQLite upgrades itself; PostgreSQL must be current (`monitor db upgrade`)."""
    CURRENT = auto()
    """Must be current; nothing is upgraded."""
    UNTOUCHED = auto()
    """Never opened here: a dry run copies it. Nothing is made that was not there, no key, no folder."""
    ANY = auto()
    """Not asked: for the commands that look at the revision themselves."""


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
        locks = _take_locks(state_dir)
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


async def open_database(settings: Settings, schema: Schema = Schema.READY) -> Database:
    """The database, at the revision that `schema` asks for; the caller closes it.

    Raises:
        ConfigError: of another revision, on a network disk, or of a kind we do not speak.
        StoreError: read-only, unreachable.
    """
    db = Database(settings.database.url.get_secret_value())
    try:
        db.check_disk()
        if schema is not Schema.UNTOUCHED and db.path is not None:
            _make_folder(db.path)
        if schema is Schema.READY and db.is_sqlite:
            await upgrade(db)
        elif schema in {Schema.READY, Schema.CURRENT}:
            await require_current(db)
    except BaseException:
        await db.aclose()
        raise
    return db


def prepare_state_dir(settings: Settings) -> Path:
    """The state folder, made for this user alone if it is not there. Raises `ConfigError` if it cannot be used."""
    folder = settings.state_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir: {folder} is not writable for this user; change its owner or name another folder")
    return folder


def _take_locks(state_dir: Path) -> FileLocks:
    try:
        return FileLocks(state_dir)
    except OSError as error:
        raise ConfigError(f"state_dir: {state_dir} takes no lock ({error.strerror}); make it writable") from None


def _make_folder(path: Path) -> None:
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"database.url: the folder of {path} cannot be made ({error.strerror}); name another one"
        ) from None


def build_account(
    settings: Settings, name: str, *, clock: Clock, sleep: Sleep, on_request: OnRequest | None = None
) -> Account:
    """One account's choices in the words of the use cases, with its provider; the caller closes the provider."""
    chosen = settings.account(name)
    if chosen.campaigns is not None:
        raise ConfigError(
            f"accounts.{name}.campaigns: campaigns of your own come in a later version; "
            "leave this setting out to use the shipped ones"
        )
    return Account(
        name=name,
        provider_name=chosen.provider,
        mode=Mode(chosen.mode),
        provider=_provider(chosen, clock, sleep, on_request),
        sender=chosen.sender,
        sender_address=chosen.sender_address,
        reply_to=chosen.reply_to,
        brand=build_brand(chosen),
        zone=chosen.timezone,
        locale=chosen.locale,
        window=SendingWindow(chosen.window.opens_at, chosen.window.closes_at),
        manage_url=chosen.manage_url,
        link_hosts=chosen.allowed_hosts,
        notify_first=chosen.first_run == "notify",
        mail_test_rows=chosen.mail_test_rows,
        guard=_limits(settings.guard_for(chosen)),
        read_at_once=chosen.read_at_once,
        daily_requests=chosen.daily_requests,
        run_time=timedelta(minutes=chosen.run_minutes),
        payments=chosen.payments,
        optional_mails=frozenset(map(Kind, chosen.optional_mails)),
        hooked=bool(chosen.webhook_secret),
    )


def _provider(chosen: AccountSettings, clock: Clock, sleep: Sleep, on_request: OnRequest | None) -> Provider:
    if chosen.billing is not None:
        return _billing_platform(chosen, chosen.billing, clock, sleep, on_request)
    qbitflow = QBitFlowV1 if chosen.provider == "qbitflow-v1" else QBitFlowV2
    return qbitflow(
        base_url=chosen.base_url,
        api_key=chosen.api_key.get_secret_value(),
        account=chosen.name,
        clock=clock,
        sleep=sleep,
        on_behalf_of=chosen.on_behalf_of,
        on_request=on_request,
    )


def _billing_platform(
    chosen: AccountSettings, billing: BillingSettings, clock: Clock, sleep: Sleep, on_request: OnRequest | None
) -> Provider:
    names = billing.model_dump(exclude={"tenant_id", "field_map", *_SIGNED})
    return BillingPlatform(
        base_url=chosen.base_url,
        tenant_id=billing.tenant_id,
        tenant_secret=chosen.api_key.get_secret_value(),
        mode=Mode(chosen.mode),
        account=chosen.name,
        clock=clock,
        sleep=sleep,
        names=PlatformNames(payment=PaymentNames(**billing.field_map.model_dump()), **names),
        on_request=on_request,
    )


def hook_dialect(chosen: AccountSettings) -> HookDialect:
    """How this account's webhooks are signed and written."""
    secrets = [secret.get_secret_value() for secret in chosen.webhook_secret]
    if chosen.billing is None:
        return QBitFlowHooks(secrets)
    signed = {mine: getattr(chosen.billing, theirs) for theirs, mine in _SIGNED.items()}
    return BillingPlatformHooks(secrets, Scheme(**signed))


_SIGNED = {
    "webhook_header": "header",
    "webhook_prefix": "prefix",
    "webhook_algorithm": "algorithm",
    "webhook_timestamp_header": "timestamp_header",
    "webhook_tolerance_s": "tolerance_s",
    "event_map": "events",
}
"""How the billing platform signs: the settings, and what its verifier calls them."""


def build_brand(chosen: AccountSettings) -> Brand:
    """The merchant as the customer knows it."""
    brand = chosen.brand
    return Brand(brand.name, brand.url, brand.color, brand.postal_address, brand.phrase)


def build_transport(smtp: SmtpSettings) -> SmtpTransport:
    """A mail server as configured. Raises `ConfigError` for a login in clear."""
    return SmtpTransport(
        smtp.host,
        smtp.port,
        security=smtp.security,
        username=smtp.username,
        password=None if smtp.password is None else smtp.password.get_secret_value(),
    )


def _limits(guard: GuardSettings) -> GuardLimits:
    return GuardLimits(
        share=guard.share,
        min_population=guard.min_population,
        small=guard.small,
        missing=guard.missing,
        mails_factor=guard.mails_factor,
        unknown=guard.unknown,
        per_address_24h=guard.per_address_24h,
    )


def address_mac(key: bytes) -> Callable[[str], str]:
    """A keyed hash of addresses: equal for every spelling of one mailbox, and useless without the key.

    What is no address gets a hash of its own text: it is never mailed, but it is counted and can be looked up.
    """

    def mac(address: str) -> str:
        try:
            text = normalise_address(address)
        except UnmailableAddressError:
            text = address.strip().casefold()
        return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()

    return mac


def loaded_secrets(settings: Settings) -> tuple[str, ...]:
    """Every secret of the settings, for the log's redaction."""
    found = [] if settings.database.is_sqlite else [settings.database.url.get_secret_value()]
    found += [] if settings.secret_key is None else [settings.secret_key.get_secret_value()]
    found += [url.get_secret_value() for url in settings.alerts.urls]
    for name, account in settings.accounts.items():
        smtp = settings.smtp_for(name)
        secrets = (account.api_key, smtp.password, *account.webhook_secret)
        found += [secret.get_secret_value() for secret in secrets if secret is not None]
    return tuple(found)
