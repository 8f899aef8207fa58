"""Tell an event in a sentence, and the facts of a subscription in words, with the amounts of its token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from monitor.domain.model import Situation, Status
from monitor.domain.spending import CLEAR, SPENDING, limit_of
from monitor.domain.words import ACTIONS, CAUSES, ENDINGS, EVENTS, NOTHING, UNKNOWN, in_digits, moment, name_of, tokens
from monitor.store.subscriptions import StoredSubscription

_SITUATIONS = frozenset(situation.value for situation in Situation if situation not in SPENDING)
_AMOUNTS = frozenset({"allowance_raised", "maximum_changed"})


@dataclass(frozen=True, slots=True)
class Terms:
    """How instants and amounts of one subscription are shown; a token may be unknown."""

    zone: ZoneInfo
    symbol: str | None
    decimals: int | None

    def amount(self, units: int | str | None) -> str:
        """Whole tokens, exact."""
        return tokens(units, self.decimals, self.symbol)


def tell_event(row: Any, terms: Terms) -> str:
    """What happened (`kind`, `old`, `new`, `cause` of `row`), as one sentence without its full stop."""
    if row.kind in _SITUATIONS:
        cause = f": {CAUSES[row.cause]}" if row.cause in CAUSES else ""
        before = f" (before: {name_of(row.old)})" if row.old and row.old != row.kind else ""
        return f"{name_of(row.kind).capitalize()}{cause}{before}"
    text: str = EVENTS.get(row.kind, row.kind.replace("_", " "))
    return text.format(old=_value(row.kind, row.old, terms), new=_value(row.kind, row.new, terms))


def facts_of(stored: StoredSubscription, terms: Terms) -> dict[str, str]:
    """What is known of the subscription now, in the order in which it helps to understand."""
    snapshot, zone = stored.snapshot, terms.zone
    price = snapshot.price_usd
    status = name_of(snapshot.status)
    if snapshot.status is Status.UNKNOWN:
        status = f'"{snapshot.status_raw}", a word that this version does not know'
    facts = {
        "status": status,
        "the API asks for": NOTHING if snapshot.action is None else ACTIONS[snapshot.action],
        "price": UNKNOWN if price is None else f"{in_digits(price)} USD{_every(snapshot.frequency)}",
        "allowance": terms.amount(snapshot.allowance),
        "maximum": terms.amount(snapshot.maximum),
        "last bill": moment(snapshot.last_billing_at, zone),
        "next bill": moment(snapshot.next_billing_at, zone),
        "failing since": moment(snapshot.failing_since_at, zone),
        "attempts left": NOTHING if snapshot.remaining_attempts is None else str(snapshot.remaining_attempts),
        "next attempt": moment(snapshot.next_attempt_at, zone),
        "access until": moment(snapshot.current_period_end_at, zone),
        "spending limit": _limit(stored, zone),
        "management link": "known" if stored.told.manage_link else UNKNOWN,
    }
    if snapshot.test:
        facts["test"] = "a test subscription"
    return {name: value for name, value in facts.items() if value != NOTHING}


def _value(kind: str, value: str | None, terms: Terms) -> str:
    if kind in _AMOUNTS:
        return terms.amount(value)
    if value is None:
        return "nothing"
    if kind == "bill_paid":
        return moment(datetime.fromisoformat(value), terms.zone)
    if kind == "price_changed":
        return f"{value} USD"
    if kind in SPENDING:
        used, _, limit = value.partition("/")
        return f"{used} of {limit} USD"
    if kind == CLEAR:
        return ENDINGS.get(value, value)
    if kind == "cause_changed":
        return CAUSES.get(value, value)
    return name_of(value) if kind == "created" else value


def _limit(stored: StoredSubscription, zone: ZoneInfo) -> str:
    usage = stored.told.usage
    if usage is None:
        return NOTHING
    limit = limit_of(stored.snapshot, usage)
    known = "a limit that nobody told" if limit is None else f"{in_digits(limit)} USD"
    return (
        f"{in_digits(usage.used_usd)} of {known} used on {moment(usage.as_of, zone)}; "
        f"the period ends {moment(usage.period_end_at, zone)}"
    )


def _every(frequency: timedelta | None) -> str:
    if frequency is None:
        return ""
    return f" every {frequency.days} days" if frequency >= timedelta(days=1) else f" every {frequency}"
