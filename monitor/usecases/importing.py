"""Bring in from files what an API does not tell: ids of subscriptions, and how customers are reached.

Both are idempotent: the same file again changes nothing. A line that cannot be used costs itself and is named.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.errors import ConfigError, UnmailableAddressError
from monitor.mail.address import normalise_address
from monitor.providers.base import Capability
from monitor.store.accounts import AccountRow, ensure_account
from monitor.store.batches import collecting_batch
from monitor.store.customers import (
    AT_ONCE,
    change_customer,
    count_without_address,
    insert_customers,
    load_customers,
    lock_subscriptions_of,
)
from monitor.store.discovery import FoundIn, add_discovered
from monitor.store.notices import unaddressed
from monitor.store.outbox import restage
from monitor.usecases.context import Account, Tools, travelled_now

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_SUBSCRIPTION = re.compile(rf"(?:(sub|payg)@)?({_UUID})")
_LOCALE = re.compile(r"[a-z]{2,3}([_-][A-Za-z0-9]{2,8})*")
_LONGEST_ID = 100
_COLUMNS = {
    "customer": ("customer", "customer_id", "customerid", "id"),
    "address": ("address", "email", "e-mail"),
    "locale": ("locale", "language"),
    "zone": ("zone", "timezone", "time_zone"),
}


@dataclass(slots=True)
class Imported:
    """What became of a file's lines. `bad`: line numbers with the reason; what stands there is not repeated."""

    lines: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    kept: int = 0
    """Customers whose address the API told already, and another one: it stays unless it is to be replaced."""
    without_address: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


async def import_ids(tools: Tools, account: Account, lines: Iterable[str]) -> Imported:
    """Remember the subscription ids of a CSV or of plain lines; the next run reads them.

    The id is the first field that looks like one; one line of headings may stand above. Raises `ConfigError` for an
    account whose API lists its subscriptions by itself.
    """
    if Capability.DISCOVERY not in account.provider.capabilities:
        raise ConfigError(
            f"accounts.{account.name}.provider: {account.provider_name} finds its subscriptions by itself; "
            "ids are imported for qbitflow-v1 only"
        )
    done = Imported()
    ids: dict[str, None] = {}
    for number, fields in rows_of(lines):
        found = next((ext_id for one in fields if (ext_id := subscription_id(one.strip())) is not None), None)
        if found is not None:
            ids[found] = None
            done.lines += 1
        elif number > 1:
            done.lines += 1
            done.bad.append((number, "no subscription id in it (sub@ and a UUID)"))
    async with tools.db.write() as conn:
        row = await ensure_account(conn, account.name, account.provider_name, account.mode)
        now = travelled_now(tools.clock, row, None)
        done.new = await add_discovered(conn, row.id, ids, FoundIn.IMPORT, now)
    done.unchanged = done.lines - len(done.bad) - done.new
    return done


async def import_contacts(
    tools: Tools, account: Account, lines: Iterable[str], *, replace_addresses: bool = False
) -> Imported:
    """Write address, locale and zone of customers by their id; an empty field says nothing.

    An address that is known stays where the file has another one, unless `replace_addresses`. Raises `ConfigError` for
    a file without the needed headings.
    """
    done = Imported()
    contacts = dict(_contacts(lines, done, tools.address_mac))
    async with tools.db.write() as conn:
        row = await ensure_account(conn, account.name, account.provider_name, account.mode)
        now = travelled_now(tools.clock, row, None)
        ids = list(contacts)
        await lock_subscriptions_of(conn, row.id, ids)
        for start in range(0, len(ids), AT_ONCE):
            some = {ext_id: contacts[ext_id] for ext_id in ids[start : start + AT_ONCE]}
            await _write(conn, row, some, done, now, replace_addresses=replace_addresses)
        await _revive_notices(conn, row, {ext_id for ext_id, values in contacts.items() if values.get("email")}, now)
        done.without_address = await count_without_address(conn, row.id)
    return done


async def _write(
    conn: AsyncConnection,
    row: AccountRow,
    contacts: dict[str, dict[str, object]],
    done: Imported,
    now: datetime,
    *,
    replace_addresses: bool,
) -> None:
    stored = await load_customers(conn, row.id, list(contacts))
    fresh = [{"ext_id": ext_id, **_whole(values)} for ext_id, values in contacts.items() if ext_id not in stored]
    await insert_customers(conn, row.id, fresh)
    done.new += len(fresh)
    for ext_id, known in stored.items():
        values = contacts[ext_id]
        other = known.email is not None and values.get("email", known.email) != known.email
        if other and not replace_addresses:
            values = {name: value for name, value in values.items() if name not in {"email", "address_mac"}}
            done.kept += 1
        changed = {name: value for name, value in values.items() if known._mapping[name] != value}
        if changed and known.erased_at is None:
            await change_customer(conn, known.id, now, **changed)
            done.changed += 1
        elif not other:
            done.unchanged += 1


async def _revive_notices(conn: AsyncConnection, row: AccountRow, addressed: set[str], now: datetime) -> None:
    """What waited for an address goes on: no subscription is judged again that would bring it back."""
    ids = [
        notification_id for notification_id, customer in await unaddressed(conn, row.id, now) if customer in addressed
    ]
    if ids:
        batch_id = await collecting_batch(conn, row.id, "live", now)
        for notification_id in ids:
            await restage(conn, notification_id, batch_id=batch_id, next_try_at=now)


def _whole(values: dict[str, object]) -> dict[str, object]:
    """All columns, since rows are inserted together."""
    return {name: values.get(name) for name in ("email", "address_mac", "locale", "zone")}


def _contacts(
    lines: Iterable[str], done: Imported, address_mac: Callable[[str], str]
) -> Iterator[tuple[str, dict[str, object]]]:
    """(customer id, columns) of the good lines; of two lines about one customer the last counts."""
    rows = rows_of(lines)
    _, headings = next(rows, (0, []))
    places = _places([one.strip().casefold() for one in headings])
    for number, fields in rows:
        done.lines += 1
        given = {name: fields[at].strip() for name, at in places.items() if at < len(fields)}
        try:
            values = _columns(given, address_mac)
        except (ValueError, UnmailableAddressError) as error:
            done.bad.append((number, str(error)))
            continue
        yield given["customer"], values


def _places(headings: list[str]) -> dict[str, int]:
    places = {
        name: headings.index(heading) for name, known in _COLUMNS.items() for heading in known if heading in headings
    }
    if "customer" not in places or len(places) < 2:
        raise ConfigError(
            "the file has no headings to go by: its first line names the columns customer, address, locale, zone "
            "(customer, and at least one of the others)"
        )
    return places


def _columns(given: dict[str, str], address_mac: Callable[[str], str]) -> dict[str, object]:
    customer = given.get("customer", "")
    if not customer or len(customer) > _LONGEST_ID or not customer.isprintable():
        raise ValueError("no customer id")
    values: dict[str, object] = {}
    if address := given.get("address"):
        normalise_address(address)
        values |= {"email": address, "address_mac": address_mac(address)}
    if locale := given.get("locale"):
        if not _LOCALE.fullmatch(locale):
            raise ValueError('the locale is none; write it like "en" or "pt_BR"')
        values["locale"] = locale
    if zone := given.get("zone"):
        try:
            ZoneInfo(zone)
        except (LookupError, OSError, ValueError) as error:
            raise ValueError('the zone is none; write it like "Europe/Budapest"') from error
        values["zone"] = zone
    return values


def subscription_id(text: str) -> str | None:
    """The id that this text is, `sub@` put before a bare UUID; None where it is none of QBitFlow's."""
    found = _SUBSCRIPTION.fullmatch(text)
    return None if found is None else f"{found.group(1) or 'sub'}@{found.group(2)}"


def rows_of(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the lines that hold something."""
    reader = csv.reader(line.replace("\0", "") for line in lines)
    for fields in reader:
        if any(one.strip() for one in fields):
            yield reader.line_num, fields
