"""Put exact numbers of subscriptions into exact situations, so that a test knows the truth.

Where it can be, the world's own rules do it: the wallet is drained and the bill comes due now. What takes a week by the
rules (a cancellation after five failures) is set directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta

from monitor.sandbox import acts, billing
from monitor.sandbox.chain import Category
from monitor.sandbox.entities import Reason, Status, Subscription
from monitor.sandbox.naming import mix
from monitor.sandbox.seeding import make_trial
from monitor.sandbox.world import RefusedError, World

TRIAL_ENDS_IN = timedelta(hours=40)


def cause(world: World, wanted: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Put exactly `n` subscriptions into each situation, now; the keys are those of `SITUATIONS`.

    Healthy ones are taken, with their own wallet and a living customer; the trial situations take trials that end
    later, and healthy ones when there are too few; `recovered` takes failing ones. Returns the ids by situation.
    Raises RefusedError when there are too few, KeyError for a situation that does not exist.
    """
    unknown = set(wanted) - set(SITUATIONS)
    if unknown:
        raise KeyError(f"no such situation: {', '.join(sorted(unknown))}")
    healthy, trials, failing = _pools(world)
    caused: dict[str, tuple[str, ...]] = {}
    for situation, count in wanted.items():
        pools = {"recovered": (failing,), **dict.fromkeys(_FROM_TRIAL, (trials, healthy))}
        taken: list[Subscription] = []
        for pool in pools.get(situation, (healthy,)):
            while pool and len(taken) < count:
                taken.append(pool.pop())
        if len(taken) < count:
            raise RefusedError(f"{situation}: {count} wanted, only {len(taken)} subscriptions fit")
        for sub in taken:
            SITUATIONS[situation](world, sub)
            world.plan(sub)
        caused[situation] = tuple(world.id_of(sub) for sub in taken)
    return caused


def _pools(world: World) -> tuple[list[Subscription], list[Subscription], list[Subscription]]:
    """Healthy, long trials, failing: each in an order that looks random and follows from the seed."""
    sharing = Counter(sub.wallet.n for sub in world.living())
    healthy, trials, failing = [], [], []
    for sub in sorted(world.living(), key=lambda sub: mix(world.seed, sub.n, 23)):
        if sub.customer is None or sub.customer.deleted or sub.status_text or sharing[sub.wallet.n] > 1:
            continue
        if sub.status is Status.PAST_DUE and sub.dunning is not None:
            failing.append(sub)
        elif sub.action is not None or sub.next_billing_at is None:
            continue
        elif sub.status is Status.TRIAL and sub.next_billing_at > world.now + timedelta(hours=48):
            trials.append(sub)
        elif sub.status is Status.ACTIVE and sub.maximum is not None and sub.next_billing_at > world.now:
            healthy.append(sub)
    return healthy, trials, failing


def _bill_now(world: World, sub: Subscription) -> None:
    """The period ends now, and its bill is tried."""
    sub.next_billing_at = sub.period_end_at = world.now
    billing.wake(world, sub)


def _low_on_funds(world: World, sub: Subscription) -> None:
    sub.allowance = world.amount_of(sub)  # equal is not enough
    billing.judge_allowance(world, sub)


def _max_amount_reached(world: World, sub: Subscription) -> None:
    sub.maximum = world.amount_of(sub)  # equal is too much
    _bill_now(world, sub)


def _insufficient_balance(world: World, sub: Subscription) -> None:
    acts.drain_wallet(sub.wallet)
    _bill_now(world, sub)


def _allowance_exhausted(world: World, sub: Subscription) -> None:
    sub.allowance = world.amount_of(sub)
    _bill_now(world, sub)


def _approval_revoked(world: World, sub: Subscription) -> None:
    acts.revoke_approval(sub.wallet)
    _bill_now(world, sub)


def _other(world: World, sub: Subscription) -> None:
    sub.obstacle = Category.OTHER
    _bill_now(world, sub)


def _trial_ending(world: World, sub: Subscription) -> None:
    make_trial(world, sub, world.now + TRIAL_ENDS_IN)


def _trial_expired(world: World, sub: Subscription) -> None:
    make_trial(world, sub, world.now)
    billing.wake(world, sub)


def _trial_not_converted(world: World, sub: Subscription) -> None:
    _trial_expired(world, sub)
    acts.cancel(world, sub, Reason.TRIAL_NOT_CONVERTED)


def _cancelled(reason: Reason) -> Callable[[World, Subscription], None]:
    return lambda world, sub: acts.cancel(world, sub, reason)


def _billing_failed(world: World, sub: Subscription) -> None:
    _insufficient_balance(world, sub)
    acts.cancel(world, sub, Reason.BILLING_FAILED)


def _recovered(world: World, sub: Subscription) -> None:
    """The customer mends everything at once, and the bill is paid now."""
    sub.obstacle = None
    acts.restore_approval(sub.wallet)
    acts.fund_wallet(sub.wallet, 30 * world.amount_of(sub))
    if sub.maximum is not None:
        acts.raise_maximum(world, sub)
    acts.top_up(world, sub)
    if sub.status is Status.PAST_DUE:
        acts.retry(world, sub)


def _unknown_status(world: World, sub: Subscription) -> None:
    world.change(sub, status_text="frozen")


def _vanished(_world: World, sub: Subscription) -> None:
    acts.remove(sub)


SITUATIONS: dict[str, Callable[[World, Subscription], None]] = {
    "low_on_funds": _low_on_funds,
    "max_amount_reached": _max_amount_reached,
    "payment_failed:insufficient_balance": _insufficient_balance,
    "payment_failed:allowance_exhausted": _allowance_exhausted,
    "payment_failed:approval_revoked": _approval_revoked,
    "payment_failed:other": _other,
    "trial_ending": _trial_ending,
    "trial_expired": _trial_expired,
    "cancelled:customer": _cancelled(Reason.CUSTOMER),
    "cancelled:merchant": _cancelled(Reason.MERCHANT),
    "cancelled:merchant_closed": _cancelled(Reason.MERCHANT_CLOSED),
    "cancelled:inactive_on_chain": _cancelled(Reason.INACTIVE_ON_CHAIN),
    "cancelled:billing_failed": _billing_failed,
    "cancelled:trial_not_converted": _trial_not_converted,
    "stopped": acts.stop,
    "paused": acts.pause,
    "recovered": _recovered,
    "unknown_status": _unknown_status,
    "vanished": _vanished,
}
_FROM_TRIAL = ("trial_ending", "trial_expired", "cancelled:trial_not_converted")
