"""From page to mail: what a run concludes, and what it never does."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select, update

from monitor.cli.summary import pulled_words
from monitor.domain.halt import Halt, HaltRule
from monitor.domain.model import Mode, Source
from monitor.errors import ConfigError, FencedOffError, ProviderAuthError, ProviderUnavailableError, StoreError
from monitor.sandbox import acts
from monitor.sandbox.entities import Merchant, Status
from monitor.sandbox.faults import dropped, error, html, raw, repeat_cursor
from monitor.sandbox.seeding import add_customer, healthy, make_trial
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.batches import collecting_batch
from monitor.store.engine import db_now
from monitor.store.locks import take_lock
from monitor.store.plans import planned_mails
from monitor.store.runs import seen_in
from monitor.store.schema import batches, episodes, events, facts, notifications, run_pages, runs, subscriptions
from monitor.usecases import run as run_module
from monitor.usecases.observe import Observed, observe
from monitor.usecases.pull import COUNTED_S
from monitor.usecases.watch import UNREAD, Watched, look_after
from monitor.usecases.watch import Cause as Watch
from monitor.usecases.writing import Pen
from tests.scale import sized

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)  # 11:00 in Budapest: mails may leave
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BUDAPEST = ZoneInfo("Europe/Budapest")


async def rows_of(stage, table, *columns):
    async with stage.db.read() as conn:
        return (await conn.execute(select(*(table.c[name] for name in columns)))).all()


async def count_of(stage, table, *conditions) -> int:
    async with stage.db.read() as conn:
        return (await conn.execute(select(func.count()).select_from(table).where(*conditions))).scalar_one()


async def settled(world_size: int, play, **how):
    """A stage whose baseline is behind it."""
    stage = await play(healthy(world_size, start=START, **how))
    assert (await stage.run()).outcome == "complete"
    stage.world.advance(MINUTE)
    return stage


def failing_with(stage, name: str, times: int = 1):
    """A failpoint that raises the first times it is passed: the process dies there."""
    passed = []

    def failpoint(point: str) -> None:
        if point == name and len(passed) < times:
            passed.append(point)
            raise RuntimeError(f"killed at {name}")

    stage.tools = replace(stage.tools, failpoint=failpoint)


def text_of(caught) -> str:
    return " ".join(caught.message.get_body(("plain",)).get_content().split())


# The baseline


MANY = sized(10_000, 1_000)


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
async def test_first_contact_with_many_rows_mails_nobody_and_one_change_after_it_is_one_mail(play):
    world = healthy(MANY, start=START)
    troubled = cause(world, {"payment_failed:insufficient_balance": 300})["payment_failed:insufficient_balance"]
    stage = await play(world)
    report = await stage.run()
    assert (report.outcome, report.baseline, report.counts["rows"]) == ("complete", True, MANY)
    assert (await stage.deliver()).sent == 0
    assert await stage.states() == {"voided": 300}
    assert {row.reason for row in await rows_of(stage, notifications, "reason")} == {"baseline"}
    assert await count_of(stage, episodes, episodes.c.muted == "baseline") == 300
    assert (await stage.row()).baselined_at == START

    world.advance(MINUTE)
    (changed,) = cause(world, {"payment_failed:allowance_exhausted": 1})["payment_failed:allowance_exhausted"]
    assert changed not in troubled
    report = await stage.run()
    assert (report.outcome, report.baseline, report.counts["events"]) == ("complete", False, 1)
    assert (await stage.deliver()).sent == 1
    (mail,) = stage.mailbox.messages
    assert mail.recipients == (world.get(changed).customer.email,)
    assert (await stage.row()).baselined_at == START, "the baseline is taken once"


async def test_a_first_run_that_notifies_mails_what_still_asks_for_something(play):
    world = healthy(100, start=START)
    cause(world, {"payment_failed:insufficient_balance": 2, "cancelled:customer": 2, "paused": 1})
    stage = await play(world)
    stage.change(notify_first=True)
    await stage.run()
    assert (await stage.deliver()).sent == 2


async def test_a_row_that_was_there_at_the_baseline_but_is_seen_later_is_silent_and_a_new_one_is_not(play):
    world = healthy(60, start=START)
    hidden = world.subscriptions[10]
    hidden.gone = True
    stage = await play(world)
    await stage.run()
    world.advance(HOUR)
    hidden.gone = False
    acts.drain_wallet(hidden.wallet)
    world.change(hidden, next_billing_at=world.now, period_end_at=world.now)
    acts.billing.wake(world, hidden)
    customer = add_customer(world, world.now)
    fresh = acts.subscribe(world, world.products[0], acts.add_wallet(world, "USDC", 0), customer)
    world.advance(MINUTE)
    assert (hidden.status, fresh.status) == (Status.PAST_DUE, Status.PAST_DUE)
    report = await stage.run()
    assert report.counts["new"] == 2
    assert (await stage.deliver()).sent == 1
    assert stage.mailbox.messages[0].recipients == (customer.email,)


# Thirty changes, thirty mails


THIRTY = {
    "low_on_funds": 4,
    "max_amount_reached": 3,
    "payment_failed:insufficient_balance": 3,
    "payment_failed:allowance_exhausted": 3,
    "payment_failed:approval_revoked": 3,
    "trial_ending": 2,
    "trial_expired": 2,
    "cancelled:customer": 2,
    "cancelled:merchant": 1,
    "cancelled:inactive_on_chain": 1,
    "cancelled:billing_failed": 2,
    "cancelled:trial_not_converted": 1,
    "stopped": 2,
    "paused": 1,
}
# What each mail must say of its subscription: (kind, text with the world's own figures)
WORDS = {
    "low_on_funds": ("low_on_funds", "Your allowance covers|top up|Left in the allowance"),
    "max_amount_reached": ("max_amount_reached", "This bill: {bill} .*Your limit now: {limit}.*{deadline}"),
    "payment_failed:insufficient_balance": (
        "payment_failed",
        "held too little {symbol}.*{deadline}.*Needed in the wallet: {bill}",
    ),
    "payment_failed:allowance_exhausted": (
        "payment_failed",
        "allowance is used up.*{deadline}.*Left in the allowance: {left}",
    ),
    "payment_failed:approval_revoked": ("payment_failed", "approval on your wallet was removed.*{deadline}"),
    "trial_ending": ("trial_ending", "{next_bill}"),
    "trial_expired": ("trial_expired", "Your trial of {product} ended on Wednesday 1 April.*Wednesday 8 April, 11:01"),
    "cancelled:customer": ("cancelled", "As you asked, {product} was cancelled.*access until: {period_end}"),
    "cancelled:merchant": ("cancelled", "We cancelled {product}.*access until: {period_end}"),
    "cancelled:inactive_on_chain": ("cancelled", "not active on the blockchain any more.*access until: {period_end}"),
    "cancelled:billing_failed": (
        "cancelled",
        "because the last bill could not be paid.*Ended: Wednesday 1 April, 11:01",
    ),
    "cancelled:trial_not_converted": ("cancelled", "because it was not confirmed"),
    "stopped": ("stopped", "As you asked, {product} is stopped.*Ends: {period_end}"),
    "paused": ("paused", "{product} has been paused since Wednesday 1 April.*Paid until: {period_end}"),
}


def day(at: datetime) -> str:
    """As a mail prints a day in Budapest, without its hour."""
    local = at.astimezone(BUDAPEST)
    return f"{local:%A} {local.day} {local:%B}"


def tokens(world, sub, units: int | None) -> str:
    """The amount as printed: two decimals for a dollar token; of others only the whole part is compared."""
    currency = sub.wallet.currency
    if units is None:
        return ""
    whole = f"{units // 10**currency.decimals:,}"
    return rf"{whole}\.\d+ {currency.symbol}"


def expected_words(world, situation: str, sub) -> str:
    bill = world.amount_of(sub)
    since = sub.dunning.failing_since_at if sub.dunning else world.now
    return WORDS[situation][1].format(
        product=re.escape(sub.product.name),
        symbol=sub.wallet.currency.symbol,
        bill=tokens(world, sub, bill),
        limit=tokens(world, sub, sub.maximum),
        left=tokens(world, sub, sub.allowance),
        deadline=f"{day(since + 7 * DAY)}, 11:01",
        next_bill=day(sub.next_billing_at) if sub.next_billing_at else "",
        period_end=day(sub.period_end_at) if sub.period_end_at else "",
    )


async def test_thirty_changes_among_a_thousand_are_exactly_thirty_right_mails_and_a_second_run_sends_none(play):
    stage = await settled(1_000, play, trials=20)
    world = stage.world
    caused = cause(world, THIRTY)
    for ext_id in caused["low_on_funds"]:  # a warning comes 30 days ahead at most
        world.change(world.get(ext_id), next_billing_at=world.now + 9 * DAY, period_end_at=world.now + 9 * DAY)
    for ext_id in caused["trial_ending"]:
        make_trial(world, world.get(ext_id), world.now + 20 * HOUR)
    situation_of = {ext_id: name for name, ids in caused.items() for ext_id in ids}
    assert len(situation_of) == 30

    report = await stage.run()
    assert (report.outcome, report.counts["mails"]) == ("complete", 30)
    delivery = await stage.deliver()
    assert (delivery.sent, delivery.waiting, delivery.failed) == (30, 0, 0)

    async with stage.db.read() as conn:
        lines = {line.id: line for line in await planned_mails(conn, (await stage.row()).id)}
    mailed = {}
    for mail in stage.mailbox.messages:
        line = lines[mail.message["Message-ID"].strip("<>").partition("@")[0]]
        sub = world.get(line.subscription)
        situation = situation_of[line.subscription]
        assert mail.recipients == (sub.customer.email,)
        assert line.kind == WORDS[situation][0]
        said = text_of(mail)
        assert sub.customer.name in said
        for words in expected_words(world, situation, sub).split(".*"):
            assert re.search(words, said), (situation, words, said)
        if situation.startswith(("max", "payment")):
            assert f"manage?uuid={line.subscription}" in said, "the link of the event log"
        mailed[line.subscription] = situation
    assert mailed == situation_of

    world.advance(MINUTE)
    report = await stage.run()
    assert (report.counts["events"], report.counts["mails"]) == (0, 0)
    assert (await stage.deliver()).sent == 0
    assert len(stage.mailbox.messages) == 30


async def test_what_is_paid_again_gets_its_all_clear_once(play):
    stage = await settled(60, play)
    (failed,) = cause(stage.world, {"payment_failed:insufficient_balance": 1}).popitem()[1]
    await stage.run()
    assert (await stage.deliver()).sent == 1
    stage.world.advance(HOUR)
    cause(stage.world, {"recovered": 1})
    await stage.run()
    assert (await stage.deliver()).sent == 1
    mail = stage.mailbox.messages[-1]
    assert mail.recipients == (stage.world.get(failed).customer.email,)
    assert mail.message["In-Reply-To"] == stage.mailbox.messages[0].message["Message-ID"]
    stage.world.advance(HOUR)
    await stage.run()
    assert (await stage.deliver()).sent == 0
    kinds = {row.kind for row in await rows_of(stage, events, "kind")}
    assert {"payment_failed", "bill_paid", "healthy"} <= kinds


async def test_a_failing_bill_that_nobody_explains_waits_two_hours_for_its_cause(play):
    stage = await settled(60, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    blind = [stage.faults.add(error(500, "internal"), route=route) for route in ("failures", "events")]
    report = await stage.run()
    assert any("event log" in problem for problem in report.problems)
    assert (await stage.deliver()).sent == 0
    stage.faults.rules = [rule for rule in stage.faults.rules if rule not in blind]
    stage.world.advance(10 * MINUTE)
    await stage.run()
    assert (await stage.deliver()).sent == 1, "the cause is told now: no reason to wait"
    assert "held too little" in text_of(stage.mailbox.messages[0])


async def test_a_cause_that_never_comes_is_a_check_list_after_two_hours(play):
    stage = await settled(60, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    for route in ("failures", "events"):
        stage.faults.add(error(500, "internal"), route=route)
    for minutes in (0, 119):
        stage.world.advance(minutes * MINUTE)
        await stage.run()
        assert (await stage.deliver()).sent == 0
    stage.world.advance(MINUTE)
    await stage.run()
    assert (await stage.deliver()).sent == 1
    assert "held too little" not in text_of(stage.mailbox.messages[0])


# What is not mailed


async def test_an_unknown_status_is_kept_and_reported_once_and_mails_nobody(play):
    stage = await settled(60, play)
    (odd,) = cause(stage.world, {"unknown_status": 1})["unknown_status"]
    report = await stage.run()
    assert (report.outcome, report.counts["unknown"]) == ("complete", 1)
    stage.world.advance(HOUR)
    report = await stage.run()
    assert report.counts["unknown"] == 0
    assert [row.kind for row in await rows_of(stage, events, "kind")] == ["unknown"]
    (row,) = [one for one in await rows_of(stage, subscriptions, "ext_id", "status", "status_raw") if one.ext_id == odd]
    assert (row.status, row.status_raw) == ("unknown", "frozen")
    assert (await stage.deliver()).sent == 0


async def test_rows_of_the_test_mode_are_never_mailed_by_a_live_account(play):
    stage = await settled(60, play)
    stage.faults.bend = lambda row: {**row, "test": True}
    cause(stage.world, {"payment_failed:insufficient_balance": 2})
    await stage.run()
    assert (await stage.deliver()).sent == 0
    assert {row.reason for row in await rows_of(stage, notifications, "reason")} == {"test_row"}


async def test_a_test_account_that_says_so_is_mailed(play):
    stage = await play(healthy(60, start=START, merchant=Merchant(mode="test")))
    await stage.run()
    stage.world.advance(MINUTE)
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    await stage.run()
    assert (await stage.deliver()).sent == 1


@pytest.mark.parametrize(("key_mode", "ours"), [("test", Mode.LIVE), ("live", Mode.TEST)])
async def test_a_key_of_the_other_mode_is_refused(play, key_mode, ours):
    stage = await play(healthy(5, start=START, merchant=Merchant(mode=key_mode)))
    stage.change(mode=ours)
    with pytest.raises(ConfigError, match=rf"accounts.acme.mode: .* the key is a {key_mode} key"):
        await stage.run()
    assert await count_of(stage, subscriptions) == 0


async def test_an_account_that_was_tried_in_test_mode_does_not_go_live_under_the_same_name(play):
    stage = await play(healthy(5, start=START, merchant=Merchant(mode="test")))
    await stage.run()
    stage.world.merchant = replace(stage.world.merchant, mode="live")
    stage.change(mode=Mode.LIVE)
    stage.faults.me = {"test": False}
    with pytest.raises(ConfigError, match=r"recorded in test mode: .* \[accounts.acme-live\]"):
        await stage.run()


async def test_a_key_of_another_merchant_is_refused(play):
    stage = await settled(5, play)
    stage.faults.me = {"uuid": "0198d002-0000-7000-8000-00000000ffff"}
    with pytest.raises(ConfigError, match="belongs to another space"):
        await stage.run()


async def test_a_refused_key_says_so_and_frees_the_lock(play):
    stage = await settled(5, play)
    stage.faults.revoked = True
    for _ in range(2):
        with pytest.raises(ProviderAuthError):
            await stage.run()


@pytest.mark.parametrize(("seconds", "fits"), [(300, True), (301, False), (-300, True), (-301, False)])
async def test_a_clock_more_than_five_minutes_off_is_refused(play, seconds, fits):
    stage = await settled(5, play)
    stage.faults.clock_skew = timedelta(seconds=seconds)
    if fits:
        assert (await stage.run()).outcome == "complete"
    else:
        with pytest.raises(ConfigError, match="clock and the API's differ by 301 s"):
            await stage.run()


# Partial sweeps


BREAKS = {
    "a gateway's page": html(200),
    "an error": error(500, "internal"),
    "a broken connection": dropped(100),
    "the same cursor again": repeat_cursor,
    "an empty body": raw(b""),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_sweep_that_breaks_concludes_nothing(play, name):
    stage = await play(healthy(250, start=START))
    act = BREAKS[name]
    stage.faults.add(act, route="subscriptions", page=2)
    report = await stage.run()
    assert (report.outcome, report.counts["rows"] in {100, 200}) == ("partial", True)
    assert report.problems[0].startswith("window 1: ")
    row = await stage.row()
    assert (row.baselined_at, row.sweep_started_at) == (None, None)
    stage.faults.clear()
    stage.world.advance(MINUTE)
    report = await stage.run()
    assert (report.outcome, report.baseline) == ("complete", True)
    baselined = (await stage.row()).baselined_at
    sweep = (await stage.row()).sweep_started_at

    stage.world.advance(MINUTE)
    cause(stage.world, {"vanished": 1, "payment_failed:insufficient_balance": 1})
    stage.faults.add(act, route="subscriptions", page=2)
    report = await stage.run()
    assert (report.outcome, report.counts["missing"], report.counts["gone"]) == ("partial", 0, 0)
    assert ((await stage.row()).baselined_at, (await stage.row()).sweep_started_at) == (baselined, sweep)
    states = [row.state for row in await rows_of(stage, runs, "state")]
    assert states == ["partial", "complete", "partial"]


async def prices_told(stage) -> list[str]:
    found = await look_after(stage.db, [Watched("acme", "0 7 * * *", ZoneInfo("UTC"))], stage.world.now)
    return [one.sentence for one in found if one.cause is Watch.PRICES]


async def test_products_that_cannot_be_read_cost_words_only_and_are_told_after_six_hours(play):
    stage = await settled(60, play)
    stage.faults.add(error(500, "internal"), route="products")
    since = stage.tools.clock.now()
    report = await stage.run()
    assert report.outcome == "complete"
    assert report.problems[0].startswith("products: ")
    stage.world.advance(UNREAD - MINUTE)
    assert await prices_told(stage) == []
    await stage.run()  # later trouble does not begin the six hours anew
    stage.world.advance(MINUTE)
    (told,) = await prices_told(stage)
    assert f"cannot be read since {since:%Y-%m-%d %H:%M} UTC" in told
    assert report.problems[0].removeprefix("products: ").split(", request id")[0] in told
    stage.faults.clear()
    await stage.run()
    assert await prices_told(stage) == []
    row = await stage.row()
    assert (row.prices_unread_since, row.prices_problem) == (None, None)


async def test_an_api_that_is_out_of_reach_raises_and_leaves_no_run_behind(play):
    stage = await settled(5, play)
    stage.faults.add(error(500, "internal"), route="me")
    with pytest.raises(ProviderUnavailableError):
        await stage.run()
    assert await count_of(stage, runs, runs.c.state == "running") == 0


async def test_pages_that_stay_empty_end_as_a_circle(play):
    stage = await settled(250, play)
    fresh = iter(range(10_000))

    def empty(call, answer):
        return replace(answer, rows=(), next_cursor=answer.next_cursor or f"more-{next(fresh)}")

    stage.faults.add(empty, route="subscriptions")
    stage.faults.add(lambda _call, answer: replace(answer, status=200), route="subscriptions")
    report = await stage.run()
    assert report.outcome == "partial"
    assert report.counts["missing"] == 0


async def test_two_empty_pages_in_a_row_are_no_circle(play):
    """Rows may be filtered behind the page; only the cursor says that the walk has ended."""
    stage = await settled(450, play)
    for number in (2, 3):
        stage.faults.add(lambda _call, answer: replace(answer, rows=()), route="subscriptions", page=number)
    report = await stage.run()
    assert "circle" not in " ".join(report.problems)


# Absence


async def test_who_is_missing_is_asked_about_and_the_second_404_is_an_event_but_never_a_mail(play):
    stage = await settled(60, play)
    (gone,) = cause(stage.world, {"vanished": 1})["vanished"]
    outcomes = []
    for _ in range(3):
        stage.world.advance(HOUR)
        report = await stage.run()
        outcomes.append((report.counts["missing"], report.counts["gone"], await count_of(stage, events)))
    assert outcomes == [(1, 1, 0), (1, 1, 1), (1, 1, 1)]
    (event,) = await rows_of(stage, events, "kind", "old", "new")
    assert tuple(event) == ("gone", "healthy", "gone")
    assert (await stage.deliver()).sent == 0
    assert await count_of(stage, subscriptions, subscriptions.c.ext_id == gone) == 1


async def test_who_is_missing_from_the_list_but_there_when_asked_is_observed(play):
    stage = await settled(60, play)
    (shy,) = cause(stage.world, {"payment_failed:insufficient_balance": 1}).popitem()[1]
    stage.faults.add(
        lambda _call, answer: replace(answer, rows=tuple(row for row in answer.rows if shy not in row)),
        route="subscriptions",
    )
    report = await stage.run()
    assert (report.counts["missing"], report.counts["gone"]) == (1, 0)
    assert (await stage.deliver()).sent == 1


async def test_a_404_that_was_followed_by_a_sighting_starts_again(play):
    stage = await settled(60, play)
    (shy,) = cause(stage.world, {"vanished": 1})["vanished"]
    stage.world.advance(HOUR)
    await stage.run()
    sub = stage.world.subscriptions[stage.world.ids.read("subscription", shy)]
    sub.gone = False
    stage.world.change(sub, reference="seen again")
    stage.world.advance(HOUR)
    await stage.run()
    sub.gone = True
    stage.world.advance(HOUR)
    await stage.run()
    assert await count_of(stage, events, events.c.kind == "gone") == 0


async def test_a_question_that_nobody_answers_ends_the_questions_and_is_told(play):
    stage = await settled(60, play)
    cause(stage.world, {"vanished": 3})
    stage.faults.add(error(500, "internal"), route="subscription")
    report = await stage.run()
    assert (report.outcome, report.counts["missing"], report.counts["gone"]) == ("complete", 3, 0)
    assert len([problem for problem in report.problems if problem.startswith("sub@")]) == 1


async def test_a_stop_signal_ends_the_questions(play):
    stage = await settled(60, play)
    cause(stage.world, {"vanished": 3})
    stopped = []
    stage.faults.add(lambda call, answer: stopped.append(call) or answer, route="subscription")
    stage.tools = replace(stage.tools, stopping=lambda: bool(stopped))
    report = await stage.run()
    assert (report.counts["missing"], report.counts["gone"]) == (3, 1)


async def test_a_bad_row_counts_as_seen(play):
    stage = await settled(60, play)
    stage.faults.mangled = {stage.world.id_of(stage.world.subscriptions[5]): "naive_time"}
    report = await stage.run()
    assert (report.counts["bad"], report.counts["missing"]) == (1, 0)


# Windows


async def test_after_the_baseline_windows_of_creation_time_see_each_row_also_on_their_edges(play, monkeypatch):
    monkeypatch.setattr(run_module, "ROWS_PER_WINDOW", 50)
    stage = await settled(215, play)
    stage.faults.calls.clear()
    report = await stage.run()
    walks = {
        (call.query.get("createdAfter"), call.query["createdBefore"])
        for call in stage.faults.calls
        if call.route == "subscriptions"
    }
    assert len(walks) == 4
    assert (report.outcome, report.counts["missing"], report.counts["new"]) == ("complete", 0, 0)
    assert report.counts["rows"] >= 215
    async with stage.db.read() as conn:
        assert len(list(await seen_in(conn, report.run_id))) == 215
    # each inner edge is the creation of a row, which both bounds exclude: only the overlap shows it
    edges = sorted(before for _, before in walks)[:-1]
    created = {sub.created_at.isoformat().replace("+00:00", "Z") for sub in stage.world.subscriptions}
    assert set(edges) <= created


async def test_one_broken_window_does_not_stop_the_others(play, monkeypatch):
    monkeypatch.setattr(run_module, "ROWS_PER_WINDOW", 50)
    stage = await settled(215, play)
    oldest = min(sub.created_at for sub in stage.world.subscriptions)
    cause(stage.world, {"vanished": 1})

    def break_first(call, answer):
        return answer if "createdAfter" in call.query else error(500, "internal")(call, answer)

    stage.faults.add(break_first, route="subscriptions")
    report = await stage.run()
    assert report.outcome == "partial"
    assert [problem[:9] for problem in report.problems] == ["window 1:"]
    assert (report.counts["pages"], report.counts["missing"]) == (3, 0)
    assert oldest < stage.world.now


async def test_the_first_run_walks_one_window(play):
    stage = await play(healthy(215, start=START))
    await stage.run()
    calls = [call for call in stage.faults.calls if call.route == "subscriptions"]
    assert {call.query.get("createdAfter") for call in calls} == {None}


# Killed, resumed, abandoned


@pytest.mark.parametrize(
    "point",
    [
        "after_page_fetch",
        "before_page",
        "after_fence",
        "after_observe",
        "before_page_commit",
        "after_page_commit",
        "before_gate",
        "before_gate_commit",
    ],
)
async def test_a_run_that_was_killed_goes_on_and_each_change_is_one_mail(play, point):
    stage = await settled(150, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 3})
    failing_with(stage, point)
    with pytest.raises(RuntimeError, match="killed"):
        await stage.run()
    assert (await stage.deliver()).sent == 0, "staged mails stay silent until a gate"
    stage.world.advance(MINUTE)
    report = await stage.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    assert (await stage.deliver()).sent == 3
    assert await count_of(stage, events) == 3


async def test_a_resumed_run_reads_only_the_pages_that_are_missing(play, monkeypatch):
    monkeypatch.setattr("monitor.usecases.pull.PAGES_PER_WRITE", 1)
    stage = await settled(450, play)
    stage.faults.requests.clear()
    failing_with(stage, "after_page_commit", times=1)
    with pytest.raises(RuntimeError):
        await stage.run()
    done = await count_of(stage, run_pages, run_pages.c.run_id == 2)
    assert 0 < done < 5
    stage.faults.requests.clear()
    report = await stage.run()
    assert (report.resumed, report.outcome) == (True, "complete")
    assert stage.faults.requests["subscriptions"] == 5 - done
    assert report.counts["missing"] == 0, "who was on the pages of the killed process counts as seen"
    assert report.counts["rows"] + report.counts["rows_before"] == 450
    assert "before it was interrupted" in pulled_words(report)


async def test_a_run_killed_after_its_last_page_reads_none_again(play):
    stage = await settled(150, play)
    failing_with(stage, "before_gate")
    with pytest.raises(RuntimeError):
        await stage.run()
    stage.faults.requests.clear()
    assert (await stage.run()).outcome == "complete"
    assert stage.faults.requests["subscriptions"] == 0


async def test_a_stop_signal_leaves_a_run_that_the_next_start_finishes(play):
    stage = await settled(450, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 3})
    pages = []
    stage.faults.add(lambda call, answer: pages.append(call) or answer, route="subscriptions")
    running = stage.tools
    stage.tools = replace(running, stopping=lambda: len(pages) >= 2)
    report = await stage.run()
    assert report.outcome == "interrupted"
    assert (await stage.states()).get("ready", 0) == 0
    stage.tools = running
    report = await stage.run()
    assert (report.outcome, report.resumed) == ("complete", True)
    assert (await stage.deliver()).sent == 3


async def test_a_stop_signal_in_the_event_log_is_told(play):
    stage = await settled(60, play)
    stage.tools = replace(stage.tools, stopping=lambda: True)
    report = await stage.run()
    assert report.outcome == "interrupted"
    assert "event log: interrupted" in report.problems


@pytest.mark.parametrize(("hours", "resumed"), [(5.99, True), (6, False)])
async def test_after_six_hours_an_unfinished_run_is_given_up_and_gated_as_partial(play, hours, resumed):
    stage = await settled(150, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 3})
    failing_with(stage, "before_gate")
    with pytest.raises(RuntimeError):
        await stage.run()
    stage.world.advance(timedelta(hours=hours))
    report = await stage.run()
    assert (report.outcome, report.resumed) == ("complete", resumed)
    states = [row.state for row in await rows_of(stage, runs, "state")]
    assert states == (["complete", "complete"] if resumed else ["complete", "abandoned", "complete"])
    assert {row.state for row in await rows_of(stage, batches, "state")} == {"open"}
    stage.world.advance(to=START + DAY)
    assert (await stage.deliver()).sent == 3


async def test_a_run_killed_in_the_future_of_a_wrong_clock_is_not_resumed(play):
    stage = await settled(60, play)
    failing_with(stage, "before_gate")
    with pytest.raises(RuntimeError):
        await stage.run()
    async with stage.db.write() as conn:
        await conn.execute(update(runs).where(runs.c.state == "running").values(bound_at=stage.world.now + DAY))
    assert not (await stage.run()).resumed


async def test_a_slot_that_has_its_run_is_done_already(play):
    stage = await settled(60, play)
    assert (await stage.run(slot="2026-04-01", trigger="daemon")).outcome == "complete"
    assert (await stage.run(slot="2026-04-01", trigger="daemon")).outcome == "already_done"
    assert (await stage.run(slot="2026-04-02", trigger="daemon")).outcome == "complete"


# Overlap


async def test_of_many_starts_at_once_one_works_and_the_others_say_so(play):
    stage = await settled(150, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 3})
    outcomes = [report.outcome for report in await asyncio.gather(*(stage.run() for _ in range(20)))]
    assert sorted(outcomes) == ["already_running"] * 19 + ["complete"]
    assert (await stage.deliver()).sent == 3


@pytest.mark.traced
async def test_a_lease_of_another_machine_is_respected_where_files_cannot_tell(play):
    stage = await settled(60, play)
    async with stage.db.write() as conn:
        await take_lock(conn, "run:acme", "another-host:1:abc")
    expected = "complete" if stage.db.is_sqlite else "already_running"
    assert (await stage.run()).outcome == expected


async def test_who_slept_past_the_lease_writes_nothing(play):
    stage = await settled(150, play)
    cause(stage.world, {"payment_failed:insufficient_balance": 3})
    taken = []

    async def another_takes_over():
        if not taken:
            async with stage.db.write() as conn:
                taken.append(await take_lock(conn, "run:acme", "another", steal=True))

    stage.faults.add(route="subscriptions", wait=another_takes_over)
    with pytest.raises(FencedOffError):
        await stage.run()
    assert await count_of(stage, events) == 0
    assert await count_of(stage, run_pages, run_pages.c.run_id == 2) == 0


async def test_a_heartbeat_keeps_the_lease_and_ends_when_another_has_it(play):
    stage = await settled(60, play)
    beats = []

    async def sleep(seconds: float) -> None:
        beats.append(seconds)
        await asyncio.sleep(0)
        if len(beats) == 2:
            async with stage.db.write() as conn:
                await take_lock(conn, "run:acme", "another", steal=True)

    async def until_beaten():
        while len(beats) < 2:
            await asyncio.sleep(0.001)

    stage.tools = replace(stage.tools, sleep=sleep)
    stage.faults.add(route="subscriptions", wait=until_beaten)
    with pytest.raises(FencedOffError):
        await stage.run()
    assert beats[:2] == [15.0, 15.0]


# Time travel


async def test_an_instant_named_by_the_operator_moves_decisions_and_is_remembered(play):
    stage = await play(healthy(60, start=START, merchant=Merchant(mode="test")))
    assert (await stage.run(at=START + 3 * DAY)).now_at == START + 3 * DAY
    stage.world.advance(HOUR)
    assert (await stage.run()).now_at == START + 3 * DAY + HOUR
    assert (await stage.row()).time_travel == 3 * DAY


# One change, several tellers


async def read_one(stage, ext_id: str) -> Observed:
    async with stage.db.read() as conn:
        asked_at = await db_now(conn)
    snapshot, raw_row = await stage.account.provider.subscription(ext_id)
    return Observed(snapshot, raw_row, asked_at)


async def hear(stage, seen: list[Observed], **how):
    """As a webhook's refetch does it."""
    row = await stage.row()
    async with stage.db.write() as conn:
        batch = await collecting_batch(conn, row.id, "live", stage.world.now)
        pen = Pen(stage.world.now, Source.WEBHOOK, batch)
        return await observe(conn, row, stage.account.policy(row), seen, pen, stage.tools.address_mac, **how)


@pytest.mark.parametrize("order", ["hook first", "page first", "at once"])
async def test_a_page_and_a_hook_of_one_change_are_one_event_and_one_mail(play, order):
    stage = await settled(60, play)
    ids = cause(stage.world, {"payment_failed:insufficient_balance": 8})["payment_failed:insufficient_balance"]

    async def hooks():
        seen = [await read_one(stage, ext_id) for ext_id in ids for _ in range(2)]
        await asyncio.gather(*(hear(stage, [one]) for one in seen))

    if order == "at once":
        await asyncio.gather(hooks(), stage.run())
    else:
        steps = [hooks, stage.run] if order == "hook first" else [stage.run, hooks]
        for step in steps:
            await step()
    assert await count_of(stage, events, events.c.kind == "payment_failed") == 8
    assert sum((await stage.states()).values()) == 8


async def test_an_older_observation_never_overwrites_a_newer_one(play):
    stage = await settled(60, play)
    ext_id = stage.world.id_of(stage.world.subscriptions[3])
    old = await read_one(stage, ext_id)
    stage.world.advance(HOUR)
    stage.world.change(stage.world.get(ext_id), reference="newer")
    await hear(stage, [await read_one(stage, ext_id)])
    older = replace(old, snapshot=replace(old.snapshot, reference="late"), asked_at=old.asked_at + HOUR)
    assert (await hear(stage, [older])).dropped == 1
    same = await read_one(stage, ext_id)
    earlier = replace(same, snapshot=replace(same.snapshot, reference="earlier"), asked_at=same.asked_at - HOUR)
    assert (await hear(stage, [earlier])).dropped == 1
    ageless = replace(older, snapshot=replace(older.snapshot, provider_updated_at=None), asked_at=old.asked_at)
    assert (await hear(stage, [ageless])).dropped == 1
    newest = replace(same, snapshot=replace(same.snapshot, reference="at last"), asked_at=same.asked_at + HOUR)
    assert (await hear(stage, [newest, same])).changed == 1
    (row,) = [one for one in await rows_of(stage, subscriptions, "ext_id", "reference") if one.ext_id == ext_id]
    assert row.reference == "at last"


async def test_a_reading_that_told_nothing_new_is_the_newer_one_all_the_same(play):
    """A vendor may move `updatedAt` alone; what changed and changed back between two readings must not come after."""
    stage = await settled(5, play)
    same = await read_one(stage, stage.world.id_of(stage.world.subscriptions[3]))
    updated_at = same.snapshot.provider_updated_at

    def later(hours: int, **values: object) -> Observed:
        snapshot = replace(same.snapshot, provider_updated_at=updated_at + hours * HOUR, **values)
        return replace(same, snapshot=snapshot, asked_at=same.asked_at + hours * HOUR)

    for one in (later(2), replace(later(3), snapshot=replace(same.snapshot, provider_updated_at=None))):
        assert (await hear(stage, [one], touch=True)).changed == 0
    flapped = later(1, reference="flapped")
    for asked_at in (flapped.asked_at, same.asked_at + 4 * HOUR):  # the second by an API that lags behind itself
        assert (await hear(stage, [replace(flapped, asked_at=asked_at)], touch=True)).dropped == 1


@pytest.mark.parametrize("seconds", [1, 60])
async def test_a_page_is_never_taken_for_newer_than_the_database_has_it(play, seconds):
    """Our own clock counts between two answers of the database, and is not believed for long."""
    stage = await play(healthy(250, start=START))
    ticks = count(step=seconds)
    clock = stage.tools.clock
    clock.monotonic = lambda: next(ticks)
    async with stage.db.read() as conn:
        before = await db_now(conn)
    assert (await stage.run()).outcome == "complete"
    async with stage.db.read() as conn:
        after = await db_now(conn)
    asked = {row.asked_at for row in await rows_of(stage, subscriptions, "asked_at")}
    assert before <= min(asked)
    assert max(asked) <= after + (timedelta(seconds=COUNTED_S) if seconds == 1 else timedelta())


async def test_a_row_that_two_see_for_the_first_time_is_one_row(play):
    stage = await settled(60, play)
    stage.world.advance(HOUR)
    customer = add_customer(stage.world, stage.world.now)
    fresh = acts.subscribe(stage.world, stage.world.products[0], acts.add_wallet(stage.world, "USDC", 0), customer)
    stage.world.advance(MINUTE)
    seen = await read_one(stage, stage.world.id_of(fresh))
    outcomes = await asyncio.gather(*(hear(stage, [seen]) for _ in range(6)))
    assert sum(one.new for one in outcomes) == 1
    assert [row.kind for row in await rows_of(stage, events, "kind")] == ["created", "payment_failed"]


async def test_the_database_refuses_what_the_row_lock_should_have_prevented(play):
    stage = await settled(60, play)
    async with stage.db.write() as conn:
        values = {
            "account_id": 1,
            "subscription_id": 1,
            "seq": 1,
            "kind": "x",
            "source": "pull",
            "at": START,
            "asked_at": START,
        }
        await conn.execute(events.insert().values(**values))
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with stage.db.write() as conn:
            await conn.execute(events.insert().values(**values))


# Facts


async def test_a_fact_about_a_subscription_never_seen_waits_until_a_page_shows_it(play):
    stage = await settled(60, play)
    customer = add_customer(stage.world, stage.world.now)
    acts.subscribe(stage.world, stage.world.products[0], acts.add_wallet(stage.world, "USDC", 0), customer)
    await stage.run()  # created at this very instant: not before the run's bound, so no page shows it
    assert await count_of(stage, subscriptions) == 60
    assert await count_of(stage, facts, facts.c.done_at.is_(None)) > 0
    stage.world.advance(10 * MINUTE)
    await stage.run()
    assert await count_of(stage, subscriptions) == 61
    assert await count_of(stage, facts, facts.c.done_at.is_(None)) == 0
    assert (await stage.deliver()).sent == 1
    said = text_of(stage.mailbox.messages[0])
    assert "held too little USDC" in said
    assert "manage?uuid=" in said


async def test_the_log_is_walked_down_to_the_last_event_known_and_no_further(play):
    stage = await settled(60, play)
    cause(stage.world, {"paused": 5})
    first = await stage.run()
    assert first.counts["facts"] > 0
    mark = (await stage.row()).log_watermark
    stage.world.advance(MINUTE)
    again = await stage.run()
    assert (again.counts["facts"], (await stage.row()).log_watermark) == (0, mark)
    cause(stage.world, {"stopped": 5})
    third = await stage.run()
    assert third.counts["facts"] == 5
    assert (await stage.row()).log_watermark != mark


async def test_a_log_that_goes_round_in_a_circle_ends_and_its_watermark_stays(play):
    stage = await settled(200, play)
    cause(stage.world, {"stopped": 40})
    for sub in list(stage.world.living())[:140]:
        if sub.status is Status.ACTIVE:
            stage.world.change(sub, status=Status.PAUSED)
    assert len(stage.world.happenings) > 100
    stage.change(guard=replace(stage.account.guard, small=10_000, min_population=10_000))
    cursors = []

    def circle(call, answer):
        cursors.append(answer.next_cursor)
        return replace(answer, next_cursor=cursors[0])

    stage.faults.add(circle, route="events")
    before = (await stage.row()).log_watermark
    report = await stage.run()
    assert "event log: the event log's cursors go round in a circle" in report.problems
    assert (await stage.row()).log_watermark == before
    stage.faults.clear()
    stage.world.advance(MINUTE)
    await stage.run()
    assert (await stage.row()).log_watermark != before


async def test_a_provider_without_a_log_or_failures_is_walked_all_the_same(play):
    from monitor.providers.base import Capability

    stage = await settled(60, play)
    stage.account.provider.capabilities = frozenset({Capability.LIST, Capability.SUBSCRIPTIONS})
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    stage.faults.requests.clear()
    assert (await stage.run()).outcome == "complete"
    assert stage.faults.requests["events"] == stage.faults.requests["failures"] == 0


async def test_a_link_alone_is_no_reason_to_judge_again_and_a_cause_is(play):
    stage = await settled(60, play)
    (paused,) = cause(stage.world, {"paused": 1})["paused"]
    await stage.run()
    looks = {row.ext_id: row.next_look_at for row in await rows_of(stage, subscriptions, "ext_id", "next_look_at")}
    assert looks[paused] is None


# Moved, and paused


async def test_a_customer_who_moves_gets_the_mail_at_the_new_address_only(play):
    stage = await settled(60, play)
    (failed,) = cause(stage.world, {"payment_failed:insufficient_balance": 1}).popitem()[1]
    await stage.run()
    stage.world.get(failed).customer.email = "moved@customer.example"
    stage.world.advance(MINUTE)
    await stage.run()
    assert (await stage.deliver()).sent == 1
    assert stage.mailbox.messages[0].recipients == ("moved@customer.example",)


async def test_an_account_paused_by_hand_is_still_observed(play):
    stage = await settled(60, play)
    async with stage.db.write() as conn:
        await change_account(conn, (await stage.row()).id, paused_at=stage.world.now)
    cause(stage.world, {"payment_failed:insufficient_balance": 1})
    assert (await stage.run()).counts["events"] == 1
    assert (await stage.deliver()).stopped_by == Halt(HaltRule.PAUSED_BY_HAND)
