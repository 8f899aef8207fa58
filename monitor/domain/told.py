"""Fold what facts tell into what is known of a subscription: the newest of each kind wins, whatever comes first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from monitor.domain.model import Cause, Fact, FailureSeen, Told

ONE_FAILURE = timedelta(hours=1)
"""An event and a row of the failures list about one attempt are dated by different parts of the vendor; attempts are
hours apart."""
NOTHING_TOLD = Told()


def fold_facts(told: Told, facts: Iterable[Fact]) -> Told:
    """`told` with these facts; facts older than what is known of their kind change nothing."""
    for fact in sorted(facts, key=lambda one: one.at):
        told = _fold(told, fact)
    return told


def fold_failure(told: Told, failure: FailureSeen) -> Told:
    """`told` with a failed bill of the failures list; of one attempt it knows more than an event does, so it wins."""
    known_at = told.failure_at
    if known_at is not None and failure.at < known_at and not _completes(told, failure):
        return told
    return replace(
        told,
        failure_cause=failure.cause,
        failure_at=failure.at if known_at is None else max(known_at, failure.at),
        failure_attempt=failure.attempt,
        failure_usd=failure.attempted_usd,
        failure_units=failure.attempted_units,
    )


def raise_peak(told: Told, allowance: int | None) -> Told:
    """`told` with the largest allowance ever seen (forecast rules, R_known)."""
    if allowance is None or (told.allowance_peak is not None and told.allowance_peak >= allowance):
        return told
    if told is NOTHING_TOLD:  # the row of a first sync, a hundred thousand times
        return Told(allowance_peak=allowance)
    return replace(told, allowance_peak=allowance)


def _completes(told: Told, failure: FailureSeen) -> bool:
    """What is known of that attempt comes from an event, a little later than the list dates it."""
    if told.failure_at is None or told.failure_attempt is not None:
        return False
    agrees = told.failure_cause in {failure.cause, Cause.UNKNOWN}
    return agrees and told.failure_at - failure.at <= ONE_FAILURE


def _repeats(told: Told, fact: Fact) -> bool:
    """The event of an attempt that the failures list told about already, amounts included."""
    if told.failure_at is None or told.failure_attempt is None:
        return False
    return fact.cause in {told.failure_cause, Cause.UNKNOWN} and fact.at - told.failure_at <= ONE_FAILURE


def _fold(told: Told, fact: Fact) -> Told:
    if fact.manage_link is not None and (told.manage_link_at is None or fact.at >= told.manage_link_at):
        told = replace(told, manage_link=fact.manage_link, manage_link_at=fact.at)
    if fact.balance_sufficient is not None:
        if told.balance_checked_at is None or fact.at >= told.balance_checked_at:
            short_for = None if fact.balance_sufficient else fact.bill_at
            told = replace(told, balance_short_for_at=short_for, balance_checked_at=fact.at)
    elif (
        fact.bill_ext_id is not None
        and fact.bill_at is not None
        and (told.bill_at is None or fact.bill_at >= told.bill_at)
    ):
        told = replace(
            told, bill_tx=fact.bill_tx, bill_at=fact.bill_at, bill_usd=fact.bill_usd, bill_units=fact.bill_units
        )
    newer = told.failure_at is None or fact.at > told.failure_at
    if fact.cause is not None and newer and not _repeats(told, fact):
        told = replace(
            told,
            failure_cause=fact.cause,
            failure_at=fact.at,
            failure_attempt=None,
            failure_usd=fact.bill_usd,
            failure_units=None,
        )
    return told
