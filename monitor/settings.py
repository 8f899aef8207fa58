"""The settings as types: what an operator may write, and what each value must be.

A value error's text says what is wrong and how to mend it; `monitor.complaints` adds the setting's name and its place.
Nothing here reads a file or the environment: that is `monitor.config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from monitor.crontab import cron_trigger
from monitor.errors import ConfigError
from monitor.setting_values import (
    BindAddress,
    Fraction,
    LinkHost,
    Mailbox,
    WebAddress,
    is_loopback,
    web_address,
    wrong,
)

ENV_PREFIX = "MONITOR__"
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_KEY_SHAPE = re.compile(r"sk_[0-9a-fA-F-]{36}_(?P<mode>test|live)_")
_NAME_SHAPE = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*\Z")
_LOCALE_SHAPE = r"^[a-z]{2,3}([_-][A-Za-z0-9]{2,8})*$"


class Table(BaseModel):
    """A table of the file: unknown keys are errors, and no error may quote a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)


class DatabaseSettings(Table):
    """Where the state is kept. The URL may hold a password, so it is a secret."""

    url: SecretStr = SecretStr("sqlite:///monitor.db")

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: SecretStr) -> SecretStr:
        scheme, _, rest = url.get_secret_value().partition("://")
        if scheme not in _DRIVERS:
            raise ValueError("must begin with sqlite:/// or postgresql:// (other databases are not supported)")
        path = rest.partition("?")[0].removeprefix("/")
        if scheme.startswith("sqlite") and (not rest.startswith("/") or path in {"", ":memory:"}):
            raise ValueError("must name a file; write sqlite:///monitor.db (a database in memory forgets)")
        return url

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_secret_value().startswith("sqlite")

    @property
    def sqlalchemy_url(self) -> str:
        """The URL with the async driver this product uses. It may hold a password: never log it."""
        scheme, separator, rest = self.url.get_secret_value().partition("://")
        return f"{_DRIVERS[scheme]}{separator}{rest}"


class SmtpSettings(Table):
    """How mail leaves. In clear only to this machine, and never with a password (RFC 8314)."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(1025, ge=1, le=65535)
    security: Literal["none", "starttls", "tls"] = "none"
    username: str | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.security == "none" and not is_loopback(self.host):
            raise wrong("security", 'sends mail in clear to another machine; write security = "starttls" or "tls"')
        if self.security == "none" and self.username:
            raise wrong("username", 'would be sent in clear; write security = "starttls" or "tls", or remove it')
        if bool(self.username) != bool(self.password):
            lacking = "password" if self.username else "username"
            raise wrong(lacking, "is missing; a login needs username and password (or password_file)")
        return self


class GuardSettings(Table):
    """The limits of the mass-change guard. Shares are fractions of 1; `Decimal`, so that a limit is exact."""

    share: Fraction = Decimal("0.20")
    min_population: int = Field(50, ge=1)
    small: int = Field(10, ge=0)
    missing: Fraction = Decimal("0.10")
    mails_factor: int = Field(5, ge=1)
    unknown: Fraction = Decimal("0.01")
    per_address_24h: int = Field(2, ge=1, le=4)


class AlertSettings(Table):
    """Whom to wake: addresses of Apprise. They hold tokens, so each is a secret."""

    urls: tuple[SecretStr, ...] = ()

    @field_validator("urls", mode="before")
    @classmethod
    def _one_is_a_list(cls, urls: object) -> object:
        return [urls] if isinstance(urls, str | SecretStr) else urls


class WebSettings(Table):
    """Where `monitor serve` listens: this machine alone, unless somebody writes otherwise."""

    bind: BindAddress = "127.0.0.1:8080"


class BrandSettings(Table):
    """The merchant as the customer knows it. A bad `color` is replaced when a mail is made, not refused."""

    name: str = Field(min_length=1)
    url: WebAddress
    color: str = "#3456d1"
    postal_address: str = ""
    phrase: str = ""


class SendWindow(Table):
    """The hours of the wall clock in which mail goes out, every day: from `opens_at` until before `closes_at`."""

    opens_at: time
    closes_at: time

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", value.replace(" ", ""))
        if match is None:
            raise ValueError('is no time window; write it like "08:00-20:00"')
        hours = [int(number) for number in match.groups()]
        return {"opens_at": time(hours[0], hours[1]), "closes_at": time(hours[2], hours[3])}

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.opens_at >= self.closes_at:
            raise ValueError('must open before it closes, on the same day; write it like "08:00-20:00"')
        return self


class Account(Table):
    """One merchant's connection (design: account)."""

    name: str
    """The table's name in the file, `acme` of `[accounts.acme]`; not a setting."""
    provider: Literal["qbitflow-v2", "qbitflow-v1", "billing-platform"]
    mode: Literal["live", "test"]
    base_url: WebAddress
    api_key: SecretStr
    on_behalf_of: str | None = None
    sender: Mailbox
    reply_to: Mailbox
    """The sender's address where the file is silent."""
    brand: BrandSettings
    timezone: str = "UTC"
    locale: str = Field("en", pattern=_LOCALE_SHAPE)
    schedule: str = "0 7 * * *"
    window: SendWindow = Field(default_factory=lambda: SendWindow(opens_at=time(8), closes_at=time(20)))
    manage_url: str = ""
    """Used only where the API gave no management link; "" means there is none."""
    link_hosts: tuple[LinkHost, ...] = ()
    first_run: Literal["baseline", "notify"] = "baseline"
    mail_test_rows: bool = False
    campaigns: Path | None = None
    """None: the campaigns that are shipped."""
    webhook_secret: tuple[SecretStr, ...] = ()
    """The current one first; a second one while secrets are rotated."""
    smtp: SmtpSettings | None = None
    guard: GuardSettings | None = None
    heartbeat_url: WebAddress | None = None
    """Told when a scheduled run starts, succeeds or fails; None: the common one."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        if isinstance(filled.get("sender"), str):
            filled.setdefault("reply_to", parseaddr(filled["sender"])[1])
        if isinstance(filled.get("webhook_secret"), str | SecretStr):
            filled["webhook_secret"] = [filled["webhook_secret"]]
        return filled

    @field_validator("manage_url")
    @classmethod
    def _safe_link(cls, text: str) -> str:
        return text and web_address(text)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError('is no time zone; write a name like "Europe/Budapest" or "UTC"') from error
        return name

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, text: str) -> str:
        try:
            cron_trigger(text, ZoneInfo("UTC"))
        except ValueError as error:
            raise ValueError(f'{error}; write it like "0 7 * * *", weekdays 0-7 with 0 and 7 = Sunday') from error
        return text

    @field_validator("on_behalf_of")
    @classmethod
    def _real_member(cls, member: str | None) -> str | None:
        if member is not None and (not member.strip() or not member.strip("0-")):
            raise ValueError("is the nil id; leave the setting out for the whole organization (contract v2, section 1)")
        return member

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_key()
        if self.on_behalf_of and self.provider == "qbitflow-v2":
            try:
                UUID(self.on_behalf_of)
            except ValueError as error:
                raise wrong("on_behalf_of", "is no UUID; API v2 names a member by the user's UUID") from error
        if self.manage_url and urlsplit(self.manage_url).hostname not in self.allowed_hosts:
            raise wrong("manage_url", "leads to a host that a mail may not link to; add the host to link_hosts")
        return self

    def _check_key(self) -> None:
        """Older keys, `sk_<digits>_`, do not tell their mode: `/me` does, later (contract v2, section 1)."""
        if self.provider == "billing-platform":
            return
        key = self.api_key.get_secret_value()
        if not key.startswith("sk_") or not key.isascii() or not key.isprintable() or " " in key:
            raise wrong("api_key", "is no API key; it must start with sk_ and have no spaces")
        shape = _KEY_SHAPE.match(key)
        if shape and shape["mode"] != self.mode:
            raise wrong(
                "mode",
                f'is {self.mode!r} but the key is a {shape["mode"]} key; use mode = "{shape["mode"]}" or another key',
            )

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @property
    def sender_address(self) -> str:
        """The bare address of `sender`: the envelope's MAIL FROM, and what a breaker is kept for."""
        return parseaddr(self.sender)[1]

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The hosts a mail may link to: `link_hosts` and the brand's own."""
        return frozenset({*self.link_hosts, urlsplit(self.brand.url).hostname or ""} - {""})


class Settings(BaseSettings):
    """Everything an operator can set. Built by `monitor.config.load_settings`, or from plain values in tests."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
    )

    state_dir: Path = Path("var")
    secret_key: SecretStr | None = None
    """Hexadecimal. For machines without a disk of their own: else a file is better, or nothing at all."""
    secret_key_file: Path | None = None
    templates_dir: Path | None = None
    database: DatabaseSettings = DatabaseSettings()
    smtp: SmtpSettings = SmtpSettings()
    guard: GuardSettings = GuardSettings()
    heartbeat_url: WebAddress | None = None
    alerts: AlertSettings = AlertSettings()
    web: WebSettings = WebSettings()
    accounts: dict[str, Account] = Field(min_length=1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed over: `load_settings` reads the environment it was given, never the process's own."""
        _ = settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _name_and_inherit(cls, values: object) -> object:
        if not isinstance(values, Mapping) or not isinstance(values.get("accounts"), Mapping):
            return values
        return {
            **values,
            "accounts": {name: _complete(name, table, values) for name, table in values["accounts"].items()},
        }

    @field_validator("accounts")
    @classmethod
    def _plain_names(cls, accounts: dict[str, Account]) -> dict[str, Account]:
        for name in accounts:
            if not _NAME_SHAPE.match(name):
                raise wrong(
                    name,
                    "is no account name; use a-z, 0-9 and single - or _ (it is part of URLs and variables)",
                )
        return accounts

    def account(self, name: str) -> Account:
        """The account of that name.

        Raises:
            ConfigError: there is none; the message lists those there are.
        """
        try:
            return self.accounts[name]
        except KeyError:
            known = ", ".join(sorted(self.accounts))
            raise ConfigError(f"accounts.{name}: there is no such account; there is: {known}") from None

    def smtp_for(self, account: Account | str) -> SmtpSettings:
        """The account's own mail server, else the common one."""
        return self._named(account).smtp or self.smtp

    def guard_for(self, account: Account | str) -> GuardSettings:
        """The common limits with the account's own over them."""
        return self._named(account).guard or self.guard

    def heartbeat_for(self, account: Account | str) -> str | None:
        """The account's own heartbeat address, else the common one, else None."""
        return self._named(account).heartbeat_url or self.heartbeat_url

    def _named(self, account: Account | str) -> Account:
        return self.account(account) if isinstance(account, str) else account


def _complete(name: str, table: Any, values: Mapping[str, Any]) -> Any:
    """An account's table with its name, and with the common tables under its own ones.

    A mail server that names its own host inherits nothing: the common password is not for another host.
    """
    if not isinstance(table, Mapping):
        return table
    complete = {**table, "name": name}
    for key in ("smtp", "guard"):
        own, common = complete.get(key), values.get(key)
        if isinstance(own, Mapping) and isinstance(common, Mapping) and "host" not in own:
            complete[key] = {**common, **own}
    return complete
