"""Five hundred generated lives of a subscription, against a second account of the rules written from their prose.

The oracle below shares no code with what it checks: it knows spells and mails by its own keys, and is asked after every
change and every delivery which mail of which spell went to whom.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

import pytest

from monitor.domain.decide import Policy
from monitor.domain.model import Action, CancelReason, Cause, CustomerSeen, Snapshot, Status, Told
from tests.scale import sized
from tests.unit.domain.scenes import ACTIVE, DAY, DUE, HOUR, MINUTE, TRIAL, Ledger

HISTORIES = sized(2_000, 200)
LENGTH = 45
UNITS = 50
FAILING = ("payment_failed", "max_amount_reached")
MONEY = (*FAILING, "low_on_funds")
NO_DEADLINE = {"paused": 2, "stopped": 7, "cancelled": 7}


# -- the oracle ------------------------------------------------------------------------------------------------------


@dataclass
class Spell:
    key: tuple
    began: datetime
    happened: datetime
    paid: datetime | None
    allowance: int
    muted: bool
    ends: datetime | None = None
    mails: dict[str, str] = field(default_factory=dict)
    """Customer -> waiting, sent, silent (for good), back (never sent; due again)."""
    keeps: dict[str, datetime] = field(default_factory=dict)
    warned: dict[str, datetime] = field(default_factory=dict)
    cleared: dict[str, datetime | None] = field(default_factory=dict)
    """Customer -> until when the waiting all-clear is worth sending; None: settled."""


def cause_in(row: Snapshot, told: Told) -> str:
    if row.action is Action.RAISE_MAXIMUM or row.awaiting_maximum_since_at:
        return "max_amount_exceeded"
    return told.failure_cause.value if tells_of_this_bill(row, told) else "unknown"


def tells_of_this_bill(row: Snapshot, told: Told) -> bool:
    if told.failure_at is None or row.status is not Status.PAST_DUE:
        return False
    after_the_last_bill = row.last_billing_at is None or told.failure_at > row.last_billing_at
    return after_the_last_bill and told.failure_at >= row.failing_since_at - HOUR


def faced(row: Snapshot, told: Told, now: datetime) -> str:
    """What the customer faces: first rule that matches."""
    if row.status is Status.CANCELLED:
        return "cancelled"
    if row.status is Status.UNKNOWN or (row.action is Action.UNKNOWN and row.status in {Status.ACTIVE, Status.TRIAL}):
        return "unknown"
    if row.status in {Status.STOPPED, Status.PAUSED, Status.TRIAL_EXPIRED}:
        return row.status.value
    if row.status is Status.TRIAL:
        return "trial_ending" if now >= row.current_period_end_at - 7 * DAY else "healthy"
    if row.status is Status.PAST_DUE:
        over = cause_in(row, told) == "max_amount_exceeded"
        return "max_amount_reached" if over else "payment_failed"
    asked = {Action.RAISE_MAXIMUM: "max_amount_reached", Action.TOP_UP_ALLOWANCE: "low_on_funds"}
    return asked.get(row.action, "healthy")


def key_of(facing: str, row: Snapshot) -> tuple:
    own = {
        "payment_failed": (row.last_billing_at,),
        "max_amount_reached": (row.last_billing_at, row.maximum),
        "low_on_funds": (row.last_billing_at, row.allowance),
        "cancelled": ("final",),
    }
    return (facing, *own.get(facing, (row.current_period_end_at,)))


def end_of(facing: str, row: Snapshot) -> datetime | None:
    """Until when the customer can act."""
    if facing in FAILING:
        if row.failing_since_at is None or row.remaining_attempts == 0:
            return None
        week = row.failing_since_at + 7 * DAY
        return min(week, row.next_attempt_at) if row.remaining_attempts == 1 else week
    if facing == "trial_expired":
        return row.current_period_end_at + 7 * DAY
    return {"low_on_funds": row.next_billing_at, "trial_ending": row.current_period_end_at}.get(facing)


def visibly_done(facing: str, row: Snapshot, told: Told) -> bool:
    if row.status is not Status.PAST_DUE or not tells_of_this_bill(row, told):
        return False
    if facing == "payment_failed" and told.failure_cause is Cause.ALLOWANCE_EXHAUSTED:
        return row.allowance > UNITS
    if facing == "max_amount_reached" and told.failure_cause is Cause.MAX_AMOUNT_EXCEEDED and row.action is None:
        return row.maximum > UNITS
    return False


class Oracle:
    """Who must be mailed about what, and when."""

    def __init__(self, *, baseline: bool) -> None:
        self.baseline = baseline
        self.spells: dict[tuple, Spell] = {}
        self.open: Spell | None = None
        self.stop_told = False
        self.row: Snapshot | None = None
        self.told = Told()

    def see(self, row: Snapshot, told: Told, now: datetime) -> None:
        first, self.row, self.told = self.row is None, row, told
        facing = faced(row, told, now)
        if facing == "unknown":
            return
        spell = self.open
        if spell is None or spell.key[0] != facing or (facing in MONEY and self._paid_since(spell)):
            if spell is not None:
                self._close(spell, facing, now)
            self.open = None if facing == "healthy" else self._begin(facing, spell, now, first=first)
        if self.open is not None:
            self.open.ends = end_of(facing, row)
            self._plan(self.open, facing, now)

    def deliver(self, now: datetime) -> list[tuple]:
        """(kind, spell, customer) of what goes now."""
        went = []
        facing = faced(self.row, self.told, now)
        owner = self.row.customer_ext_id
        spell = self.open
        for customer, state in list(spell.mails.items()) if spell is not None else ():
            if state != "waiting":
                continue
            moves = facing != "unknown" and spell.ends is not None and spell.key[0] not in NO_DEADLINE
            until = spell.ends - HOUR if moves else spell.keeps[customer]
            if now > until:
                spell.mails[customer] = "silent"
            elif facing == "unknown" or now < self._due(spell, facing):
                if facing != "unknown" and visibly_done(facing, self.row, self.told):
                    spell.mails[customer] = "back"
            elif visibly_done(facing, self.row, self.told) or customer != owner:
                spell.mails[customer] = "back"
            else:
                spell.mails[customer] = "sent"
                spell.warned[customer] = now
                self.stop_told |= facing == "stopped"
                went.append((facing, spell.key, customer))
        return went + self._all_clears(facing, owner, now)

    def _all_clears(self, facing: str, owner: str, now: datetime) -> list[tuple]:
        went = []
        for spell in self.spells.values():
            for customer, until in spell.cleared.items():
                if until is None or (facing == "unknown" and now <= until):
                    continue
                spell.cleared[customer] = None
                if now <= until and facing == "healthy" and self.open is None and customer == owner:
                    spell.warned[customer] = now
                    went.append(("recovered", spell.key, customer))
        return went

    def _paid_since(self, spell: Spell) -> bool:
        paid = self.row.last_billing_at
        return paid is not None and (spell.paid is None or paid > spell.paid)

    def _close(self, spell: Spell, facing: str, now: datetime) -> None:
        for customer, state in spell.mails.items():
            if state == "waiting":
                spell.mails[customer] = "back"
        spell.cleared = dict.fromkeys(spell.cleared)
        kind = spell.key[0]
        topped_up = kind == "low_on_funds" and self.row.allowance > spell.allowance
        proved = kind in MONEY and (self._paid_since(spell) or topped_up)
        owner = self.row.customer_ext_id
        warned = spell.warned.get(owner)
        if facing != "healthy" or not proved or warned is None or owner in spell.cleared:
            return
        if kind == "low_on_funds" and now - warned > 7 * DAY:
            return
        proofs = [self.row.provider_updated_at]
        if self._paid_since(spell):
            proofs.append(self.row.last_billing_at)
        until = max(proofs) + 2 * DAY
        spell.cleared[owner] = None if now > until else until

    def _begin(self, facing: str, before: Spell | None, now: datetime, *, first: bool) -> Spell:
        key, row = key_of(facing, self.row), self.row
        happened = row.cancelled_at if facing == "cancelled" else row.provider_updated_at
        if key in self.spells:
            self.spells[key].happened = happened
            return self.spells[key]
        same_bill = before is not None and before.key[0] in FAILING and facing in FAILING
        same_bill = same_bill and not self._paid_since(before)
        began = row.failing_since_at if facing in FAILING else now
        self.spells[key] = Spell(
            key=key,
            began=min(began or now, now),
            happened=happened,
            paid=row.last_billing_at,
            allowance=row.allowance,
            muted=(first and self.baseline) or (same_bill and before.muted),
        )
        return self.spells[key]

    def _due(self, spell: Spell, facing: str) -> datetime:
        if facing == "payment_failed":
            cause = cause_in(self.row, self.told)
            if cause == "unknown":
                return spell.began + 2 * HOUR
            if cause == "other" and (self.row.failed_attempts or 0) < 2:
                return spell.began + DAY
        if facing == "low_on_funds" and spell.ends is not None:
            return max(spell.began, spell.ends - 30 * DAY)
        return spell.began

    def _plan(self, spell: Spell, facing: str, now: datetime) -> None:
        owner, row = self.row.customer_ext_id, self.row
        state = spell.mails.get(owner)
        if state in {"waiting", "sent", "silent"} or now < self._due(spell, facing):
            return
        days = NO_DEADLINE.get(facing)
        if facing == "cancelled" and row.cancel_reason in {
            CancelReason.BILLING_FAILED,
            CancelReason.TRIAL_NOT_CONVERTED,
        }:
            days = 14
        if days is not None:
            until = spell.happened + days * DAY
        else:
            until = now + 7 * DAY if spell.ends is None else spell.ends - HOUR
        told = facing == "cancelled" and row.cancel_reason is CancelReason.CUSTOMER and self.stop_told
        if spell.muted or told:
            spell.mails[owner] = state or "silent"
        elif visibly_done(facing, row, self.told):
            spell.mails[owner] = "back"
        elif now > until:
            spell.mails[owner] = state or "silent"
        else:
            spell.mails[owner] = "waiting"
            spell.keeps[owner] = until


# -- lives -----------------------------------------------------------------------------------------------------------

JUMPS = [
    timedelta(),
    MINUTE,
    20 * MINUTE,
    HOUR,
    2 * HOUR,
    5 * HOUR,
    13 * HOUR,
    DAY,
    2 * DAY,
    3 * DAY,
    8 * DAY,
    61 * DAY,
]
CAUSES = [Cause.INSUFFICIENT_BALANCE, Cause.ALLOWANCE_EXHAUSTED, Cause.APPROVAL_REVOKED, Cause.OTHER]
CAUSES += [Cause.MAX_AMOUNT_EXCEEDED, None]
CALM = {
    "failed_attempts": None,
    "remaining_attempts": None,
    "failing_since_at": None,
    "next_attempt_at": None,
    "awaiting_maximum_since_at": None,
    "action": None,
}


class Life:
    """One subscription to which things happen at random."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.now = DUE + dice.choice([0, 1, 2, 3]) * HOUR
        born_a_trial = dice.random() < 0.15
        self.row = replace(TRIAL if born_a_trial else ACTIVE, allowance=49, maximum=60, provider_updated_at=self.now)
        self.row = replace(self.row, current_period_end_at=self.now + 9 * DAY, next_billing_at=self.now + 9 * DAY)
        self.told = Told()

    def live(self) -> None:
        """Let some time pass and one thing happen."""
        self.now += self.dice.choice(JUMPS)
        happen = self.dice.choices(
            [self.nothing, self.fail, self.retry, self.explain, self.heal, self.pay, self.limit, self.ask, self.leave],
            weights=[3, 5, 3, 3, 4, 4, 4, 4, 3],
        )[0]
        before = self.row
        happen()
        if self.row != before and self.dice.random() < 0.9:
            self.row = replace(self.row, provider_updated_at=self.now)

    def nothing(self) -> None:
        pass

    def fail(self) -> None:
        remaining = self.dice.choice([None, 4, 4, 1, 0])
        self.row = replace(self.row, **CALM, status=Status.PAST_DUE)
        self.row = replace(
            self.row,
            failed_attempts=1,
            remaining_attempts=remaining,
            failing_since_at=self.now,
            next_attempt_at=self.now + DAY if remaining else None,
        )
        self._blame(self.dice.choice(CAUSES))

    def retry(self) -> None:
        if self.row.status is Status.PAST_DUE:
            left = self.dice.choice([3, 1, 0])
            self.row = replace(
                self.row,
                failed_attempts=(self.row.failed_attempts or 0) + 1,
                remaining_attempts=left,
                next_attempt_at=self.now + DAY if left else None,
            )
            self._blame(self.dice.choice(CAUSES))

    def explain(self) -> None:
        if self.row.status is Status.PAST_DUE:
            self._blame(self.dice.choice(CAUSES))

    def heal(self) -> None:
        self.row = replace(self.row, **CALM, status=Status.ACTIVE)

    def pay(self) -> None:
        self.row = replace(
            self.row,
            **CALM,
            status=Status.ACTIVE,
            last_billing_at=self.now,
            next_billing_at=self.now + 30 * DAY,
            current_period_end_at=self.now + 30 * DAY,
        )

    def limit(self) -> None:
        if self.dice.random() < 0.6:
            self.row = replace(self.row, allowance=self.dice.choice([10, 49, 50, 51]))
        else:
            self.row = replace(self.row, maximum=self.dice.choice([50, 51, 60]))

    def ask(self) -> None:
        words = [None, Action.TOP_UP_ALLOWANCE, Action.TOP_UP_ALLOWANCE, Action.RAISE_MAXIMUM, Action.UNKNOWN]
        bill_at = self.now + self.dice.choice([HOUR, 9 * DAY, 40 * DAY])
        self.row = replace(self.row, action=self.dice.choice(words), next_billing_at=bill_at)

    def leave(self) -> None:
        status = self.dice.choice(
            [
                Status.PAUSED,
                Status.PAUSED,
                Status.STOPPED,
                Status.CANCELLED,
                Status.UNKNOWN,
                Status.TRIAL,
                Status.TRIAL_EXPIRED,
                None,
            ]
        )
        if status is None:
            other = self.dice.choice(["c-1", "c-2"])
            owner = CustomerSeen(other, f"{other}@customer.example")
            self.row = replace(self.row, customer_ext_id=other, customer=owner)
            return
        reasons = [reason for reason in CancelReason if reason is not CancelReason.MERCHANT_CLOSED]
        self.row = replace(
            self.row,
            **CALM,
            status=status,
            cancel_reason=self.dice.choice(reasons),
            cancelled_at=self.now - self.dice.choice([timedelta(), 8 * DAY]),
        )

    def _blame(self, cause: Cause | None) -> None:
        if cause is not None:
            self.told = Told(failure_cause=cause, failure_at=self.now, failure_attempt=1, failure_units=UNITS)


def play(seed: int) -> tuple[int, int]:
    """One life in both accounts; returns how many mails went and of how many spells."""
    dice = Random(seed)
    life = Life(dice)
    baseline = dice.random() < 0.3
    born = ACTIVE.created_at
    policy = Policy("acme", baselined_at=born if baseline else born - DAY)
    ledger, oracle = Ledger(policy), Oracle(baseline=baseline)
    names: dict[str, tuple] = {}
    count = 0
    for step in range(LENGTH):
        if step or baseline:
            life.live()
        ledger.see(life.row, life.now, life.told)
        oracle.see(life.row, life.told, life.now)
        if dice.random() < 0.6:
            life.now += dice.choice([timedelta(), MINUTE, 6 * HOUR])
            told_of_owner = {"address": life.row.customer.email}
            went = ledger.deliver(life.now, **told_of_owner)
            expected = sorted(oracle.deliver(life.now), key=repr)
            found = []
            for intent in went:
                keys = [
                    key for kind, key, customer in expected if kind == intent.kind and customer == intent.customer_key
                ]
                key = names.setdefault(intent.episode_id, keys[0] if keys else ("nobody expected this",))
                found.append((intent.kind.value, key, intent.customer_key))
            assert sorted(found, key=repr) == expected, f"seed {seed}, step {step}, {life.now}: {life.row}"
            count += len(went)
    assert len(set(names.values())) == len(names), f"seed {seed}: two episodes of one spell"
    return count, len(names)


@pytest.mark.parametrize("part", range(10))
def test_generated_lives_get_exactly_the_mails_that_the_prose_asks_for(part):
    size = HISTORIES // 10
    played = [play(seed) for seed in range(part * size, (part + 1) * size)]
    assert sum(mails for mails, _ in played) > size
    assert sum(spells for _, spells in played) > size
