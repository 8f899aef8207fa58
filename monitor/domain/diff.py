"""Compare two snapshots and name what changed.

Equality is judged on normalised fields only: the vendor's `updatedAt` alone is no change, and nobody promises that it
moves with every change (contract v2, known unknowns).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec

from monitor.domain.model import Cause, Situation, Snapshot

_IGNORED = {"provider_updated_at", "currency"}
_DIGEST = 16


_AMOUNTS = {"allowance", "maximum"}
_amounts = attrgetter("allowance", "maximum")
_compared: Callable[[Snapshot], tuple[Any, ...]] = attrgetter(
    *(f.name for f in fields(Snapshot) if f.name not in _IGNORED | _AMOUNTS)
)
_written = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened, ready to become an event. `old` and `new` carry no personal data."""

    kind: str
    old: str | None = None
    new: str | None = None
    cause: Cause | None = None


def state_hash(snapshot: Snapshot) -> bytes:
    """Sixteen bytes that are equal exactly when two snapshots say the same, customer included.

    Amounts of 256 bits are written as text: they are longer than any number of MessagePack.
    """
    allowance, maximum = _amounts(snapshot)
    told = (str(allowance), str(maximum), *_compared(snapshot))
    return blake2b(_written(told), digest_size=_DIGEST).digest()


def reading(*names: str) -> bytes:
    """Who reads rows, for `raw_mark`: another version of the program may see other things in the same bytes."""
    return blake2b("|".join(names).encode(), digest_size=_DIGEST).digest()


def raw_mark(raw: bytes, reader: bytes) -> bytes:
    """Sixteen bytes that tell a row's own bytes, read by this `reading`: the same mark is the same snapshot."""
    return blake2b(raw, digest_size=_DIGEST, person=reader).digest()


def situation_change(old: Situation | None, new: Situation, cause: Cause | None) -> Change:
    """The customer faces something else now; the event is named after the new situation."""
    return Change(new.value, None if old is None else old.value, new.value, cause)


def quiet_changes(known: Snapshot, observed: Snapshot) -> tuple[Change, ...]:
    """Changes worth a line in the history even when the situation stays: bills, top-ups, limits, terms, owner.

    A falling allowance and a moved date are the ordinary course of billing and make no event. Of two providers only
    what both tell in the same words is compared: a bill.
    """
    changes = []
    if _advanced(known, observed):
        changes.append(Change("bill_paid", _text(known.last_billing_at), _text(observed.last_billing_at)))
    if known.provider != observed.provider:
        return tuple(changes)
    if known.allowance is not None and observed.allowance is not None and observed.allowance > known.allowance:
        changes.append(Change("allowance_raised", str(known.allowance), str(observed.allowance)))
    if known.maximum != observed.maximum:
        changes.append(Change("maximum_changed", _text(known.maximum), _text(observed.maximum)))
    if known.price_usd != observed.price_usd:
        changes.append(Change("price_changed", _text(known.price_usd), _text(observed.price_usd)))
    if known.customer_ext_id != observed.customer_ext_id:
        changes.append(Change("customer_changed", known.customer_ext_id, observed.customer_ext_id))
    if known.status_raw != observed.status_raw:
        changes.append(Change("status_changed", known.status_raw, observed.status_raw))
    if known.action_raw != observed.action_raw:
        changes.append(Change("action_changed", known.action_raw, observed.action_raw))
    return tuple(changes)


def _advanced(known: Snapshot, observed: Snapshot) -> bool:
    if observed.last_billing_at is None:
        return False
    return known.last_billing_at is None or observed.last_billing_at > known.last_billing_at


def _text(value: object) -> str | None:
    return None if value is None else str(value)
