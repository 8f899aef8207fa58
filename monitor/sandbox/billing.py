"""What time does to a subscription: bills, retries, the end of a trial, the end of a period.

Statuses and their ends follow contract v2, 2.4; the bill itself is `chain.charge`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from monitor.sandbox import chain
from monitor.sandbox.entities import Action, Dunning, Failure, Reason, Status, Subscription, Topic

if TYPE_CHECKING:
    from monitor.sandbox.world import World

LIVING = (Status.TRIAL, Status.TRIAL_EXPIRED, Status.ACTIVE, Status.PAST_DUE, Status.PAUSED, Status.STOPPED)


def next_wake_at(world: World, sub: Subscription) -> datetime | None:
    """The next instant at which time alone changes `sub` or is worth an event; None if never."""
    rules = world.rules
    match sub.status:
        case Status.TRIAL | Status.ACTIVE:
            due_at = sub.next_billing_at
            if due_at is None or sub.announced_for_at == due_at:
                return due_at
            return max(due_at - rules.announce, min(world.now, due_at))
        case Status.PAST_DUE if sub.dunning is not None:
            limit_at = sub.dunning.failing_since_at + rules.limit
            return min(sub.dunning.next_attempt_at or limit_at, limit_at)
        case Status.TRIAL_EXPIRED if sub.period_end_at is not None:
            return sub.period_end_at + rules.trial_grace
        case Status.STOPPED:
            return sub.next_billing_at
        case _:
            return None


def wake(world: World, sub: Subscription) -> None:
    """Do what is due for `sub` now, and plan what comes next."""
    due = sub.next_billing_at is not None and world.now >= sub.next_billing_at
    match sub.status:
        case Status.TRIAL if due:
            world.change(sub, status=Status.TRIAL_EXPIRED, action=Action.CONFIRM_TRIAL)
        case Status.ACTIVE if due:
            attempt(world, sub)
        case Status.TRIAL | Status.ACTIVE:
            announce(world, sub)
        case Status.TRIAL_EXPIRED:
            end(world, sub, Reason.TRIAL_NOT_CONVERTED)
        case Status.PAST_DUE:
            attempt(world, sub)
        case Status.STOPPED:
            end(world, sub, sub.cancel_reason or Reason.CUSTOMER)
        case _:
            pass
    world.plan(sub)


def announce(world: World, sub: Subscription) -> None:
    """Tell that a bill, or a trial's end, is near. Changes nothing that a read shows."""
    sub.announced_for_at = sub.next_billing_at
    if sub.status is Status.TRIAL:
        world.log(Topic.UPCOMING_BILL, sub, trial_ending=True)
        return
    amount, grant = world.amount_of(sub), world.grant_of(sub)
    refund = world.refund_of(sub.wallet.currency)
    world.log(
        Topic.UPCOMING_BILL,
        sub,
        balance_sufficient=grant.balance >= amount,
        allowance_sufficient=not chain.allowance_too_low(amount, grant, refund),
    )


def attempt(world: World, sub: Subscription) -> None:
    """Try the bill that is due: paid, or failed and tried again, or failed for the last time."""
    amount = world.amount_of(sub)
    if sub.obstacle is not None:
        fail(world, sub, amount, sub.obstacle)
        return
    outcome = chain.charge(amount, world.grant_of(sub), world.refund_of(sub.wallet.currency))
    if outcome.category is None:
        settle(world, sub, amount, outcome)
    else:
        fail(world, sub, amount, outcome.category)


def settle(world: World, sub: Subscription, amount: int, paid: chain.Charge) -> None:
    """The bill was paid: the calendar goes on from the date it was due, however late it is."""
    due_at = sub.next_billing_at or world.now
    bill = world.record_bill(sub, amount, paid.refund, due_at)
    sub.wallet.balance -= paid.from_balance
    sub.allowance -= paid.from_allowance
    sub.last_amount = amount
    next_at = chain.next_due_at(due_at, sub.frequency)
    sub.last_billing_at, sub.next_billing_at, sub.period_end_at = world.now, next_at, next_at
    sub.dunning, sub.obstacle = None, None
    world.change(sub, status=Status.ACTIVE, action=_action_for_next_bill(world, sub))
    world.log(Topic.BILLED, sub, bill=bill)


def fail(world: World, sub: Subscription, amount: int, category: chain.Category) -> None:
    """The bill failed. After the last attempt, or 7 days, the subscription ends."""
    now, rules, before = world.now, world.rules, sub.dunning
    attempts = before.failed_attempts + 1 if before else 1
    since_at = before.failing_since_at if before else now
    over_maximum = category is chain.Category.MAX_AMOUNT_EXCEEDED
    awaiting_at = (before.awaiting_maximum_since_at if before else None) or now
    remaining = max(0, rules.attempts - attempts) if now < since_at + rules.limit else 0
    dunning = Dunning(
        bill_n=before.bill_n if before else world.new_bill_number(),
        failed_attempts=attempts,
        remaining_attempts=remaining,
        failing_since_at=since_at,
        category=category,
        next_attempt_at=now + rules.spacing if remaining else None,
        awaiting_maximum_since_at=awaiting_at if over_maximum else None,
    )
    price = sub.price_usd or sub.product.price_usd
    failure = Failure(len(world.failures), now, sub, dunning.bill_n, attempts, category, amount, price)
    world.note_failure(failure)
    world.change(sub, status=Status.PAST_DUE, action=_action_for(category), dunning=dunning)
    world.log(
        Topic.BILLING_FAILED,
        sub,
        failure=failure,
        next_attempt_at=dunning.next_attempt_at,
        remaining_attempts=remaining,
    )
    if not remaining:
        end(world, sub, Reason.BILLING_FAILED)


def end(world: World, sub: Subscription, reason: Reason) -> None:
    """Cancelled, for good: no next bill, nothing to do, no dunning."""
    world.change(
        sub,
        status=Status.CANCELLED,
        action=None,
        dunning=None,
        cancel_reason=reason,
        cancelled_at=world.now,
        next_billing_at=None,
    )


def judge_allowance(world: World, sub: Subscription) -> None:
    """Set or clear "top up the allowance" of an active subscription, as the next bill would find it."""
    if sub.status is not Status.ACTIVE or sub.action not in (None, Action.TOP_UP_ALLOWANCE):
        return
    action = _action_for_next_bill(world, sub)
    if action is not sub.action:
        world.change(sub, action=action)


def _action_for_next_bill(world: World, sub: Subscription) -> Action | None:
    refund = world.refund_of(sub.wallet.currency)
    if chain.allowance_too_low(world.amount_of(sub), world.grant_of(sub), refund):
        return Action.TOP_UP_ALLOWANCE
    return None


def _action_for(category: chain.Category) -> Action | None:
    """What the vendor asks for after a failed bill: only what the customer can do on the management page."""
    return {
        chain.Category.MAX_AMOUNT_EXCEEDED: Action.RAISE_MAXIMUM,
        chain.Category.ALLOWANCE_EXHAUSTED: Action.TOP_UP_ALLOWANCE,
    }.get(category)
