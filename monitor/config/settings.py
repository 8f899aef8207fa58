"""Everything an operator can set, as one type. Reads no file and no environment: that is `load`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from monitor.config.account import Account
from monitor.config.tables import AlertSettings, DatabaseSettings, GuardSettings, SmtpSettings, WebSettings
from monitor.config.values import WebAddress, wrong
from monitor.errors import ConfigError

ENV_PREFIX = "MONITOR__"
_NAME_SHAPE = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*\Z")


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
