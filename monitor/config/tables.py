"""The tables of the settings file as types, all but an account's: what may be written, and what each value must be.

A value error's text says what is wrong and how to mend it; `complaints` adds the setting's name and its place.
"""

from __future__ import annotations

import re
from datetime import time
from decimal import Decimal
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from monitor.config.values import BindAddress, Fraction, Network, WebAddress, is_loopback, wrong

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


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


CONNECTIONS = 8
"""Connections to one mail server at once, unless somebody writes otherwise."""


class SmtpSettings(Table):
    """How mail leaves. In clear only to this machine, and never with a password (RFC 8314)."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(1025, ge=1, le=65535)
    security: Literal["none", "starttls", "tls"] = "none"
    username: str | None = None
    password: SecretStr | None = None
    connections: int = Field(CONNECTIONS, ge=1, le=20)
    """At once, of each process for each account: also the most mails that are in doubt after a crash of one."""

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
    public_url: WebAddress | None = None
    """Where the pages are reached from outside, for `check`; None: nobody knows."""
    proxies: tuple[Network, ...] = ("127.0.0.1", "::1")
    """What stands before the pages, and tells by X-Forwarded-For whom it stands before."""


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
