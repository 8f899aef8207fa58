"""The guard through whole runs: each limit at the limit and one above, and twenty hiccups that must mail nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select, update

from monitor.domain.guard import GuardLimits
from monitor.errors import ConfigError
from monitor.mail.smtp import SmtpTransport
from monitor.sandbox import acts
from monitor.sandbox.seeding import _paid_subscription, healthy, make_trial
from monitor.sandbox.transitions import cause
from monitor.store.schema import batches, instance, notifications, runs
from monitor.usecases.deliver import deliver_account
from monitor.usecases.operate import Operator
from tests.harness import MAILER, Stage
from tests.scale import sized

pytestmark = pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
FAILED = "payment_failed:insufficient_balance"
MASS, MISSING, VOLUME, UNKNOWN = "a_mass_change", "b_missing", "c_volume", "d_unknown"


async def baselined(play, size: int) -> Stage:
    stage = await play(healthy(size, start=START))
    assert (await stage.run()).outcome == "complete"
    stage.world.advance(MINUTE)
    return stage


async def rules_of(stage: Stage) -> set[str]:
    """Which rules held the newest batch."""
    async with stage.db.read() as conn:
        reason = (await conn.execute(select(batches.c.reason).order_by(batches.c.id.desc()).limit(1))).scalar_one()
    return set() if reason is None else {rule for rule, _sentence in json.loads(reason)}


async def expect(stage: Stage, rule: str | None, mails: int) -> None:
    report = await stage.run()
    assert await rules_of(stage) == ({rule} if rule else set()), report.held
    assert report.outcome == ("held" if rule else "complete")
    assert (await stage.deliver()).sent == (0 if rule else mails)
    assert (await stage.states()) == {"held" if rule else "sent": mails}


@pytest.mark.parametrize(
    ("population", "changed", "rule"),
    [(100, 20, None), (100, 21, MASS), (50, 10, None), (50, 11, MASS), (49, 10, None), (49, 11, MASS), (51, 11, MASS)],
)
async def test_rule_a_counts_one_kind_of_bad_news_in_a_day(play, population, changed, rule):
    stage = await baselined(play, population)
    cause(stage.world, {FAILED: changed})
    await expect(stage, rule, changed)


@pytest.mark.parametrize(("population", "rule"), [(49, MASS), (50, None)])
async def test_rule_a_counts_by_share_from_a_population_of_fifty(play, population, rule):
    """At the default share both ways give ten of fifty; another share tells them apart."""
    stage = await baselined(play, population)
    stage.change(guard=GuardLimits(share=Decimal("0.5")))
    cause(stage.world, {FAILED: 11})
    await expect(stage, rule, 11)


async def test_rule_a_counts_each_kind_for_itself(play):
    stage = await baselined(play, 100)
    cause(stage.world, {FAILED: 20, "max_amount_reached": 20, "paused": 20})
    await expect(stage, None, 60)


async def test_rule_a_counts_the_day_not_the_run(play):
    stage = await baselined(play, 100)
    cause(stage.world, {FAILED: 15})
    await expect(stage, None, 15)
    stage.world.advance(HOUR)
    cause(stage.world, {FAILED: 6})
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == ("held", {MASS})
    assert (await stage.deliver()).sent == 0


async def test_rule_a_forgets_what_is_older_than_a_day(play):
    stage = await baselined(play, 100)
    cause(stage.world, {"paused": 15})
    await expect(stage, None, 15)
    stage.world.advance(DAY)
    cause(stage.world, {"paused": 6})
    assert (await stage.run()).outcome == "complete"


async def test_a_day_after_a_rejected_plan_only_runs_with_mails_are_held(play):
    stage = await baselined(play, 100)
    cause(stage.world, {FAILED: 21})
    refused = await stage.run()
    assert (await Operator(stage.tools, "anna", stage.state_dir).reject(refused.batch_id)).ok
    stage.world.advance(HOUR)
    assert ((await stage.run()).outcome, await rules_of(stage)) == ("complete", set()), "no mail: nothing to decide"
    stage.world.advance(HOUR)
    cause(stage.world, {FAILED: 1})
    assert ((await stage.run()).outcome, await rules_of(stage)) == ("held", {MASS})


async def test_mails_that_a_person_holds_already_are_no_way_around_the_guard(play):
    stage = await baselined(play, 100)
    cause(stage.world, {"cancelled:merchant_closed": 21})  # each of these waits for a person from the start
    report = await stage.run()
    assert (report.counts["mails"], report.outcome, await rules_of(stage)) == (0, "held", {MASS})


async def test_a_partial_sweep_is_judged_by_the_rows_it_saw(play):
    stage = await baselined(play, 300)
    newest = [stage.world.id_of(sub) for sub in reversed(stage.world.subscriptions)][:100]
    for ext_id in newest[:21]:
        acts.pause(stage.world, stage.world.get(ext_id))
    stage.faults.add(
        lambda call, answer: replace(answer, status=500, rows=None, body=b"{}"), route="subscriptions", page=2
    )
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == ("held", {MASS})
    async with stage.db.read() as conn:
        states = (await conn.execute(select(runs.c.state).order_by(runs.c.id))).scalars().all()
    assert states == ["complete", "partial"]


@pytest.mark.parametrize(("gone", "rule"), [(10, None), (11, MISSING)])
async def test_rule_b_ten_of_a_hundred_may_be_missing(play, gone, rule):
    stage = await baselined(play, 100)
    cause(stage.world, {"vanished": gone, FAILED: 1})
    stage.faults.requests.clear()
    await expect(stage, rule, 1)
    assert stage.faults.requests["subscription"] == (0 if rule else gone), "held: nobody is asked about them"


async def test_rule_b_is_of_those_known_before_the_sweep_whatever_came_new(play):
    """Rows under new ids must not thin the share of the missing ones."""
    stage = await baselined(play, 100)
    cause(stage.world, {"vanished": 11})
    stage.faults.rules.clear()
    for n in range(100):
        _paid_subscription(stage.world, START - DAY + n * MINUTE)
    stage.faults.requests.clear()
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == ("held", {MISSING})
    assert stage.faults.requests["subscription"] == 0


@pytest.mark.parametrize(("changed", "rule"), [(100, None), (101, VOLUME)])
async def test_rule_c_a_hundred_mails_a_day_always_pass(play, changed, rule):
    stage = await baselined(play, 1_000)
    cause(stage.world, {"paused": changed})
    await expect(stage, rule, changed)


@pytest.mark.parametrize(("earlier", "changed", "rule"), [(50, 50, None), (50, 51, VOLUME)])
async def test_rule_c_counts_what_went_today_already(play, earlier, changed, rule):
    stage = await baselined(play, 1_000)
    cause(stage.world, {"paused": earlier})
    await expect(stage, None, earlier)
    stage.world.advance(HOUR)
    cause(stage.world, {"stopped": changed})
    report = await stage.run()
    assert await rules_of(stage) == ({rule} if rule else set())
    assert (await stage.deliver()).sent == (0 if rule else changed)
    assert report.outcome == ("held" if rule else "complete")


async def test_rule_c_counts_what_is_open_and_has_not_left_yet(play):
    stage = await baselined(play, 1_000)
    cause(stage.world, {"paused": 60})
    await stage.run()
    stage.world.advance(MINUTE)
    cause(stage.world, {"stopped": 41})
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == ("held", {VOLUME})


@pytest.mark.parametrize(("changed", "rule"), [(125, None), (126, VOLUME)])
async def test_rule_c_or_five_times_the_median_of_the_days_that_mailed(play, changed, rule):
    stage = await baselined(play, 1_000)
    cause(stage.world, {"paused": 75})
    await expect(stage, None, 75)
    async with stage.db.write() as conn:  # three days that mailed, of 20, 25 and 30: the median is 25
        ids = sorted((await conn.execute(select(notifications.c.id))).scalars())
        for days_ago, batch in ((1, ids[:20]), (2, ids[20:45]), (9, ids[45:])):
            at = stage.world.now - days_ago * DAY
            await conn.execute(update(notifications).where(notifications.c.id.in_(batch)).values(sent_at=at))
    cause(stage.world, {"stopped": changed})
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == (("held", {rule}) if rule else ("complete", set()))


@pytest.mark.parametrize(
    ("size", "odd", "rule"), [(100, 3, None), (100, 4, UNKNOWN), (500, 5, None), (500, 6, UNKNOWN)]
)
async def test_rule_d_more_than_a_percent_and_more_than_three_newly_unknown(play, size, odd, rule):
    stage = await baselined(play, size)
    ids = [stage.world.id_of(sub) for sub in stage.world.subscriptions[:odd]]
    stage.faults.mangled = {ext_id: "unknown_status" if n % 2 else "naive_time" for n, ext_id in enumerate(ids)}
    cause(stage.world, {"max_amount_reached": 1})
    report = await stage.run()
    assert await rules_of(stage) == ({rule} if rule else set())
    assert (await stage.deliver()).sent == (0 if rule else 1)
    stage.world.advance(MINUTE)
    stage.faults.mangled |= {}
    again = await stage.run()
    assert again.outcome == "complete", "what is known to be bad is not new"
    assert report.counts["bad"] == again.counts["bad"]


@pytest.mark.parametrize(("kind", "at_once", "left"), [("paused", 2, "snoozed"), (FAILED, 4, "held")])
async def test_rule_e_one_address_gets_two_mails_a_day_or_four_urgent_ones(play, kind, at_once, left):
    stage = await baselined(play, 100)
    ids = cause(stage.world, {kind: at_once + 1})[kind]
    for ext_id in ids:
        stage.world.get(ext_id).customer.email = "family@customer.example"
    assert (await stage.run()).counts["mails"] == at_once + 1
    delivery = await stage.deliver()
    assert delivery.sent == at_once
    states = await stage.states()
    if left == "held":
        assert (delivery.held, states) == (1, {"sent": at_once, "held": 1})
        assert "5 mails in 24 h" in delivery.problems[0]
    else:
        assert (delivery.snoozed["capped"], states) == (1, {"sent": at_once, "ready": 1})
        stage.world.advance(DAY)
        await stage.run()
        assert (await stage.deliver()).sent == 1


async def test_rule_f_first_contact_is_a_baseline_whatever_is_wrong(play):
    world = healthy(100, start=START)
    world.advance(MINUTE)
    cause(world, {FAILED: 60})
    stage = await play(world)
    report = await stage.run()
    assert (report.outcome, report.baseline, await rules_of(stage)) == ("complete", True, set())
    assert (await stage.deliver()).sent == 0
    assert await stage.states() == {"voided": 60}


async def test_rule_f_a_restored_database_holds_every_new_batch(play, database_url, tmp_path):
    if not database_url.startswith("sqlite"):
        pytest.skip("restoring a file is SQLite's way; PostgreSQL's is below")
    stage = await baselined(play, 100)
    await stage.db.aclose()
    backup = tmp_path / "backup.db"
    shutil.copy(tmp_path / "monitor.db", backup)
    cause(stage.world, {FAILED: 3})
    await stage.run()
    assert (await stage.deliver()).sent == 3
    await stage.db.aclose()
    for name in ("monitor.db-wal", "monitor.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    with backup.open("rb") as source, (tmp_path / "monitor.db").open("r+b") as target:
        target.truncate()
        shutil.copyfileobj(source, target)
    for _ in range(2):
        stage.world.advance(HOUR)
        report = await stage.run()
        assert (report.outcome, await rules_of(stage)) == ("held", {"f_restored"})
        assert "restored from a backup" in report.held[0]
        assert (await stage.deliver()).sent == 0


async def test_rule_f_another_cluster_holds_every_new_batch(play):
    stage = await baselined(play, 100)
    async with stage.db.write() as conn:
        await conn.execute(update(instance).values(witness='["postgresql", "another", 1]'))
    cause(stage.world, {FAILED: 3})
    report = await stage.run()
    assert (report.outcome, await rules_of(stage)) == ("held", {"f_restored"})
    assert "lives elsewhere" in report.held[0]


async def test_a_batch_of_what_time_made_due_passes_the_same_guard(play):
    world = healthy(60, trials=40, start=START)
    for sub in world.subscriptions[60:]:
        make_trial(world, sub, START + 5 * DAY)
    stage = await play(world)
    await stage.run()
    world.advance(3 * DAY + HOUR)  # within 48 hours of the end
    first = await deliver(stage)
    assert (first.sent, await staged(stage)) == (0, 40)
    world.advance(timedelta(seconds=119))
    await deliver(stage)
    assert await staged(stage) == 40, "it collects for two minutes"
    world.advance(timedelta(seconds=1))
    assert (await deliver(stage)).sent == 0
    assert await rules_of(stage) == {MASS}


async def staged(stage: Stage) -> int:
    return (await stage.states()).get("staged", 0)


async def deliver(stage: Stage):
    transport = SmtpTransport("127.0.0.1", stage.mailbox.port, security="none")
    return await deliver_account(stage.tools, stage.account, transport, MAILER)


# Twenty hiccups


@dataclass(frozen=True)
class Hiccup:
    """What the API does for one day. `held`: the day's true changes must wait too; else there is nothing to mail."""

    happens: Callable[[Stage], None]
    held: bool = True
    refused: str = ""


def bend(change: Callable[[dict], dict]) -> Callable[[Stage], None]:
    return lambda stage: setattr(stage.faults, "bend", lambda row: {**row, **change(row)})


def share(percent: int, change: Callable[[dict], dict]) -> Callable[[Stage], None]:
    return bend(lambda row: change(row) if int(row["uuid"][-4:], 16) % 100 < percent else {})


def pages(act: Callable) -> Callable[[Stage], None]:
    return lambda stage: stage.faults.add(act, route="subscriptions") and None


def shifted(row: dict) -> dict:
    return {
        name: f"{value[:-1]}+05:00"
        for name, value in row.items()
        if isinstance(value, str) and value.endswith("Z") and not value.startswith("0001")
    }


def all_vanish(stage: Stage) -> None:
    for sub in stage.world.subscriptions:
        sub.gone = True


def no_products(stage: Stage) -> None:
    for sub in stage.world.living():
        sub.product.active = False
    stage.faults.add(lambda _call, answer: replace(answer, body=b"[]"), route="products")
    bend(lambda row: {"productUuid": ""})(stage)


CANCELLED = {
    "status": "cancelled",
    "actionRequired": None,
    "cancellationReason": "customer",
    "nextBillingDate": None,
    "cancelledAt": "2026-04-01T09:00:30Z",
}
DUNNING = {
    "failedAttempts": 1,
    "remainingAttempts": 4,
    "failingSince": "2026-04-01T09:00:30Z",
    "nextAttemptAt": "2026-04-02T09:00:30Z",
}
HICCUPS = {
    "40 percent are cancelled": Hiccup(share(40, lambda row: CANCELLED)),
    "everything is missing": Hiccup(all_vanish),
    "an empty list with status 200": Hiccup(pages(lambda _call, answer: replace(answer, rows=(), next_cursor=None))),
    "half of the pages": Hiccup(
        pages(lambda call, answer: replace(answer, next_cursor=None) if call.page == 2 else answer)
    ),
    "every page shows the first one": Hiccup(pages(lambda call, answer: replace(answer, next_cursor=None))),
    "updatedAt is now everywhere": Hiccup(bend(lambda row: {"updatedAt": "2026-04-01T09:01:00Z"}), held=False),
    "everybody has one address": Hiccup(
        bend(lambda row: {"customer": {**row["customer"], "email": "one@customer.example"}}), held=False
    ),
    "prices times a hundred": Hiccup(bend(lambda row: {"priceUsd": str(Decimal(row["priceUsd"]) * 100)}), held=False),
    "times of another zone": Hiccup(bend(shifted), held=False),
    "another merchant's key": Hiccup(
        lambda stage: setattr(stage.faults, "me", {"uuid": "0198d002-0000-7000-8000-00000000ffff"}),
        refused="another space",
    ),
    "a key of the test mode": Hiccup(lambda stage: setattr(stage.faults, "me", {"test": True}), refused="test key"),
    "statuses in capitals": Hiccup(bend(lambda row: {"status": row["status"].upper()})),
    "everything is past due": Hiccup(bend(lambda row: {"status": "pastDue", "dunning": DUNNING})),
    "allowances of 0": Hiccup(bend(lambda row: {"allowance": "0"}), held=False),
    "every trial has expired": Hiccup(
        bend(lambda row: {"status": "trialExpired", "actionRequired": "confirmTrial", "lastBillingDate": None})
    ),
    "customers are null": Hiccup(bend(lambda row: {"customer": None, "customerUuid": None}), held=False),
    "other ids": Hiccup(bend(lambda row: {"uuid": row["uuid"].replace("sub@01980001", "sub@0198ffff")})),
    "products are gone": Hiccup(no_products, held=False),
    "everybody must raise the maximum": Hiccup(bend(lambda row: {"actionRequired": "raiseMaximum"})),
    "everything is a test": Hiccup(bend(lambda row: {"test": True}), held=False),
    "no next bills": Hiccup(bend(lambda row: {"nextBillingDate": None}), held=False),
    "prices of 0": Hiccup(bend(lambda row: {"priceUsd": "0"}), held=False),
    "each row twice": Hiccup(
        pages(lambda _call, answer: replace(answer, rows=tuple(row for row in answer.rows for _ in range(2)))),
        held=False,
    ),
    "everything is paused": Hiccup(bend(lambda row: {"status": "paused"})),
    "everybody must top up": Hiccup(bend(lambda row: {"actionRequired": "topUpAllowance"})),
}


@pytest.mark.parametrize("name", HICCUPS)
async def test_a_hiccup_of_the_api_mails_nobody(play, name):
    hiccup = HICCUPS[name]
    stage = await baselined(play, sized(300, 300 if "pages" in name else 120))  # several pages where they matter
    if hiccup.held:  # two true changes among the noise must wait with it
        cause(stage.world, {FAILED: 2})
    hiccup.happens(stage)
    if hiccup.refused:
        with pytest.raises(ConfigError, match=hiccup.refused):
            await stage.run()
    else:
        report = await stage.run()
        assert report.outcome == ("held" if hiccup.held else "complete"), report
        if not hiccup.held:
            assert sum((await stage.states()).values()) == 0
        if "updatedAt" in name or "twice" in name:
            assert report.counts["events"] == 0
    assert (await stage.deliver()).sent == 0
    assert stage.mailbox.messages == []


async def test_a_hiccup_of_half_an_hour_leaves_no_mail_behind_when_it_ends(play):
    """What was held for it heals and is void; the true change inside it is mailed once an operator lets it go."""
    stage = await baselined(play, 300)
    HICCUPS["everybody must raise the maximum"].happens(stage)
    assert (await stage.run()).outcome == "held"
    stage.faults.clear()
    stage.world.advance(HOUR)
    await stage.run()
    states = await stage.states()
    assert (states.get("held", 0), states.get("ready", 0)) == (0, 0)
    async with stage.db.read() as conn:
        held = (
            await conn.execute(select(func.count()).select_from(notifications).where(notifications.c.state != "voided"))
        ).scalar_one()
    assert held == 0
    assert (await stage.deliver()).sent == 0


def test_there_are_at_least_twenty_hiccups():
    assert len(HICCUPS) >= 20
