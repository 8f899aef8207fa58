"""What people do: the customer on the chain and in the wallet, the merchant by force.

Each act checks what the chain checks (forecast rules, 1.2) and raises `RefusedError` when it would refuse.
"""

from __future__ import annotations

from decimal import Decimal

from monitor.sandbox import billing
from monitor.sandbox.chain import Category, ChainKind, bill_units
from monitor.sandbox.entities import (
    UNLIMITED,
    Action,
    Customer,
    Product,
    Purchase,
    Reason,
    Status,
    Subscription,
    Topic,
    Wallet,
)
from monitor.sandbox.world import RefusedError, World

BILLS_APPROVED = 24


def top_up(world: World, sub: Subscription, total: int | None = None) -> None:
    """Approve a new total (24 bills when not said). It replaces the old approval and must exceed it."""
    _living(sub)
    refund = world.refund_of(sub.wallet.currency) or 0
    total = total or max(sub.approved + 1, BILLS_APPROVED * (world.amount_of(sub) + refund))
    if total <= sub.approved:
        raise RefusedError(f"the new total {total} must exceed the last one, {sub.approved}")
    taken = refund if (sub.maximum is None or refund <= sub.maximum) and sub.wallet.balance >= refund else 0
    sub.wallet.balance -= taken
    world.change(sub, approved=total, allowance=total - taken)
    _after_help(world, sub, Action.TOP_UP_ALLOWANCE)


def raise_maximum(world: World, sub: Subscription, maximum: int | None = None) -> None:
    """Sign a new maximum, up or down; by default twice the next bill. It looks at the last bill, not at the next."""
    _living(sub)
    refund = world.refund_of(sub.wallet.currency) or 0
    maximum = maximum or 2 * world.amount_of(sub) + refund
    if maximum <= sub.last_amount or sub.last_amount + refund > maximum:
        raise RefusedError(f"the maximum {maximum} must exceed the last bill, {sub.last_amount}, and its refund")
    allowance = sub.allowance
    if sub.wallet.currency.kind is ChainKind.SOLANA:
        allowance = sub.approved - refund  # v1.0.0 of the program overwrites what was used with this refund
    world.change(sub, maximum=maximum, allowance=allowance)
    _after_help(world, sub, Action.RAISE_MAXIMUM)


def confirm_trial(world: World, sub: Subscription, *, total: int | None = None, maximum: int | None = None) -> None:
    """Grant allowance and maximum; the first bill is due at the trial's end, at once when that has passed."""
    if sub.status not in (Status.TRIAL, Status.TRIAL_EXPIRED):
        raise RefusedError(f"there is no trial to confirm: {sub.status}")
    amount, refund = world.amount_of(sub), world.refund_of(sub.wallet.currency) or 0
    total = total or BILLS_APPROVED * (amount + refund)
    maximum = maximum or 2 * amount + refund
    due_at = max(world.now, sub.next_billing_at or world.now)
    world.change(
        sub,
        status=Status.ACTIVE,
        action=None,
        approved=total,
        allowance=total,
        maximum=maximum,
        next_billing_at=due_at,
    )
    _wake_or_plan(world, sub)


def pause(world: World, sub: Subscription) -> None:
    """Not billed until resumed."""
    if sub.status is not Status.ACTIVE:
        raise RefusedError(f"only an active subscription can be paused: {sub.status}")
    world.change(sub, status=Status.PAUSED)
    world.plan(sub)


def resume(world: World, sub: Subscription) -> None:
    """Billed again; a bill that fell due meanwhile is due now, once."""
    if sub.status is not Status.PAUSED:
        raise RefusedError(f"only a paused subscription can be resumed: {sub.status}")
    due_at = max(world.now, sub.next_billing_at or world.now)
    world.change(sub, status=Status.ACTIVE, next_billing_at=due_at)
    _wake_or_plan(world, sub)


def stop(world: World, sub: Subscription, reason: Reason = Reason.CUSTOMER) -> None:
    """Cancel at the end of the paid period. The customer cannot once a bill is overdue."""
    if sub.status not in (Status.ACTIVE, Status.PAUSED):
        raise RefusedError(f"nothing to stop: {sub.status}")
    if reason is Reason.CUSTOMER and sub.next_billing_at is not None and world.now > sub.next_billing_at:
        raise RefusedError("the chain lets a customer cancel only before the due date")
    world.change(sub, status=Status.STOPPED, cancel_reason=reason, action=None)
    _wake_or_plan(world, sub)


def cancel(world: World, sub: Subscription, reason: Reason) -> None:
    """End it now, whatever its state: by force, or because the vendor saw it gone."""
    _living(sub)
    billing.end(world, sub, reason)
    world.plan(sub)


def revoke_approval(wallet: Wallet) -> None:
    """The token's approval to the contract is gone, and with it every subscription of this wallet and token."""
    wallet.approval = 0


def restore_approval(wallet: Wallet) -> None:
    wallet.approval = UNLIMITED


def fund_wallet(wallet: Wallet, units: int) -> None:
    """Tokens arrive; no API shows it before the next attempt."""
    wallet.balance += units


def drain_wallet(wallet: Wallet) -> None:
    wallet.balance = 0


def retry(world: World, sub: Subscription) -> None:
    """Attempt the failed bill now, ahead of its time."""
    if sub.status is not Status.PAST_DUE:
        raise RefusedError(f"no bill to try again: {sub.status}")
    billing.wake(world, sub)


def add_wallet(world: World, symbol: str, balance: int) -> Wallet:
    wallet = Wallet(len(world.wallets), world.currency(symbol), balance)
    world.wallets.append(wallet)
    return wallet


def subscribe(
    world: World, product: Product, wallet: Wallet, customer: Customer | None, *, price: Decimal | None = None
) -> Subscription:
    """A checkout is completed: a trial where the product has one, else the first bill is due at once."""
    now, trial = world.now, product.trial
    price = product.price_usd if price is None else price
    sub = Subscription(
        n=len(world.subscriptions),
        created_at=now,
        updated_at=now,
        wallet=wallet,
        product=product,
        customer=customer,
        price_usd=price,
        frequency=product.frequency,
        status=Status.TRIAL if trial else Status.ACTIVE,
        next_billing_at=now + trial if trial else now,
        period_end_at=now + trial if trial else now,
    )
    world.subscriptions.append(sub)
    if not trial:
        amount, refund = world.amount_of(sub), world.refund_of(wallet.currency) or 0
        sub.approved = sub.allowance = BILLS_APPROVED * (amount + refund)
        sub.maximum = 2 * amount + refund
    world.log(Topic.CREATED, sub)
    _wake_or_plan(world, sub)
    return sub


def purchase(
    world: World,
    customer: Customer | None,
    product: Product,
    *,
    fails: Category | None = None,
    reference: str | None = None,
) -> Purchase:
    """A one-off payment of now, paid at once; or with `fails` a try that failed so, to be paid later or never."""
    currency = next(token for token in world.currencies if token.main is not None)
    amount = bill_units(product.price_usd, world.prices[currency.id], currency.decimals)
    made = Purchase(len(world.purchases), world.now, product, customer, currency, amount, reference)
    if fails is None:
        made.paid_at = world.now
    else:
        made.failed_at, made.category = world.now, fails
    world.purchases.append(made)
    return made


def checkout(world: World, customer: Customer | None, product: Product, *, reference: str | None = None) -> Purchase:
    """Somebody opens a checkout and has not paid yet; only its own status shows it."""
    made = purchase(world, customer, product, reference=reference)
    made.paid_at = None
    return made


def confirm(world: World, made: Purchase) -> None:
    """The customer has signed; the chain has not confirmed it yet."""
    made.confirming_at = world.now


def settle(world: World, made: Purchase) -> None:
    """The payment of a checkout arrives, whatever was tried before."""
    made.paid_at, made.confirming_at = world.now, None


def expire(world: World, made: Purchase) -> None:
    """Nobody finished the checkout in time."""
    made.expired_at = world.now


def remove(sub: Subscription) -> None:
    """No read shows it any more, and no event tells why."""
    sub.gone = True


def delete_customer(customer: Customer) -> None:
    """The merchant deletes a customer: reads of subscriptions show `deleted`, the customer itself is 404."""
    customer.deleted = True


def _living(sub: Subscription) -> None:
    if sub.status not in billing.LIVING:
        raise RefusedError("it is cancelled: nothing can be done any more")


def _after_help(world: World, sub: Subscription, asked: Action) -> None:
    """The vendor sees what the customer signs: the request is met, and a failed bill is tried at once."""
    if sub.action is asked:
        world.change(sub, action=None)
    causes = {
        Action.TOP_UP_ALLOWANCE: Category.ALLOWANCE_EXHAUSTED,
        Action.RAISE_MAXIMUM: Category.MAX_AMOUNT_EXCEEDED,
    }
    if sub.dunning is not None and sub.dunning.category is causes[asked]:
        billing.wake(world, sub)
    else:
        billing.judge_allowance(world, sub)


def _wake_or_plan(world: World, sub: Subscription) -> None:
    if sub.next_billing_at is not None and sub.next_billing_at <= world.now:
        billing.wake(world, sub)
    else:
        world.plan(sub)
