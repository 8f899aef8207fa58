"""The demo's three days at a billing platform, which knows payments and no subscriptions."""

from __future__ import annotations

from datetime import timedelta

from monitor.cli.demo.story import START, Cast, Play, Scene, at
from monitor.sandbox.entities import Merchant
from monitor.sandbox.seeding import healthy
from monitor.sandbox.till import Payment, Till, stock
from monitor.sandbox.world import World

CUSTOMERS, PAST = 60, 120
_UNREACHABLE = 55
"""Customers from this number on are in no file of contacts."""


def play() -> Play:
    """Sixty customers with two months of payments behind them."""
    world = healthy(CUSTOMERS, seed=1, start=START, merchant=Merchant(mode="test"))
    till = Till(world)
    stock(till, PAST, apart=timedelta(hours=12))
    told = (
        f"Acme takes one-off payments of {CUSTOMERS} customers through a billing platform. It and the mail server run "
        "on this machine; nothing leaves it. The monitor is the real one: it logs in, pulls, compares and records "
        "what became of each payment."
    )
    return Play(told, world, _scenes(_Counter(till)), None, till)


def contacts(world: World) -> list[str]:
    """The shop's file: the platform tells no address."""
    known = [one for one in world.customers if one.n < _UNREACHABLE]
    return ["customer,address", *(f"{Till.user_id(one.n)},{one.email}" for one in known)]


class _Counter:
    """Payments by the part they play, so that a later scene finds them again."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._parts: dict[str, Payment] = {}

    def pay(self, part: str, user: int, status: str, *, amount: int = 4990, reason: str | None = None) -> None:
        """Somebody pays; the payment comes as far as `status`."""
        made = self._till.pay(user, amount, "EUR", order=f"order-{1000 + user}")
        self._parts[part] = made if status == "CREATED" else self._till.move(made, status, reason)

    def move(self, part: str, status: str, reason: str | None = None) -> None:
        """It goes on."""
        self._till.move(self._parts[part], status, reason)


def _scenes(counter: _Counter) -> tuple[Scene, ...]:
    def first_day(_world: World, _cast: Cast) -> None:
        counter.pay("quick", 3, "SUCCEEDED")
        counter.pay("large", 8, "SUCCEEDED", amount=129_00)
        counter.pay("declined", 12, "FAILED", reason="card declined")
        counter.pay("slow", 17, "PROVIDER_PENDING")
        counter.pay("left", 21, "CREATED", amount=19_90)

    def second_day(_world: World, _cast: Cast) -> None:
        counter.pay("again", 12, "SUCCEEDED")
        counter.move("left", "EXPIRED")
        counter.pay("regretted", 26, "CANCELLED")
        counter.pay("stranger", 57, "FAILED", reason="insufficient funds")

    def third_day(_world: World, _cast: Cast) -> None:
        counter.move("slow", "SUCCEEDED")
        counter.pay("odd", 30, "ON_HOLD")
        counter.pay("short", 34, "FAILED", amount=249_00, reason="insufficient funds")

    return (
        Scene("First contact", START, f"{PAST} payments of the past two months; all of them have ended.", _nothing),
        Scene(
            "Day 1",
            at(1, 9),
            "Overnight two payments went through, a card was declined, one payment is with its provider, and somebody "
            "has not finished paying yet.",
            first_day,
        ),
        Scene(
            "Day 2",
            at(2, 10),
            "Who was declined has paid. The unfinished payment expired, another was cancelled, and one failed whose "
            "customer is in no file of addresses. Yesterday's is with its provider still.",
            second_day,
        ),
        Scene(
            "Day 3",
            at(3, 9),
            "The slow one went through at last. A large one failed, and one has a status that nobody has heard of.",
            third_day,
        ),
        Scene("Day 3, noon", at(3, 12), "Nobody has tried again to pay what failed in the morning.", _nothing),
    )


def _nothing(_world: World, _cast: Cast) -> None:
    """The past is enough."""
