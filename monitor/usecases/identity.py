"""Whose key it is: asked before the first page of every run, and by `check`."""

from __future__ import annotations

from datetime import timedelta

from monitor.clock import Clock
from monitor.domain.model import Identity
from monitor.errors import ConfigError
from monitor.store.accounts import AccountRow
from monitor.usecases.context import Account

CLOCK_TOLERANCE = timedelta(minutes=5)


def check_identity(clock: Clock, account: Account, row: AccountRow | None, identity: Identity) -> None:
    """Refuse a key that is not this account's, and a clock that is wrong; `row` is None before first contact.

    Raises `ConfigError` with the setting to fix.
    """
    where = f"accounts.{account.name}"
    skew = clock.now() - identity.api_at
    if abs(skew) > CLOCK_TOLERANCE:
        raise ConfigError(
            f"{where}: this machine's clock and the API's differ by {abs(skew).total_seconds():.0f} s "
            f"(more than {CLOCK_TOLERANCE.total_seconds():.0f} s): set this machine's time, for example with NTP",
        )
    if identity.mode is not None and identity.mode is not account.mode:
        raise ConfigError(
            f"{where}.mode: the account says {account.mode.value}, the key is a {identity.mode.value} key: "
            f'write mode = "{identity.mode.value}" or use the other key',
        )
    if row is not None and row.baselined_at is not None and row.mode != account.mode.value:
        # Its rows would be missed, the first sight of the others be news, and its travel in time go on.
        raise ConfigError(
            f"{where}.mode: this account's customers were recorded in {row.mode} mode: give the "
            f"{account.mode.value} account a name of its own, [accounts.{account.name}-{account.mode.value}]",
        )
    same_api = row is not None and row.provider == account.provider_name  # v1's numbers are no UUIDs of v2
    if row is not None and same_api and row.space_uuid is not None and row.space_uuid != identity.space_uuid:
        raise ConfigError(
            f"{where}.api_key: this key belongs to another space than the one recorded in the database: "
            "use the key of the same merchant, or another account name for the new one",
        )
