"""Worlds to begin with. `healthy` makes any number of rows cheaply; `traps` adds what breaks naive readers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from monitor.sandbox.acts import BILLS_APPROVED
from monitor.sandbox.chain import Category, ChainKind
from monitor.sandbox.entities import (
    Action,
    Currency,
    Customer,
    Dunning,
    Merchant,
    Product,
    Reason,
    Status,
    Subscription,
    Wallet,
)
from monitor.sandbox.naming import evm_address, mix, solana_address
from monitor.sandbox.world import World

DEFAULT_START = datetime(2026, 4, 1, 6, 0, tzinfo=UTC)
DAY = timedelta(days=1)
_FIRST = ("Ines", "Jonas", "Amara", "Mateo", "Yuki", "Zsófia", "Liam", "Noor", "Eva", "Tomás", "Anouk", "Bence")
_LAST = ("Moreau", "Keller", "Okafor", "Silva", "Tanaka", "Kovács", "Byrne", "Haddad", "Novák", "Díaz", None)


def furnish(world: World, seed: int) -> None:
    """Currencies with their prices and the merchant's products."""
    base = Currency(3, "Base", "BASE", 18, "", ChainKind.EVM)
    ether = Currency(1, "Ethereum", "ETH", 18, "", ChainKind.EVM)
    sol = Currency(5, "Solana", "SOL", 9, "", ChainKind.SOLANA)
    world.currencies = [
        ether,
        base,
        sol,
        Currency(8, "USD Coin", "USDC", 6, evm_address(seed, 8), ChainKind.EVM, base),
        Currency(9, "Wrapped SOL", "WSOL", 9, solana_address(seed, 9), ChainKind.SOLANA, sol),
        Currency(10, "Wrapped Ether", "WETH", 18, evm_address(seed, 10), ChainKind.EVM, ether),
    ]
    world.prices = {8: Decimal(1), 9: Decimal("142.85"), 10: Decimal("2513.37")}
    made_at = world.now - 700 * DAY
    plans = (
        ("Starter", "9.99", 30, None),
        ("Team", "24", 30, 14),
        ("Studio", "99.99", 30, None),
        ("Weekly digest", "5", 7, None),
        ("Archive", "240", 365, 30),
    )
    world.products = [
        Product(n, name, Decimal(usd), days * DAY, made_at, f"plan-{n}", f"{name} plan", trial * DAY if trial else None)
        for n, (name, usd, days, trial) in enumerate(plans)
    ]


def healthy(
    size: int,
    *,
    trials: int = 0,
    seed: int = 1,
    start: datetime = DEFAULT_START,
    merchant: Merchant | None = None,
    spread: timedelta = 360 * DAY,
) -> World:
    """`size` active subscriptions whose next bills will be paid, then `trials` that end in 3 to 14 days.

    Each has its own customer and wallet. They were created evenly over `spread` before `start`, oldest first.
    """
    world = World(start=start, seed=seed, merchant=merchant)
    furnish(world, seed)
    step = spread / max(size, 1)
    for n in range(size):
        _paid_subscription(world, start - spread + n * step)
    for n in range(trials):
        left = 3 * DAY + timedelta(hours=1) + n * (10 * DAY / trials)
        _trial(world, start - 14 * DAY + left, left)
    return world


def add_customer(world: World, created_at: datetime) -> Customer:
    """A customer with a name and an address of their own."""
    n = len(world.customers)
    pick = mix(world.seed, n, 7)
    first, last = _FIRST[pick % len(_FIRST)], _LAST[pick // 64 % len(_LAST)]
    reference = f"crm-{n}" if pick & 1 << 40 else None
    customer = Customer(n, first, last, f"customer{n}@customer.example", created_at, reference)
    world.customers.append(customer)
    return customer


def _paid_subscription(world: World, created_at: datetime) -> Subscription:
    n = len(world.subscriptions)
    pick = mix(world.seed, n, 11)
    product = world.products[(0, 0, 0, 1, 1, 2, 3, 4)[pick % 8]]
    currency = world.currencies[(3, 3, 3, 3, 3, 3, 4, 5)[pick // 8 % 8]]
    wallet = Wallet(len(world.wallets), currency, 0)
    world.wallets.append(wallet)
    done = max(0, int((world.now - created_at) / product.frequency))
    period_start_at = created_at + done * product.frequency
    next_at = period_start_at + product.frequency
    sub = Subscription(
        n=n,
        created_at=created_at,
        updated_at=period_start_at,
        wallet=wallet,
        product=product,
        customer=add_customer(world, created_at),
        price_usd=product.price_usd,
        frequency=product.frequency,
        status=Status.ACTIVE,
        period_end_at=next_at,
        next_billing_at=next_at,
        last_billing_at=period_start_at,
        reference=f"acct-{n}" if pick & 1 << 41 else None,
    )
    _grant(world, sub, pick)
    world.subscriptions.append(sub)
    world.plan(sub)
    return sub


def _grant(world: World, sub: Subscription, pick: int) -> None:
    """Enough of everything: 4 to 22 bills of allowance left, twice the bill as maximum, 30 bills in the wallet."""
    amount = world.amount_of(sub)
    cost = amount + (world.refund_of(sub.wallet.currency) or 0)
    sub.approved = BILLS_APPROVED * cost
    sub.allowance = sub.approved - (2 + pick // 512 % 19) * cost
    sub.maximum = 2 * cost
    sub.last_amount = amount
    sub.wallet.balance = 30 * cost


def _trial(world: World, created_at: datetime, left: timedelta) -> Subscription:
    sub = _paid_subscription(world, created_at)
    for name, value in _trial_fields(world, world.now + left).items():
        setattr(sub, name, value)  # it began before the world did: no history
    sub.updated_at = created_at
    sub.wallet.balance = 30 * world.amount_of(sub)
    world.plan(sub)
    return sub


def make_trial(world: World, sub: Subscription, ends_at: datetime) -> None:
    """Turn it into an unconfirmed trial: no allowance, no maximum, never billed."""
    world.change(sub, **_trial_fields(world, ends_at))
    sub.wallet.balance = 30 * world.amount_of(sub)
    world.plan(sub)


def _trial_fields(world: World, ends_at: datetime) -> dict[str, object]:
    product = world.products[1]
    return {
        "status": Status.TRIAL,
        "action": None,
        "dunning": None,
        "product": product,
        "price_usd": product.price_usd,
        "frequency": product.frequency,
        "allowance": 0,
        "approved": 0,
        "maximum": None,
        "last_amount": 0,
        "last_billing_at": None,
        "period_end_at": ends_at,
        "next_billing_at": ends_at,
    }


def traps(size: int = 0, *, seed: int = 1, start: datetime = DEFAULT_START, merchant: Merchant | None = None) -> World:
    """`size` healthy rows, then: every status with every action (28 rows), and 9 rows that break naive readers.

    The rows of the grid are put together by hand and sleep: time does not move them.
    """
    world = healthy(size, seed=seed, start=start, merchant=merchant)
    created_at = start - DAY
    for status in Status:
        for action in (None, *Action):
            _grid_row(world, _paid_subscription(world, created_at), status, action)
    rows = [_paid_subscription(world, created_at + timedelta(minutes=n)) for n in range(9)]
    shared, also, gone, nobody, old, odd, bare, never, zoned = rows
    for sub in (shared, also):
        if sub.customer is not None:
            sub.customer.email = "family@customer.example"
    if gone.customer is not None:
        gone.customer.deleted = True
    nobody.customer = None
    old.price_usd, old.maximum = Decimal(0), None
    odd.status_text = "frozen"
    bare.reference = "Café <gold> & €/№1"
    never.last_billing_at = None
    zoned.minimum_cancellation_at = start + 90 * DAY
    return world


def _grid_row(world: World, sub: Subscription, status: Status, action: Action | None) -> None:
    sub.status, sub.action, sub.wake_at = status, action, None
    if status in (Status.TRIAL, Status.TRIAL_EXPIRED):
        sub.last_billing_at, sub.maximum, sub.allowance, sub.last_amount = None, None, 0, 0
    if status is Status.TRIAL_EXPIRED:
        sub.period_end_at = sub.next_billing_at = world.now - timedelta(hours=1)
    if status is Status.PAST_DUE:
        waiting = action is Action.RAISE_MAXIMUM
        since_at = world.now - timedelta(hours=1)
        sub.period_end_at = sub.next_billing_at = since_at
        category = Category.MAX_AMOUNT_EXCEEDED if waiting else Category.INSUFFICIENT_BALANCE
        number = world.new_bill_number()
        sub.dunning = Dunning(number, 1, 4, since_at, category, since_at + DAY, since_at if waiting else None)
    if status is Status.STOPPED:
        sub.cancel_reason = Reason.CUSTOMER
    if status is Status.CANCELLED:
        sub.cancelled_at, sub.cancel_reason, sub.next_billing_at = world.now, Reason.CUSTOMER, None
