"""What happens in the demo's three days: scenes in order, each at an instant of virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from monitor.sandbox import acts
from monitor.sandbox.entities import Merchant, Reason, Status, Subscription
from monitor.sandbox.seeding import healthy
from monitor.sandbox.till import Till
from monitor.sandbox.transitions import SITUATIONS, cause
from monitor.sandbox.world import World

ZONE = "Europe/Budapest"
SIZE = 300
TRIALS = 12
_HICCUP = 90
_SEED = 1
START = datetime(2026, 3, 31, 9, 0, tzinfo=ZoneInfo(ZONE))


@dataclass(slots=True)
class Cast:
    """Who was chosen for which part, so that a later scene finds them again."""

    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def choose(self, world: World, wanted: Mapping[str, int]) -> None:
        """Put so many subscriptions into each situation, and remember them under its name."""
        for part, ids in cause(world, wanted).items():
            self.parts[part] = (*self.parts.get(part, ()), *ids)

    def run_low(self, world: World, number: int) -> None:
        """Let the allowances of others run low whose next bill is near: those are told at once."""
        known = {ext_id for ids in self.parts.values() for ext_id in ids}
        soon = [sub for sub in world.living() if world.id_of(sub) not in known and _is_billed_soon(world, sub)]
        for sub in soon[:: len(soon) // number][:number]:
            SITUATIONS["low_on_funds"](world, sub)
            world.plan(sub)
            self.parts["low_on_funds"] = (*self.parts.get("low_on_funds", ()), world.id_of(sub))

    def first(self, world: World, part: str, number: int = 0) -> Subscription:
        """One of those who play this part."""
        return world.get(self.parts[part][number])


@dataclass(frozen=True, slots=True)
class Scene:
    """One instant at which the monitor runs, and what has happened before."""

    title: str
    at: datetime
    told: str
    act: Callable[[World, Cast], None]


@dataclass(frozen=True, slots=True)
class Play:
    """What is about to be seen, the world it happens in, and its scenes. `hiccup`: a last one that goes wrong."""

    told: str
    world: World
    scenes: tuple[Scene, ...]
    hiccup: Scene | None = None
    till: Till | None = None


def play() -> Play:
    """A merchant of subscriptions."""
    told = (
        f"Acme has {SIZE + TRIALS} subscriptions. Its payment API and its mail server run on this machine; nothing "
        "leaves it. The monitor is the real one: it pulls, compares, decides, and mails each customer once."
    )
    return Play(told, new_world(), scenes(), hiccup())


def new_world() -> World:
    """A merchant with a test key."""
    return healthy(SIZE, trials=TRIALS, seed=_SEED, start=START, merchant=Merchant(mode="test"))


def scenes() -> tuple[Scene, ...]:
    """First contact, then three days."""
    return (
        Scene(
            "First contact",
            START,
            "Three customers have trouble already: two failed bills, one pause.",
            _before,
        ),
        Scene(
            "Day 1",
            at(1, 9),
            "Overnight two wallets ran empty, a bill came out above its maximum, two allowances ran low, a trial is "
            "about to end, and one customer stopped the subscription.",
            _first_day,
        ),
        Scene(
            "Day 2",
            at(2, 9),
            "One of the empty wallets was filled and paid. An approval was removed, an allowance is used up, one bill "
            "failed for a reason of the chain's own, somebody paused, and yesterday's stopped subscription is over.",
            _second_day,
        ),
        Scene(
            "Day 2, late",
            at(2, 21, 30),
            "After the sending hours two more allowances ran low.",
            _evening,
        ),
        Scene(
            "Day 3",
            at(3, 9),
            "One of the two topped up before breakfast. A trial ran out, three subscriptions ended, two bills came out "
            "above the maximum: one of those customers was deleted meanwhile, the other has a broken address. One row "
            "has a status that nobody has heard of.",
            _third_day,
        ),
    )


def hiccup() -> Scene:
    """What a mistake of the API's would look like."""
    return Scene(
        "What if the API is wrong?",
        at(3, 10),
        f"All at once {_HICCUP} subscriptions are reported as paused.",
        lambda world, cast: cast.choose(world, {"paused": _HICCUP}),
    )


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of the demo's month."""
    return datetime(2026, 4, day, hour, minute, tzinfo=ZoneInfo(ZONE))


def _before(world: World, _cast: Cast) -> None:
    Cast().choose(world, {"payment_failed:insufficient_balance": 2, "paused": 1})


def _first_day(world: World, cast: Cast) -> None:
    cast.choose(
        world,
        {
            "payment_failed:insufficient_balance": 2,
            "max_amount_reached": 1,
            "trial_ending": 1,
            "stopped": 1,
        },
    )
    cast.run_low(world, 2)


def _second_day(world: World, cast: Cast) -> None:
    paid = cast.first(world, "payment_failed:insufficient_balance")
    cast.choose(
        world,
        {
            "payment_failed:approval_revoked": 1,
            "payment_failed:allowance_exhausted": 1,
            "payment_failed:other": 1,
            "paused": 1,
        },
    )
    acts.cancel(world, cast.first(world, "stopped"), Reason.CUSTOMER)
    _recover(world, paid)


def _evening(world: World, cast: Cast) -> None:
    cast.run_low(world, 2)


def _third_day(world: World, cast: Cast) -> None:
    cast.choose(
        world,
        {
            "unknown_status": 1,
            "cancelled:customer": 1,
            "cancelled:billing_failed": 1,
            "cancelled:merchant_closed": 1,
            "max_amount_reached": 2,
        },
    )
    acts.top_up(world, cast.first(world, "low_on_funds", -1))
    deleted, broken = (cast.first(world, "max_amount_reached", number).customer for number in (-2, -1))
    if deleted is not None:
        acts.delete_customer(deleted)
    if broken is not None:
        broken.email = "ines@@customer.example"


def _is_billed_soon(world: World, sub: Subscription) -> bool:
    at = sub.next_billing_at
    healthy_now = sub.status is Status.ACTIVE and sub.action is None
    return healthy_now and at is not None and timedelta(days=5) < at - world.now < timedelta(days=25)


def _recover(world: World, sub: Subscription) -> None:
    SITUATIONS["recovered"](world, sub)
    world.plan(sub)
