"""Fills a `Letter` from what is stored: every fact that a mail prints is decided here, none in a template.

A fact that is not known, not true any more at `now`, or not this kind's business is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from monitor.domain.amounts import Token, agreed_price, amounts_for, failure_is_current
from monitor.domain.calendar import deadline_of, trial_end_of
from monitor.domain.letter import Brand, Letter
from monitor.domain.model import CurrencySeen, Kind, Situation, Snapshot, Status, Told, Urgency
from monitor.domain.records import Episode
from monitor.domain.spending import limit_of

TAIL = 6
LONGEST_NAME = 60
_BILL_SLACK = timedelta(hours=1)
_NOTHING_TOLD = Told()
_FAILING = frozenset({Kind.PAYMENT_FAILED, Kind.MAX_AMOUNT_REACHED})
_ENDING = _FAILING | {Kind.TRIAL_EXPIRED}
_SPENDING = frozenset({Kind.SPENDING_LIMIT_NEAR, Kind.SPENDING_LIMIT_REACHED})
_TRIAL = frozenset({Kind.TRIAL_ENDING, Kind.TRIAL_EXPIRED, Kind.SUBSCRIPTION_CREATED})
_NO_NAME = re.compile(
    r"[@/\\<>{}\x00-\x1f\x7f]"
    r"|[\u202a-\u202e\u2066-\u2069\ud800-\udfff]"  # turns the direction of the text around it; halves of characters
    r"|\w\.[^\W\d_]{2}|https?:"  # "evil.example": mail clients make links of it
)


@dataclass(frozen=True, slots=True)
class Mailing:
    """What the outbox row and the account say about a mail, before its facts: which step, for whom, from whom."""

    kind: Kind
    variant: str
    step: str
    urgency: Urgency
    notification_id: str
    first_in_episode: bool
    locale: str
    zone: str
    brand: Brand
    sender: str
    reply_to: str
    recipient: str
    refusable: bool
    shared_address: bool = False
    """Several customers of this account have this address: nobody is called by name."""
    unsubscribe_url: str | None = None
    in_reply_to: str | None = None
    message_id: str = ""
    date_header: str = ""
    link_hosts: tuple[str, ...] | None = None


_REPEATED = tuple(field.name for field in fields(Mailing) if field.name != "shared_address")


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What is stored about one subscription, its customer and its product when the mail is made."""

    snapshot: Snapshot
    told: Told = _NOTHING_TOLD
    episode: Episode | None = None
    customer_name: str | None = None
    """The first name alone, as the API has it."""
    product_name: str | None = None
    product_price_usd: Decimal | None = None
    product_link: str | None = None
    """The way back after an end; already checked against the allow-list, as `manage_link` is."""
    currency: CurrencySeen | None = None
    """None: the snapshot's own."""
    manage_link: str | None = None
    gas: int = 0
    """The refund to expect with the next bill, in min units; 0 where it is not known."""


def fill_letter(mailing: Mailing, facts: StoredFacts, now: datetime) -> Letter:
    """The letter of this mail, true at `now` (aware UTC)."""
    return Letter(**subscription_facts(mailing, facts, now))


def frame_of(mailing: Mailing, customer_name: str | None, now: datetime) -> dict[str, Any]:
    """What a letter says whatever it is about, by the names of its fields. A letter is made once, of all its facts."""
    greeted = greeting_name(customer_name, shared_address=mailing.shared_address)
    return {name: getattr(mailing, name) for name in _REPEATED} | {"customer_name": greeted, "now": now}


def subscription_facts(mailing: Mailing, facts: StoredFacts, now: datetime) -> dict[str, Any]:
    """What a letter about a subscription says, by the names of its fields."""
    kind, currency = mailing.kind, _currency(facts)
    values = frame_of(mailing, facts.customer_name, now) | {
        "product": facts.product_name or mailing.brand.name,
        "price_usd": agreed_price(facts.snapshot, facts.product_price_usd),
        "period": facts.snapshot.frequency,
        "token": (currency.symbol or None) if currency else None,
        "manage_link": facts.manage_link,
        "product_link": facts.product_link,
        **_times(kind, facts, now),
        **_proof(facts, now),
    }
    if kind is Kind.RECOVERED:
        return values | _recovery(facts, values["last_bill_at"])
    if kind in _SPENDING:
        return values | _usage(facts)
    return values | _amounts(mailing, facts, values["price_usd"], now)


def greeting_name(name: str | None, *, shared_address: bool) -> str | None:
    """The name to greet with; None where several customers share the address, or it is no name.

    Anybody can type a name at a checkout: an address, a link or markup in it is not repeated under our
    signature.
    """
    cleaned = " ".join((name or "").split())
    if shared_address or not cleaned or len(cleaned) > LONGEST_NAME or _NO_NAME.search(cleaned):
        return None
    return cleaned


def tail_of(text: str | None) -> str | None:
    """The last six characters of a hash or wallet, without the prefix; None where there is nothing to show."""
    return (text or "").removeprefix("0x")[-TAIL:] or None


def _times(kind: Kind, facts: StoredFacts, now: datetime) -> dict[str, Any]:
    """Instants by kind. What a mail announces lies ahead; an announcement that has passed is left out."""
    snapshot = facts.snapshot
    deadline = deadline_of(snapshot)
    ends_at = snapshot.next_billing_at or snapshot.current_period_end_at
    retries = kind in _FAILING and not deadline.any_moment
    billed = snapshot.status is Status.ACTIVE and kind is not Kind.PAYMENT_FAILED
    return {
        "next_bill_at": _ahead(snapshot.next_billing_at, now) if billed else None,
        "next_attempt_at": _ahead(snapshot.next_attempt_at, now) if retries else None,
        "cancellation_at": _ahead(deadline.cancellation_at, now) if kind in _ENDING else None,
        "paid_until_at": _paid_until(snapshot),
        "trial_end_at": trial_end_of(snapshot) if kind in _TRIAL else None,
        "ends_at": _ahead(ends_at, now) if kind is Kind.STOPPED else None,
        "ended_at": snapshot.cancelled_at if kind is Kind.CANCELLED else None,
        "paused_since_at": facts.episode.evidence_at if facts.episode and kind is Kind.PAUSED else None,
        "failed_at": _failed_at(snapshot, facts.told, now) if kind in _FAILING else None,
        "balance_checked_at": facts.told.balance_checked_at if _is_short(kind, facts) else None,
    }


def _proof(facts: StoredFacts, now: datetime) -> dict[str, Any]:
    """What lets a customer tell this mail from a fraud: the last bill, the tails, where they signed up."""
    snapshot, told = facts.snapshot, facts.told
    known = told.bill_at is not None and told.bill_at <= now and not _is_older(told.bill_at, snapshot.last_billing_at)
    return {
        "last_bill_at": told.bill_at if known else snapshot.last_billing_at,
        "last_bill_tx": told.bill_tx if known else None,
        "last_bill_usd": told.bill_usd if known else None,
        "sub_tail": tail_of(snapshot.subscription_hash),
        "wallet_tail": tail_of(snapshot.wallet),
        "reference": snapshot.reference,
        "signed_up_at": snapshot.created_at,
    }


def _amounts(mailing: Mailing, facts: StoredFacts, price_usd: Decimal | None, now: datetime) -> dict[str, Any]:
    amounts = amounts_for(
        kind=mailing.kind,
        variant=mailing.variant,
        snapshot=facts.snapshot,
        told=facts.told,
        price_usd=price_usd,
        currency=_currency(facts),
        gas=facts.gas,
        now=now,
    )
    return {
        "amount_due": amounts.due,
        "amount_due_as_of": amounts.as_of,
        "amounts_uncertain": amounts.uncertain,
        "allowance_left": amounts.allowance_left,
        "approve_more": amounts.approve_more,
        "approve_total": amounts.approve_total,
        "maximum_now": amounts.maximum_now,
        "maximum_to_set": amounts.maximum_to_set,
    }


def _usage(facts: StoredFacts) -> dict[str, Any]:
    """The figures of the period; a token amount, or the next bill's date, would be about something else."""
    usage = facts.told.usage
    if usage is None:
        return {}
    return {
        "next_bill_at": None,
        "used_usd": usage.used_usd,
        "limit_usd": limit_of(facts.snapshot, usage),
        "period_ends_at": usage.period_end_at,
        "measured_at": usage.as_of,
    }


def _recovery(facts: StoredFacts, paid_at: datetime | None) -> dict[str, Any]:
    """What healed it: a bill newer than the episode is the last bill; else the allowance that was approved."""
    episode, currency = facts.episode, _currency(facts)
    if episode is None or episode.kind is not Situation.LOW_ON_FUNDS:
        return {}
    if paid_at is not None and (episode.opened_bill_at is None or paid_at > episode.opened_bill_at):
        return {}
    if currency is None or facts.snapshot.allowance is None:
        return {}
    return {"approved": Token.of(currency).left(facts.snapshot.allowance)}


def _currency(facts: StoredFacts) -> CurrencySeen | None:
    return facts.currency or facts.snapshot.currency


def _paid_until(snapshot: Snapshot) -> datetime | None:
    """The end of the paid period; None where no bill was ever paid, since then nothing was."""
    return None if snapshot.last_billing_at is None else snapshot.current_period_end_at


def _failed_at(snapshot: Snapshot, told: Told, now: datetime) -> datetime | None:
    """When the bill failed first; without dunning, when the paid period of a past due subscription ended."""
    if snapshot.failing_since_at is not None:
        return snapshot.failing_since_at
    if failure_is_current(snapshot, told):
        return told.failure_at
    end_at = snapshot.current_period_end_at
    return end_at if snapshot.status is Status.PAST_DUE and end_at is not None and end_at <= now else None


def _is_older(bill_at: datetime, last_billing_at: datetime | None) -> bool:
    """Whether a newer bill was paid than the one we were told; their two clocks may differ a little."""
    return last_billing_at is not None and bill_at < last_billing_at - _BILL_SLACK


def _is_short(kind: Kind, facts: StoredFacts) -> bool:
    """Whether the wallet was found to hold too little for the very bill that comes next."""
    short_for_at = facts.told.balance_short_for_at
    return kind is Kind.LOW_ON_FUNDS and short_for_at is not None and short_for_at == facts.snapshot.next_billing_at


def _ahead(at: datetime | None, now: datetime) -> datetime | None:
    return at if at is not None and at > now else None
