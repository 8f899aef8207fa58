"""A machine that slept for five days: one run, of what is true now the newest mail only, and nothing doubled."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from monitor.sandbox import acts
from monitor.sandbox.seeding import healthy, make_trial
from monitor.sandbox.transitions import cause
from monitor.store.schema import notifications, runs, subscriptions
from tests.crews import crew_of, drive

START = datetime(2026, 4, 1, 7, 0, tzinfo=UTC)  # 09:00 in Budapest, when the daemon's day begins
EVENING = START + timedelta(hours=12)
DAY = timedelta(days=1)
SLEEP = timedelta(days=5, hours=10, minutes=30)  # until 7:30 in Budapest: the day's run is at 9:00, mails go from 8:00


class Story:
    """What happens to whom, before and during the sleep."""

    def __init__(self, world) -> None:
        self.world = world
        self.who: dict[str, str] = {}

    def let(self, name: str, situation: str) -> None:
        (found,) = cause(self.world, {situation: 1}).values()
        self.who[name] = found[0]

    def tell(self) -> None:
        """The days that nobody saw; counted from the evening on which the machine fell asleep."""
        world = self.world

        def at(days: float, act) -> None:
            world.at(EVENING + timedelta(hours=1) + days * DAY, act)

        def trial(_world) -> None:
            sub = next(each for each in world.subscriptions if each.status == "trial")
            self.who["trial ended meanwhile"] = world.id_of(sub)
            make_trial(world, sub, world.now + DAY)
            world.plan(sub)

        at(0.5, trial)
        at(1, lambda _: self.let("healed unseen", "low_on_funds"))
        at(1.2, lambda _: self.let("paused long ago", "paused"))
        at(4, lambda _: self.let("needs us now", "max_amount_reached"))  # before the others are in good health again
        at(4.2, lambda _: acts.top_up(world, world.get(self.who["healed unseen"])))
        at(4.4, lambda _: acts.top_up(world, world.get(self.who["healed before its mail left"])))


async def mailed(stage) -> dict[str, list[tuple[str, str, str | None]]]:
    """(kind, state, reason) of each mail of a subscription."""
    n = notifications.c
    found = defaultdict(list)
    async with stage.db.read() as conn:
        rows = await conn.execute(
            select(subscriptions.c.ext_id, n.kind, n.state, n.reason).join(
                subscriptions, subscriptions.c.id == n.subscription_id
            )
        )
        for ext_id, *mail in rows:
            found[ext_id].append(tuple(mail))
    return found


async def slots(stage) -> list[str]:
    async with stage.db.read() as conn:
        found = await conn.execute(select(runs.c.slot).where(runs.c.slot.is_not(None)).order_by(runs.c.id))
        return list(found.scalars())


async def test_five_days_asleep(play):
    world = healthy(30, trials=4, start=START)
    stage, story = await play(world), Story(world)
    crew = crew_of(stage, schedule="0 9 * * *")
    await drive(stage, crew, START + timedelta(hours=1))
    story.let("told before", "payment_failed:insufficient_balance")
    story.let("stays low", "low_on_funds")
    world.advance(to=START + timedelta(hours=3))
    await stage.run()
    await drive(stage, crew, START + timedelta(hours=4))
    story.let("healed before its mail left", "low_on_funds")
    world.advance(to=EVENING)  # 21:00 in Budapest: what comes due now waits for the morning
    await stage.run()
    before = len(stage.mailbox.messages)
    story.tell()

    world.advance(SLEEP)
    woken = crew_of(stage, schedule="0 9 * * *")  # a new process: it knows nothing but the ledger
    await drive(stage, woken, world.now + timedelta(hours=1, minutes=15), every=timedelta(minutes=20))

    assert await slots(stage) == ["2026-04-01", "2026-04-06"]
    found = await mailed(stage)
    of = {name: [mail for mail in found[ext_id] if mail[1] != "voided"] for name, ext_id in story.who.items()}
    assert sorted(kind for kind, _, _ in of["told before"]) == ["cancelled", "payment_failed"], "each once"
    assert [kind for kind, _, _ in of["trial ended meanwhile"]] == ["trial_expired"], "not that it will end"
    assert [kind for kind, _, _ in of["needs us now"]] == ["max_amount_reached"]
    assert of["healed unseen"] == []
    assert of["healed before its mail left"] == []
    assert of["paused long ago"] == [], "late news"
    assert {state for mails in of.values() for _, state, _ in mails} == {"sent"}
    sent = Counter(mail.message["Message-ID"] for mail in stage.mailbox.messages)
    assert set(sent.values()) == {1}
    assert len(sent) > before

    again = crew_of(stage, schedule="0 9 * * *")
    await again.see_to_runs()
    await again.see_to_mails()
    await again.idle()
    assert len(stage.mailbox.messages) == len(sent)
    assert await slots(stage) == ["2026-04-01", "2026-04-06"]
