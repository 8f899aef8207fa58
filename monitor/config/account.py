"""An account's settings as a type: one merchant's connection, and what must fit together in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from email.utils import parseaddr
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator

from monitor.config.billing import BillingSettings
from monitor.config.crontab import cron_trigger
from monitor.config.tables import BrandSettings, GuardSettings, SendWindow, SmtpSettings, Table
from monitor.config.values import LinkHost, Mailbox, WebAddress, web_address, wrong

_KEY_SHAPE = re.compile(r"sk_[0-9a-fA-F-]{36}_(?P<mode>test|live)_")
_MEMBER_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LOCALE_SHAPE = re.compile(r"[a-z]{2,3}([_-][A-Za-z0-9]{2,8})*")


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
    locale: str = "en"
    schedule: str = "0 7 * * *"
    window: SendWindow = Field(default_factory=lambda: SendWindow(opens_at=time(8), closes_at=time(20)))
    manage_url: str = ""
    """Used only where the API gave no management link; "" means there is none."""
    link_hosts: tuple[LinkHost, ...] = ()
    first_run: Literal["baseline", "notify"] = "baseline"
    mail_test_rows: bool = False
    payments: bool = True
    """Whether payments are pulled into the database too, where the API lists any."""
    optional_mails: tuple[Literal["payment_succeeded", "subscription_created"], ...] = ()
    """Mails that the platform or the shop may send by itself, and that go only where they are named here."""
    campaigns: Path | None = None
    """None: the campaigns that are shipped."""
    read_at_once: int = Field(8, ge=1, le=64)
    """How many subscriptions are read at once where the API has no list (v1)."""
    daily_requests: int | None = Field(None, ge=100)
    """The most requests of one day's runs where the API has no list (v1); None: as many as it takes."""
    run_minutes: int = Field(240, ge=5, le=1440)
    """How long a run may ask a slow API, waits included; what is left is the next run's."""
    billing: BillingSettings | None = None
    """Only with provider = "billing-platform", which needs it."""
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

    @field_validator("locale")
    @classmethod
    def _known_shape(cls, tag: str) -> str:
        if _LOCALE_SHAPE.fullmatch(tag) is None:
            raise ValueError('is no language; write it like "en", "hu" or "pt-BR"')
        return tag

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
        self._check_billing()
        self._check_single_reads()
        self._check_optional_mails()
        if self.on_behalf_of and self.provider == "qbitflow-v2":
            try:
                UUID(self.on_behalf_of)
            except ValueError as error:
                raise wrong("on_behalf_of", "is no UUID; API v2 names a member by the user's UUID") from error
        if self.on_behalf_of and self.provider == "qbitflow-v1" and not _MEMBER_NUMBER.fullmatch(self.on_behalf_of):
            raise wrong("on_behalf_of", "is no number; API v1 names a member by the user's number")
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

    def _check_billing(self) -> None:
        if self.provider == "billing-platform" and self.billing is None:
            raise wrong("billing", "is missing; the billing platform needs a table with its tenant_id")
        if self.provider != "billing-platform" and self.billing is not None:
            raise wrong("billing", f"is for the billing platform, and this account is {self.provider}; remove it")

    def _check_single_reads(self) -> None:
        """What only an API without a list heeds must not stand where nothing reads it: a limit that binds nobody."""
        for setting in ("read_at_once", "daily_requests"):
            if self.provider != "qbitflow-v1" and setting in self.model_fields_set:
                raise wrong(setting, f"is for qbitflow-v1, and this account is {self.provider}; remove it")

    def _check_optional_mails(self) -> None:
        """A mail that could never be sent must not be asked for."""
        if "payment_succeeded" in self.optional_mails and not self.payments:
            raise wrong("optional_mails", "names payment_succeeded, and payments is false; nobody would see a payment")
        if "subscription_created" in self.optional_mails and self.provider == "billing-platform":
            raise wrong("optional_mails", "names subscription_created, and the billing platform has no subscriptions")

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
