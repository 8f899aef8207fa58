"""From a merchant's file to a customer's mail about a spending limit, on both databases."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select, update

from monitor.domain.guard import GuardLimits
from monitor.errors import ConfigError
from monitor.sandbox import acts
from monitor.sandbox.entities import Reason
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.schema import episodes, events, notifications, subscriptions, usages
from monitor.store.watching import unreachable
from monitor.usecases.adopt import adopt
from monitor.usecases.explain import Reader
from monitor.usecases.housekeeping import keep_house
from monitor.usecases.plan import dry_run
from monitor.usecases.usage import FAR, SKEW, import_usage
from tests.harness import MAILER

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)  # 11:00 in Budapest: mails may leave
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
END = START + 20 * DAY
HEADINGS = "subscription,used,limit,period_end,period_start,as_of"


@pytest.fixture
async def stage(play):
    """Ten subscriptions, and a baseline that is a minute old."""
    stage = await play(healthy(10, start=START))
    await stage.run()
    stage.world.advance(MINUTE)
    return stage


def ids_of(stage) -> list[str]:
    return sorted(stage.world.id_of(sub) for sub in stage.world.living())


async def report(stage, *lines, headings=HEADINGS):
    return await import_usage(stage.tools, stage.account, [headings + "\n", *(f"{line}\n" for line in lines)])


async def one(stage, amount, *, limit="500", end=END, at=None, who=0):
    return await report(
        stage, f"{ids_of(stage)[who]},{amount},{limit},{end.isoformat()},,{at.isoformat() if at else ''}"
    )


async def mails(stage):
    async with stage.db.read() as conn:
        n = notifications.c
        found = await conn.execute(select(n.kind, n.state, n.reason).order_by(n.created_at, n.kind))
        return [tuple(row) for row in found]


async def kinds_of_events(stage):
    async with stage.db.read() as conn:
        return list((await conn.execute(select(events.c.kind).order_by(events.c.id))).scalars())


def body(caught) -> str:
    return " ".join(caught.message.get_body(("plain",)).get_content().split())


async def test_each_mark_is_mailed_once_a_period_however_often_it_is_reported(stage, tmp_path):
    (first, *_) = ids_of(stage)
    done = await one(stage, "402.50")
    assert (done.lines, done.new, done.bad) == (1, 1, [])

    tmp_path.joinpath("scratch").mkdir()
    plan = await dry_run(stage.tools, stage.account, MAILER, tmp_path / "scratch", stage.state_dir)
    assert [(line.mail.kind, line.what, line.mail.subscription) for line in plan.lines] == [
        ("spending_limit_near", "send", first)
    ]
    await stage.run()
    assert (await stage.deliver()).sent == 1
    (mail,) = stage.mailbox.messages
    assert mail.message["Subject"].endswith("80% of your limit used")
    assert "402.50" in body(mail)
    assert "500" in body(mail)
    assert 'answer this mail with the word "stop"' in body(mail)

    again = await one(stage, "402.50")
    assert (again.unchanged, again.changed) == (1, 0)
    for amount in ("390", "410", "499.99"):  # below the mark, above it again, and higher
        stage.world.advance(HOUR)
        assert (await one(stage, amount)).changed == 1
        await stage.run()
        assert (await stage.deliver()).sent == 0
    stage.world.advance(HOUR)
    await one(stage, "500")
    await stage.run()
    assert (await stage.deliver()).sent == 1
    assert stage.mailbox.messages[-1].message["Subject"].endswith("your spending limit is reached")
    assert 'the word "stop"' not in body(stage.mailbox.messages[-1])
    for _ in range(2):
        stage.world.advance(HOUR)
        await one(stage, "505", end=END + 30 * DAY)  # an end that moves is the same period
        await stage.run()
        assert (await stage.deliver()).sent == 0
    async with stage.db.read() as conn:
        spells = (await conn.execute(select(episodes.c.kind, episodes.c.track, episodes.c.close_reason))).all()
    assert sorted(map(tuple, spells)) == [
        ("spending_limit_near", "usage", "replaced"),
        ("spending_limit_reached", "usage", None),
    ]
    assert (await kinds_of_events(stage)).count("spending_limit_clear") == 1

    told = (await Reader(stage.db, stage.tools.address_mac, {}, stage.world.now).explain(first)).stories[0]
    assert told.summary.startswith("Healthy since 1 Apr 2026, 09:00 UTC (first seen);")
    assert "; spending limit reached since 1 Apr 2026" in told.summary
    assert told.facts["spending limit"].startswith("505 of 500 USD used on 1 Apr 2026")
    assert any("The spending limit is near: 402.50 of 500 USD used" in line.sentence for line in told.lines)
    assert any("no concern any more: a later report puts the usage below" in line.sentence for line in told.lines)
    assert "The period ends" in told.next


async def test_the_period_ends_by_time_and_the_next_one_is_mailed_anew(stage):
    await one(stage, "402")
    await stage.run()
    assert (await stage.deliver()).sent == 1
    stage.world.advance(to=END + MINUTE)
    assert (await one(stage, "480")).over == 1
    await stage.run()
    async with stage.db.read() as conn:
        assert (
            await conn.execute(select(episodes.c.close_reason).where(episodes.c.track == "usage"))
        ).scalar_one() == ("period_over")
    await one(stage, "450", end=END + 30 * DAY)
    await stage.run()
    await stage.deliver()
    sent = [kind for kind, state, _ in await mails(stage) if state == "sent" and kind.startswith("spending")]
    assert sent == ["spending_limit_near"] * 2


async def test_what_a_customer_does_before_the_mail_leaves_voids_it(stage):
    ids = ids_of(stage)
    for who, amount in enumerate(("402", "500", "402")):
        await one(stage, amount, who=who)
    await stage.run()
    await one(stage, "100", who=0)  # a correction
    acts.stop(stage.world, stage.world.get(ids[1]))
    async with stage.db.write() as conn:  # read long ago: an urgent mail has its subscription asked for anew
        await conn.execute(update(subscriptions).values(asked_at=START - DAY))
        await change_account(conn, (await stage.row()).id, sweep_started_at=None)
    await stage.deliver()
    assert {one for one in await mails(stage) if one[0].startswith("spending")} == {
        ("spending_limit_near", "voided", "usage_lowered"),
        ("spending_limit_near", "sent", None),
        ("spending_limit_reached", "voided", "not_billed"),
    }


async def test_old_figures_are_kept_and_not_mailed_and_fresh_ones_with_the_same_amounts_are(stage):
    await one(stage, "402", at=START - 3 * DAY)
    await stage.run()
    assert await mails(stage) == [("spending_limit_near", "voided", "usage_stale")]
    told = (await Reader(stage.db, stage.tools.address_mac, {}, stage.world.now).explain(ids_of(stage)[0])).stories[0]
    assert any("measured more than 48 hours ago" in (line.because or "") for line in told.lines)
    done = await one(stage, "402")
    assert (done.unchanged, done.changed) == (1, 0)
    await stage.run()
    assert (await stage.deliver()).sent == 1

    now = stage.world.now
    done = await one(stage, "100", at=now - MINUTE)
    assert (done.older, done.changed) == (1, 0)  # what was measured earlier never overwrites what was measured later
    done = await one(stage, "403", at=now)  # the same instant: a correction
    assert (done.older, done.changed) == (0, 1)
    async with stage.db.read() as conn:
        assert (await conn.execute(select(usages.c.used_usd))).scalar_one() == Decimal(403)
    assert (await keep_house(stage.tools, END + 90 * DAY)).usages == 0  # and 90 days after their period, forgotten
    assert (await keep_house(stage.tools, END + 90 * DAY + MINUTE)).usages == 1
    async with stage.db.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(usages))).scalar_one() == 0


async def test_billing_and_usage_run_side_by_side_and_neither_disturbs_the_other(stage):
    (failing,) = cause(stage.world, {"payment_failed:insufficient_balance": 1})["payment_failed:insufficient_balance"]
    who = ids_of(stage).index(failing)
    await one(stage, "402", who=who)
    await stage.run()
    assert (await stage.deliver()).sent == 2
    told = (await Reader(stage.db, stage.tools.address_mac, {}, stage.world.now).explain(failing)).stories[0]
    assert told.summary.startswith("Payment failed since")
    assert "; spending limit near since" in told.summary
    assert told.summary.lower().count("payment failed") == 1
    assert told.next.count("No further mail is planned for this episode of") == 2
    async with stage.db.write() as conn:
        await conn.execute(update(notifications).values(state="voided", reason="no_address"))
        row = await stage.row()
        lost = await unreachable(conn, row.id, stage.world.now, stage.world.now + 300 * DAY)
    assert [(ext_id, reason) for ext_id, _, _, reason in lost] == [(failing, "no_address")]
    async with stage.db.read() as conn:
        opening = select(events.c.kind, episodes.c.kind).join(
            episodes,
            (episodes.c.subscription_id == events.c.subscription_id) & (episodes.c.opened_seq == events.c.seq),
        )
        assert all(event == spell for event, spell in await conn.execute(opening))
    acts.cancel(stage.world, stage.world.get(failing), Reason.CUSTOMER)
    stage.world.advance(MINUTE)
    await stage.run()
    async with stage.db.read() as conn:
        spells = await conn.execute(select(episodes.c.kind, episodes.c.close_reason).order_by(episodes.c.kind))
    assert [tuple(row) for row in spells] == [
        ("cancelled", None),
        ("payment_failed", "ended"),
        ("spending_limit_near", "ended"),
    ]


async def test_an_all_clear_goes_though_a_limit_is_near(stage):
    (failing,) = cause(stage.world, {"payment_failed:insufficient_balance": 1})["payment_failed:insufficient_balance"]
    await stage.run()
    await stage.deliver()
    await one(stage, "402", who=ids_of(stage).index(failing))
    acts.fund_wallet(stage.world.get(failing).wallet, 10**12)
    stage.world.advance(DAY)
    await stage.run()
    await stage.deliver()
    assert ("recovered", "sent", None) in await mails(stage)


async def test_before_the_baseline_is_complete_it_is_recorded_and_adopted_like_the_rest(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        await change_account(conn, row.id, baselined_at=None)
    await one(stage, "402")
    await stage.run()
    assert await mails(stage) == [("spending_limit_near", "voided", "baseline")]
    assert (await adopt(stage.tools, stage.account, by="ops")).mails == 1
    stage.change(guard=GuardLimits(small=2))
    stage.world.advance(MINUTE)
    for who in range(1, 4):
        await one(stage, "402", who=who)
    assert (await stage.run()).outcome == "held", "many at once wait for a person"
    assert {state for _, state, _ in await mails(stage)} == {"held"}


async def test_the_limit_of_the_api_serves_a_line_without_one(stage):
    ids = ids_of(stage)
    async with stage.db.write() as conn:
        await conn.execute(
            update(subscriptions).where(subscriptions.c.ext_id == ids[0]).values(max_spending_usd=Decimal(100))
        )
    done = await report(stage, f"{ids[0]},90,,{END.isoformat()}", f"{ids[1]},90,,{END.isoformat()}")
    assert done.new == 1
    assert done.bad == [(3, "no limit: the API tells none of this subscription, so the file has to")]
    told = (await Reader(stage.db, stage.tools.address_mac, {}, stage.world.now).explain(ids[0])).stories[0]
    assert told.facts["spending limit"].startswith("90 of 100 USD used")
    async with stage.db.write() as conn:
        await conn.execute(update(subscriptions).values(max_spending_usd=None))
    told = (await Reader(stage.db, stage.tools.address_mac, {}, stage.world.now).explain(ids[0])).stories[0]
    assert told.facts["spending limit"].startswith("90 of a limit that nobody told used")


GOOD = {"subscription": "sub@x", "used": "402", "limit": "500", "period_end": "2026-04-21T00:00:00Z"}
NONSENSE = [
    ({"subscription": ""}, "no subscription id"),
    ({"subscription": "x" * 101}, "no subscription id"),
    ({"subscription": "a\u0007b"}, "no subscription id"),
    ({"subscription": "sub@nobody"}, "not known"),
    ({"used": ""}, "used is empty"),
    *(
        ({"used": text}, "used is no amount")
        for text in ("-1", "1e3", "NaN", "Infinity", "$4", "1 000", "4,5", "\u0664", "1.", "9" * 13, "0." + "1" * 13)
    ),
    ({"limit": "-5"}, "limit is no amount"),
    ({"limit": "0.00"}, "the limit is 0"),
    ({"period_end": ""}, "period_end is empty"),
    *(
        ({"period_end": text}, "period_end is no time with a zone")
        for text in ("2026-04-21", "2026-04-21T00:00:00", "soon", "0001-01-01T00:00:00+02:00", "2026-02-30T00:00:00Z")
    ),
    ({"period_end": (START + MINUTE + FAR + MINUTE).isoformat()}, "more than a year"),
    ({"period_start": "2026-04-21T00:00:00Z"}, "period_start is not before"),
    ({"as_of": (START + MINUTE + SKEW + MINUTE).isoformat()}, "as_of is in the future"),
    ({"as_of": "2026-04-01T00:00:00Z", "period_start": "2026-04-01T01:00:00Z"}, "as_of is before period_start"),
]


async def test_a_bad_line_costs_itself_and_is_named_by_its_number(stage):
    ids = ids_of(stage)
    text = io.StringIO()
    rows = csv.DictWriter(text, HEADINGS.split(","), restval="")
    rows.writeheader()
    for wrong, _ in NONSENSE:
        rows.writerow({**GOOD, **wrong})
    rows.writerow({**GOOD, "subscription": ids[0].removeprefix("sub@"), "as_of": (START + SKEW).isoformat()})
    rows.writerow({**GOOD, "subscription": ids[1]})
    rows.writerow({**GOOD, "subscription": ids[1], "used": "5"})
    done = await import_usage(stage.tools, stage.account, text.getvalue().splitlines(keepends=True))
    assert (done.lines, done.new) == (len(NONSENSE) + 3, 1)
    *reasons, twice, thrice = done.bad
    for number, ((wrong, expected), (line, reason)) in enumerate(zip(NONSENSE, reasons, strict=True), start=2):
        assert line == number, wrong
        assert expected in reason, wrong
        assert not any(value in reason for value in wrong.values() if len(value) > 3)
    assert twice[1] == thrice[1]
    assert twice[1].startswith(f"lines {twice[0]}, {thrice[0]} are about one subscription")
    async with stage.db.read() as conn:
        found = (await conn.execute(select(usages.c.used_usd, usages.c.as_of))).one()
    assert tuple(found) == (Decimal(402), stage.world.now), "a clock a little ahead of ours is taken for now"
    for headings, missing in (("", "subscription"), ("id,limit,period_end", "used"), ("id,used,limit", "period_end")):
        with pytest.raises(ConfigError, match=f"the file has no column {missing}"):
            await report(stage, headings=headings)
