"""The words of the ledger: one sentence for every rule that the product can write, and plain words for its names.

People read these; programs read the enum values and rule names that stand beside them. A rule without a sentence here
fails a test, so that no mail is ever held back "because of `xyz`".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

UNKNOWN = "unknown"
NOTHING = "—"
_PLACES = 2

RULES: Mapping[str, str] = {
    # silence from the beginning (intents)
    "baseline": "the first contact with this account only recorded what was there; `monitor adopt` unmutes it",
    "test_row": "a test row is never mailed to customers (setting `mail_test_rows`)",
    "customer_deleted": "the merchant deleted this customer",
    "no_customer": "it names no customer",
    "skipped_late": "found too late: it was due {due_at} and worth sending until {not_after}",
    "already_told": "the customer was told of this end when the subscription was stopped",
    "usage_stale": "its usage was measured more than 48 hours ago; `monitor import-usage` brings newer figures",
    "limit_told": "the customer was told already that the limit of this period is reached",
    "subscribed_again": "the same customer has a live subscription to the same product again",
    # the episode ended first (episodes)
    "recovered": "a paid bill or a raised allowance proved the recovery first",
    "healed": "the problem was gone before the mail left",
    "replaced": "the customer faced something else by then, which has its own mail",
    "renewed": "a bill was paid in between: a new episode began, with its own mail",
    "ended": "the subscription ended first",
    "closed": "the episode ended first",
    "usage_lowered": "a later report put the usage below 80 percent of the limit before the mail left",
    "period_over": "the billing period was over before the mail left",
    "not_billed": "the subscription was not being billed any more before the mail left",
    # asked again just before it would have left (still due)
    "expired": "it was worth sending until {not_after}, and that had passed",
    "superseded": "it was not true any more: {why}",
    "not_due_yet": "the bill or its cause moved: this step comes due {until}",
    "customer_changed": "it belongs to somebody else now",
    "tried_again": "the customer tried again: a later payment of the same order was made or is under way",
    "in_all_clear": "the all-clear of this subscription tells of the same bill",
    "action_done": "the customer has done it already; the next attempt to bill will tell",
    "erased": "this person's data was erased",
    "no_address": "no address of this customer is known",
    "suppressed": "this address must not be mailed (`monitor suppressions list`)",
    "unsubscribed": "the customer refused reminders",
    "too_late": "less than an hour would have been left to act",
    "unmailable": "the address cannot be mailed: {why}",
    "unknown_state": "the API shows a state that this version does not know; it is looked at again {until}",
    "stale": "its facts are too old and the API did not answer; it is asked again {until}",
    "window": "mails leave in the sending window only, which opens {until}",
    "capped": "this address had its mails of the last 24 hours; the next may leave {until}",
    # waits for a person
    "guard": "the mass-change guard held the whole batch: {why}",
    "operator_decides": "this kind of mail always waits for an operator's decision",
    "per_address": "one address would get too many urgent mails in 24 hours: {why}",
    "by_hand": "held by hand: {why}",
    "rejected": "an operator rejected the batch: {why}",
    # the mail server's part (post, dispatch)
    "deferred": "the mail server asked for a later try; the next is {until}",
    "refused": "the mail server refused it for good",
    "gave_up": "the mail server deferred it until no try was left",
    "returned": "the sender had to stop before this mail's turn; no try was counted",
    "worker_died": "the worker that held it died",
    "reply_lost": "the connection broke before the server's last reply was seen",
    "poisoned": "the mail could not be made: {why}",
}
"""Rule -> why a mail did not go, or not yet. Fields in braces are values: instants in the account's zone, details."""

ENDINGS: Mapping[str, str] = {
    "recovered": "recovered, with proof: a bill was paid or the allowance raised",
    "healed": "the problem is gone; no paid bill proves more than that",
    "replaced": "the customer faces something else now",
    "renewed": "a bill was paid in between, and the same trouble began anew",
    "ended": "the subscription ended",
    "usage_lowered": "a later report puts the usage below 80 percent of the limit",
    "period_over": "the billing period is over",
    "not_billed": "the subscription is not billed now: it is paused, stopped or on trial",
}
"""Close reason of an episode -> in words."""

NAMES: Mapping[str, str] = {
    "cancelled": "cancelled",
    "unknown": "unknown state",
    "stopped": "stopped",
    "paused": "paused",
    "max_amount_reached": "maximum amount reached",
    "payment_failed": "payment failed",
    "trial_expired": "trial expired",
    "low_on_funds": "low on funds",
    "trial_ending": "trial ending",
    "healthy": "healthy",
    "spending_limit_near": "spending limit near",
    "spending_limit_reached": "spending limit reached",
    "recovered": "all clear",
    "subscription_created": "welcome",
    "payment_succeeded": "receipt",
    "payment_pending_long": "payment pending for long",
    "payment_expired": "payment not finished",
    "one_off_failed": "one-off payment failed",
    "past_due": "past due",
    "trial": "trial",
    "active": "active",
    "first": "first mail",
    "reminder": "reminder",
    "last_call": "last call",
}
"""Situations, kinds of mail, statuses and steps."""

CAUSES: Mapping[str, str] = {
    "insufficient_balance": "the wallet held too little",
    "allowance_exhausted": "the allowance was used up",
    "approval_revoked": "the approval was revoked",
    "max_amount_exceeded": "the price passed the customer's maximum",
    "other": "another reason that the API does not name",
    "unknown": "nobody has told why yet",
}

ACTIONS: Mapping[str, str] = {
    "top_up_allowance": "a larger allowance",
    "raise_maximum": "a higher maximum amount",
    "confirm_trial": "a confirmation of the trial",
    "unknown": "something that this version does not know",
}

STATES: Mapping[str, str] = {
    "staged": "waits for the guard",
    "held": "held",
    "ready": "waits",
    "merged": "part of another mail",
    "claimed": "is being sent",
    "in_data": "handed over, no reply yet",
    "ambiguous": "may have arrived",
    "sent": "sent",
    "voided": "not sent",
    "failed": "failed",
    "unsettled": "may have arrived",
}

EVENTS: Mapping[str, str] = {
    "created": "New subscription, {new}",
    "bill_paid": "A bill was paid ({new})",
    "allowance_raised": "Allowance raised from {old} to {new}",
    "maximum_changed": "Maximum amount changed from {old} to {new}",
    "price_changed": "Price changed from {old} to {new}",
    "customer_changed": "The subscription has another customer: {old} before, {new} now",
    "status_changed": "The API's status went from {old} to {new}",
    "action_changed": "The API asks for {new} (before: {old})",
    "cause_changed": "The failed bill has another cause now: {new}",
    "spending_limit_near": "The spending limit is near: {new} used",
    "spending_limit_reached": "The spending limit is reached: {new} used",
    "spending_limit_clear": "The spending limit is no concern any more: {new}",
    "gone": "The API does not know this subscription any more; silence is no proof of an end, so no mail",
}

PAYMENT_EVENTS: Mapping[str, str] = {
    "payment_succeeded": "The payment arrived",
    "payment_failed": "The payment failed",
    "payment_expired": "The payment was not finished in time",
    "payment_cancelled": "The payment was cancelled",
    "payment_pending_long": "The payment has been processed for a day",
}

PAYMENT_STATUSES: Mapping[str, str] = {
    "created": "opened",
    "pending": "being processed",
    "succeeded": "paid",
    "failed": "failed",
    "expired": "not finished",
    "cancelled": "cancelled",
    "unknown": "in a state that this version does not know",
}

ATTEMPTS: Mapping[str, str] = {
    "started": "The mail was being handed over",
    "sent": "The mail server took it",
    "deferred": "The mail server asked for a later try",
    "refused": "The mail server refused it",
    "ambiguous": "No last reply was seen: it may have arrived",
    "held": "An operator held it",
    "released": "An operator released it",
    "rejected": "An operator rejected it",
    "retried": "An operator had it tried again",
}
"""Outcome of an attempt, or of an operator's decision about one mail, in words."""


def name_of(value: str | None) -> str:
    """A kind, situation, status or step as people say it; a word that is not known keeps its own letters."""
    return NOTHING if not value else NAMES.get(value, value.replace("_", " "))


def sentence(rule: str | None, **values: str) -> str:
    """Why, in words; a value that nobody gave reads "unknown", a rule of a newer version is quoted."""
    if not rule:
        return ""
    text = RULES.get(rule)
    if text is None:
        return f'a rule named "{rule}", which this version does not know'
    filled = text.format_map(_Values(values))
    return filled.removesuffix(f": {UNKNOWN}")


def why_failed(cause: str | None, told: str | None) -> str:
    """Why a payment failed: our word for the cause, or what the API `told` where we have none of our own."""
    ours = None if cause in {"other", UNKNOWN} else CAUSES.get(cause or "")
    return ours or told or NOTHING


def mark_of(state: str) -> str:
    """A state of the outbox in words."""
    return STATES.get(state, state)


def masked(address: str | None) -> str:
    """An address that can be recognised but not mailed: `a***@example.org`."""
    if not address:
        return NOTHING
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}" if at else f"{address[:1]}***"


def moment(at: datetime | None, zone: ZoneInfo) -> str:
    """An instant on the wall clock of `zone`: `20 Nov 2026, 14:00 CET`. None is nothing."""
    if at is None:
        return NOTHING
    local = at.astimezone(zone)
    return f"{local.day} {_MONTHS[local.month - 1]} {local:%Y, %H:%M %Z}"


def brief(at: datetime | None, zone: ZoneInfo) -> str:
    """The same without the zone, for tables whose heading names it: `20 Nov 2026 14:00`."""
    return NOTHING if at is None else moment(at, zone).rpartition(" ")[0].replace(",", "")


def distance(at: datetime, now: datetime) -> str:
    """`in 3 h`, `2 d ago`: how far away, under a week; else nothing."""
    seconds = (at - now).total_seconds()
    size = abs(seconds)
    if size >= 7 * 86_400:
        return ""
    if size < 60:
        return "now"
    amount, unit = next((int(size // length), unit) for length, unit in _UNITS if size >= length)
    return f"in {amount} {unit}" if seconds > 0 else f"{amount} {unit} ago"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 mail`, `30,214 mails`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def in_digits(value: Decimal) -> str:
    """Digits as the mails print them, exact: `49.90`, `0.0042`; no more places than the value has, and 0 is `0`."""
    whole, _, places = f"{value:f}".partition(".")
    kept = places.rstrip("0").ljust(min(_PLACES, len(places)), "0")
    return f"{whole}.{kept}" if kept and value else whole


def tokens(units: int | str | None, decimals: int | None, symbol: str | None) -> str:
    """An amount of the smallest unit in whole tokens, exact: `4.20 USDC`. None is unknown, never zero."""
    if units is None or units == "None":
        return UNKNOWN
    if decimals is None or symbol is None:
        return f"{units} units"
    # Made from text, it is exact: arithmetic would round an unlimited approval, which has 78 digits.
    return f"{in_digits(Decimal(f'{units}E-{decimals}'))} {symbol}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


class _Values(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return UNKNOWN
