"""Short forms for tables, where a line counts many mails: the ledger's own sentences carry one mail's values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from monitor.domain.halt import Halt, HaltRule
from monitor.domain.words import CAUSES, RULES, UNKNOWN, moment, name_of, sentence

_VARIANTS: Mapping[str, str] = {
    "allowance": "the allowance covers no further bill",
    "balance": "the wallet holds too little for the next bill",
    "other": "for a reason the API does not name",
    "customer": "by the customer",
    "merchant": "by the merchant",
    "billing_failed": "after the last failed bill",
    "trial_not_converted": "the trial was never confirmed",
    "merchant_closed": "the merchant closed the product",
    "inactive_on_chain": "it is not active on the chain any more",
    "billed": "the bill was paid after our warning",
    "approved": "enough was approved after our warning",
}
_ONE_REASON: Mapping[str, str] = {
    "max_amount_reached": "the bill is above what they allow",
    "trial_ending": "the trial ends soon, unconfirmed",
    "trial_expired": "the trial is over, unconfirmed",
    "paused": "a confirmation: they paused it",
    "recovered": "the trouble is over that we wrote about",
    "subscription_created": "somebody has just subscribed",
    "payment_succeeded": "a payment arrived",
    "payment_pending_long": "it is being processed for a day and more",
    "payment_expired": "nobody finished it in time",
    "one_off_failed": "it did not go through, and nobody has tried again",
    "spending_limit_near": "at least 80 percent of their own limit is used",
    "spending_limit_reached": "all of their own limit is used",
}
"""Kinds of mail whose variant tells no reason."""

_SHORT: Mapping[str, str] = {
    "already_told": "they were told when it was stopped",
    "baseline": "was there before the first run",
    "by_hand": "held by hand",
    "capped": "this address had its mails for 24 hours",
    "deferred": "the mail server asked to try later",
    "ended": "the subscription ended before the mail left",
    "expired": "it would come too late to be of use",
    "guard": "the guard holds its batch",
    "healed": "it healed before the mail left",
    "not_due_yet": "its bill moved; it comes due later",
    "limit_told": "they were told that the limit is reached",
    "not_billed": "the subscription is not billed now",
    "operator_decides": "only a person may release this kind",
    "per_address": "one address would get too many urgent mails",
    "period_over": "the billing period is over",
    "poisoned": "it could not be made",
    "recovered": "it recovered before the mail left",
    "rejected": "an operator rejected it",
    "replaced": "something newer took its place",
    "returned": "goes with the next pass",
    "skipped_late": "it came due too long ago",
    "stale": "waits until the subscription can be read again",
    "superseded": "it was not true any more",
    "unknown_state": "its state is not known now",
    "usage_lowered": "a later report lowered the usage",
    "usage_stale": "its usage was measured too long ago",
    "unmailable": "the address cannot be mailed",
    "window": "waits for the sending hours",
}

HALTS: Mapping[HaltRule, str] = {
    HaltRule.NO_RUN_YET: "nothing is known of this account yet: run `monitor run` first",
    HaltRule.RESTORED: (
        "{why}; run `monitor run`, look at the held batch with `monitor outbox batches`, and approve it to go on"
    ),
    HaltRule.PAUSED_BY_HAND: "the account is paused by hand: `monitor resume {account}` lets its mail go on",
    HaltRule.SENDER_PAUSED: "the sender pauses until {until}: {why}",
    HaltRule.SERVER_UNREACHABLE: "the mail server cannot be reached: {why}",
}


def kind_name(kind: str) -> str:
    """`Low on funds`."""
    return name_of(kind).capitalize()


def mail_reason(kind: str, variant: str) -> str:
    """Why a mail of this kind goes, in words that do not repeat its name."""
    if kind == "stopped" and variant == "customer":
        return "a confirmation: they stopped it"
    return _VARIANTS.get(variant) or _ONE_REASON.get(kind) or CAUSES.get(variant, CAUSES[UNKNOWN])


def rule_words(rule: str | None) -> str:
    """Why mails did not go, or not yet, for many at once."""
    if not rule:
        return ""
    return _SHORT.get(rule) or sentence(rule)


def rule_sentence(rule: str | None, why: str | None, until: datetime, not_after: datetime | None, zone: str) -> str:
    """Why one mail would not go, or not yet, with its values."""
    if rule not in RULES:
        return rule_words(rule)
    local = ZoneInfo(zone)
    values = {"until": moment(until, local), "due_at": moment(until, local), "not_after": moment(not_after, local)}
    return sentence(rule, why=why or "", **values).removesuffix(": ")


def halt_words(halt: Halt, account: str, zone: str) -> str:
    """Why a delivery pass ended early, with what to do where people must act."""
    until = moment(halt.until, ZoneInfo(zone))
    return HALTS[halt.rule].format(account=account, why=halt.why or UNKNOWN, until=until)


def tail(ext_id: str) -> str:
    """`…0000fe`: the end of a long id."""
    return f"…{ext_id[-6:]}"
