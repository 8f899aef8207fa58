"""Events, episodes, facts, runs and their pages, catalogue and suppressions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256

import pytest
from sqlalchemy import func, insert, select, update

from monitor.domain.model import BadRow, Cause, CurrencySeen, Fact, ProductSeen, RunState, Situation, Window
from monitor.domain.records import Episode
from monitor.errors import StoreError
from monitor.store.catalog import (
    load_currencies,
    load_products,
    suppress,
    suppressed,
    unsuppress,
    write_currencies,
    write_products,
)
from monitor.store.facts import finish_facts, insert_facts, open_facts, put_in_quarantine
from monitor.store.ledger import (
    append_events,
    close_episodes,
    episodes_of,
    muted_open,
    steps_due,
    touched_by_class,
    unmute,
    write_episodes,
)
from monitor.store.runs import (
    PageDone,
    change_run,
    find_run,
    insert_run,
    pages_of,
    record_pages,
    run_totals,
    seen_in,
    unfinished_run,
)
from monitor.store.schema import episodes, events, notifications, quarantine, runs
from monitor.store.views import Filter, list_suppressed
from tests.store_rows import (
    NOW,
    a_batch,
    a_mail,
    a_snapshot,
    a_subscription,
    an_account,
    an_episode,
    an_event,
)

HOUR = timedelta(hours=1)


@pytest.fixture
async def account(store):
    async with store.write() as conn:
        return await an_account(conn)


# Events


async def test_one_change_is_one_event_whoever_tells_it(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await append_events(conn, [])
        await an_event(conn, account, sub, seq=1)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await an_event(conn, account, sub, seq=1, source="webhook")
    async with store.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(events))).scalar_one() == 1


# Episodes


def spell(episode_id: str = "e1", **fields: object) -> Episode:
    values = {
        "kind": Situation.PAYMENT_FAILED,
        "variant": "",
        "anchor": "2026-03-01",
        "opened_at": NOW,
        "evidence_at": NOW - HOUR,
        "opened_bill_at": NOW - 30 * 24 * HOUR,
        "opened_allowance": 24 * 10**18,
        "deadline_at": NOW + 7 * 24 * HOUR,
        **fields,
    }
    return Episode(id=episode_id, **values)


async def test_an_episode_comes_back_as_it_went_in_oldest_first(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        other = await a_subscription(conn, account)
        young = spell("young", anchor="b", muted="baseline", next_step_at=NOW)
        old = spell("old", opened_at=NOW - HOUR, closed_at=NOW, close_reason="healed")
        await write_episodes(conn, account, [])
        await write_episodes(conn, account, [(sub, 3, "hash", young), (sub, 1, "hash", old)])
        assert await episodes_of(conn, []) == {}
        assert await episodes_of(conn, [sub, other]) == {sub: [old, young]}


async def test_the_same_spell_again_is_reopened_and_keeps_its_beginning(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await write_episodes(conn, account, [(sub, 1, "first", spell())])
        await close_episodes(conn, [("e1", "healed")], NOW + HOUR)
        again = spell(opened_at=NOW + 5 * HOUR, deadline_at=NOW + 9 * HOUR, next_step_at=NOW, muted="by hand")
        await write_episodes(conn, account, [(sub, 9, "second", again)])
        row = (await conn.execute(select(episodes))).one()
    assert (row.opened_at, row.opened_seq, row.campaign_hash) == (NOW, 1, "first")
    assert (row.closed_at, row.close_reason, row.deadline_at) == (None, None, NOW + 9 * HOUR)
    assert (row.next_step_at, row.muted) == (NOW, "by hand")


async def test_a_closed_episode_has_no_next_step_and_keeps_its_first_reason(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await write_episodes(conn, account, [(sub, 1, "h", spell(next_step_at=NOW))])
        await close_episodes(conn, [("e1", "recovered")], NOW)
        await close_episodes(conn, [("e1", "ended")], NOW + HOUR)
        (found,) = (await episodes_of(conn, [sub]))[sub]
    assert (found.closed_at, found.close_reason, found.next_step_at) == (NOW, "recovered", None)


async def test_one_subscription_has_one_open_episode_a_track(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await an_episode(conn, account, sub)
        await an_episode(conn, account, sub, track="forecast")
        await an_episode(conn, account, sub, closed_at=NOW)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await an_episode(conn, account, sub)


async def test_the_same_anchor_is_the_same_episode_even_when_closed(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await an_episode(conn, account, sub, anchor="paid-1", closed_at=NOW)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await an_episode(conn, account, sub, anchor="paid-1", closed_at=NOW)


async def test_steps_come_due_in_the_order_of_subscriptions_a_piece_at_a_time(store, account):
    async with store.write() as conn:
        subs = [await a_subscription(conn, account) for _ in range(4)]
        for sub in reversed(subs[:3]):
            await an_episode(conn, account, sub, next_step_at=NOW)
        await an_episode(conn, account, subs[0], track="forecast", next_step_at=NOW)
        await an_episode(conn, account, subs[3], next_step_at=NOW + timedelta(microseconds=1))
        await an_episode(conn, account, subs[3], track="usage", next_step_at=NOW, closed_at=NOW)
        assert await steps_due(conn, account, NOW, 2, 0) == subs[:2]
        assert await steps_due(conn, account, NOW, 9, subs[0]) == subs[1:3]


async def test_muted_episodes_are_found_by_kind_and_unmuted_with_a_step_due(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        other = await a_subscription(conn, account)
        failed = await an_episode(conn, account, sub, muted="baseline")
        low = await an_episode(conn, account, other, kind=Situation.LOW_ON_FUNDS, muted="baseline")
        await an_episode(conn, account, other, muted="baseline", closed_at=NOW)
        await an_episode(conn, account, sub, track="forecast")
        assert await muted_open(conn, account, None) == [(sub, failed), (other, low)]
        assert await muted_open(conn, account, "low_on_funds") == [(other, low)]
        await unmute(conn, [], NOW)
        await unmute(conn, [low], NOW)
        assert await muted_open(conn, account, None) == [(sub, failed)]
        assert await steps_due(conn, account, NOW, 9, 0) == [other]


# What the guard counts


async def test_the_guard_counts_each_subscription_once_a_class_within_the_day(store, account):
    since = NOW - 24 * HOUR
    async with store.write() as conn:
        subs = [await a_subscription(conn, account) for _ in range(4)]
        await an_event(conn, account, subs[0], seq=1, at=since + timedelta(microseconds=1))
        await an_event(conn, account, subs[0], seq=2, source="webhook")
        await an_event(conn, account, subs[0], seq=3, kind="low_on_funds")
        await an_event(conn, account, subs[1], seq=1, source="webhook")
        await an_event(conn, account, subs[2], seq=1, at=since)
        await an_event(conn, account, subs[3], seq=1, kind="bill_paid")
        assert await touched_by_class(conn, account, since) == {"payment_failed": 2, "low_on_funds": 1}


async def test_the_guard_leaves_out_what_is_muted_and_counts_it_once_it_is_not(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await an_event(conn, account, sub)
        episode = await an_episode(conn, account, sub, muted="baseline")
        assert await touched_by_class(conn, account, NOW - HOUR) == {}
        await unmute(conn, [episode], NOW)
        assert await touched_by_class(conn, account, NOW - HOUR) == {"payment_failed": 1}


@pytest.mark.parametrize(
    ("batch", "counted"),
    [
        ({"state": "open", "reason": "[]", "decided_at": NOW}, 0),
        ({"state": "open", "decided_at": NOW}, 1),
        ({"state": "open"}, 1),
        ({"state": "rejected", "decided_at": NOW}, 1),
        ({"state": "held"}, 1),
    ],
)
async def test_what_an_operator_approved_does_not_hold_the_next_batch(store, account, batch, counted):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await an_event(conn, account, sub)
        episode = await an_episode(conn, account, sub)
        await a_mail(conn, account, sub, episode, batch_id=await a_batch(conn, account, **batch))
        assert (await touched_by_class(conn, account, NOW - HOUR)).get("payment_failed", 0) == counted


@pytest.mark.parametrize(
    ("batch", "mail", "counted"),
    [
        ({"state": "collecting"}, {"state": "staged"}, 1),
        ({"closed_at": NOW - HOUR + timedelta(microseconds=1)}, {"state": "sent", "sent_at": NOW}, 1),
        ({"closed_at": NOW - HOUR}, {"state": "ready"}, 0),
        ({"state": "collecting"}, {"state": "voided", "reason": "replaced"}, 0),
    ],
)
async def test_the_first_mail_of_an_older_event_counts_on_the_day_it_is_due(store, account, batch, mail, counted):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        await an_event(conn, account, sub, at=NOW - 30 * HOUR)
        episode = await an_episode(conn, account, sub)
        await a_mail(conn, account, sub, episode, batch_id=await a_batch(conn, account, **batch), **mail)
        assert (await touched_by_class(conn, account, NOW - HOUR)).get("payment_failed", 0) == counted


async def test_a_reminder_of_what_was_told_counts_no_second_time(store, account):
    async with store.write() as conn:
        sub = await a_subscription(conn, account)
        episode = await an_episode(conn, account, sub)
        old = await a_batch(conn, account, closed_at=NOW - 30 * HOUR)
        first = await a_mail(conn, account, sub, episode, batch_id=old, state="failed")
        due = await a_batch(conn, account, state="collecting")
        await a_mail(conn, account, sub, episode, step="second", batch_id=due, state="staged")
        assert await touched_by_class(conn, account, NOW - HOUR) == {"payment_failed": 1}, "nothing was told"
        sent = update(notifications).where(notifications.c.id == first).values(state="sent", sent_at=NOW - 30 * HOUR)
        await conn.execute(sent)
        assert await touched_by_class(conn, account, NOW - HOUR) == {}


# Facts


def fact(key: str = "evt_1", sub: str | None = "sub@1", **fields: object) -> Fact:
    return Fact(dedupe_key=key, kind="subscription.billingFailed", subscription_ext_id=sub, at=NOW, **fields)


FULL_FACT = fact(
    manage_link="https://x.example/m",
    cause=Cause.ALLOWANCE_EXHAUSTED,
    bill_ext_id="bill",
    bill_tx="0xaa",
    bill_at=NOW,
    bill_usd=Decimal("0.10"),
    bill_units=24 * 10**18,
    balance_sufficient=False,
)


async def test_a_fact_is_stored_once_and_comes_back_exact(store, account):
    async with store.write() as conn:
        assert await insert_facts(conn, account, [], NOW) == []
        assert await insert_facts(conn, account, [FULL_FACT, fact("evt_2", sub=None)], NOW) == ["evt_1", "evt_2"]
        assert await insert_facts(conn, account, [replace(FULL_FACT, cause=Cause.OTHER), fact("evt_3")], NOW) == [
            "evt_3"
        ]
        waiting = await open_facts(conn, account)
    assert [one for _, one in waiting] == [FULL_FACT, fact("evt_3")]


async def test_the_same_key_in_another_account_is_another_fact(store, account):
    async with store.write() as conn:
        other = await an_account(conn, "other")
        assert await insert_facts(conn, account, [FULL_FACT], NOW) == ["evt_1"]
        assert await insert_facts(conn, other, [FULL_FACT], NOW) == ["evt_1"]


async def test_a_fact_waits_until_its_subscription_is_known_and_is_folded_once(store, account):
    async with store.write() as conn:
        await insert_facts(conn, account, [fact("evt_1"), fact("evt_2", "sub@2"), fact("evt_3")], NOW)
        assert await open_facts(conn, account, known_only=True) == []
        await a_subscription(conn, account, a_snapshot("sub@1"))
        known = await open_facts(conn, account, known_only=True, limit=1)
        assert [one.dedupe_key for _, one in known] == ["evt_1"]
        assert [one.dedupe_key for _, one in await open_facts(conn, account, ["sub@2"])] == ["evt_2"]
        await finish_facts(conn, [], NOW)
        await finish_facts(conn, [known[0][0]], NOW)
        assert [one.dedupe_key for _, one in await open_facts(conn, account)] == ["evt_2", "evt_3"]


async def test_a_bad_row_is_kept_once_with_its_first_and_last_day(store, account):
    bad = BadRow(b'{"uuid":"\xed\xa0\x80"}', "lone surrogate", "sub@1")
    digest = sha256(bad.raw).hexdigest()
    async with store.write() as conn:
        assert await put_in_quarantine(conn, account, [], NOW) == set()
        assert await put_in_quarantine(conn, account, [bad, bad], NOW) == {digest}
        other = BadRow(b"{}", "no id")
        fresh = await put_in_quarantine(conn, account, [replace(bad, reason="still bad"), other], NOW + HOUR)
        row = (await conn.execute(select(quarantine).where(quarantine.c.raw_hash == digest))).one()
    assert fresh == {sha256(b"{}").hexdigest()}
    assert (row.first_at, row.last_at, row.reason) == (NOW, NOW + HOUR, "still bad")
    assert (bytes(row.raw), row.ext_id) == (bad.raw, "sub@1")


# Runs


async def a_run(conn, account: int, slot: str | None = None, **values: object):
    return await insert_run(
        conn,
        account_id=account,
        slot=slot,
        trigger="cli",
        token=1,
        **{
            "now": NOW,
            "bound_at": NOW,
            "asked_at": NOW,
            "windows": [Window(0, None, NOW - HOUR), Window(1, NOW - HOUR, NOW)],
            "baseline": False,
            **values,
        },
    )


async def test_a_run_comes_back_with_its_windows(store, account):
    async with store.write() as conn:
        made = await a_run(conn, account)
        await change_run(conn, made.id, counts={"rows": 3}, token=2)
        found = await find_run(conn, made.id)
    assert made.state is RunState.RUNNING
    assert found.windows == (Window(0, None, NOW - HOUR), Window(1, NOW - HOUR, NOW))
    assert (found.token, found.counts, found.bound_at) == (2, {"rows": 3}, NOW)
    assert found.bound_at.tzinfo is UTC


async def test_a_slot_has_one_run_and_an_abandoned_one_frees_it(store, account):
    async with store.write() as conn:
        first = await a_run(conn, account, "2026-04-01")
        assert await a_run(conn, account, "2026-04-01") is None
        assert await a_run(conn, account, "2026-04-02") is not None
        assert await a_run(conn, account) is not None
        assert await a_run(conn, account) is not None, "without a slot there is no conflict"
        await change_run(conn, first.id, state=RunState.ABANDONED)
        assert await a_run(conn, account, "2026-04-01") is not None
        assert await a_run(conn, account, "2026-04-01") is None


async def test_only_a_running_run_is_unfinished(store, account):
    async with store.write() as conn:
        assert await unfinished_run(conn, account) is None
        made = await a_run(conn, account)
        assert (await unfinished_run(conn, account)).id == made.id
        assert await unfinished_run(conn, await an_account(conn, "other")) is None
        await change_run(conn, made.id, state=RunState.HELD)
        assert await unfinished_run(conn, account) is None


async def page(conn, run, win: int, n: int, cursor: str | None, seen: list[int], **values: object) -> None:
    row = {"cursor_out": "next", "rows": len(seen), "bad": 0, **values}
    await record_pages(conn, run.id, [PageDone(win=win, n=n, cursor_in=cursor, seen=seen, **row)])


async def test_pages_tell_where_to_go_on_and_who_was_seen(store, account):
    async with store.write() as conn:
        run, other = await a_run(conn, account), await a_run(conn, account)
        await page(conn, run, 1, 0, None, [7])
        await page(conn, run, 0, 0, None, [2, 1, 2**31, 2])
        await page(conn, run, 0, 1, "next", [], cursor_out=None)
        await page(conn, other, 0, 0, None, [99])
        assert await pages_of(conn, run.id) == [(0, 0, "", "next"), (0, 1, "next", None), (1, 0, "", "next")]
        assert list(await seen_in(conn, run.id)) == [1, 2, 7, 2**31]
        assert (await run_totals(conn, run)) == (5, 0)


@pytest.mark.parametrize(("n", "cursor"), [(1, "c"), (0, "d")])
async def test_the_same_cursor_or_page_of_a_window_twice_is_an_error(store, account, n, cursor):
    async with store.write() as conn:
        run = await a_run(conn, account)
        await page(conn, run, 0, 0, "c", [])
        await page(conn, run, 1, 0, "c", [])
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await page(conn, run, 0, n, cursor, [])


async def test_newly_unknown_is_what_became_unreadable_or_unknown_in_this_run(store, account):
    async with store.write() as conn:
        run = await a_run(conn, account)
        sub = await a_subscription(conn, account)
        await an_event(conn, account, sub, seq=1, kind="unknown", run_id=run.id)
        await an_event(conn, account, sub, seq=2, kind="unknown")
        await an_event(conn, account, sub, seq=3, kind="payment_failed", run_id=run.id)
        await put_in_quarantine(conn, account, [BadRow(b"old", "x")], NOW - HOUR)
        await put_in_quarantine(conn, account, [BadRow(b"old", "x"), BadRow(b"new", "x")], NOW)
        await put_in_quarantine(conn, await an_account(conn, "other"), [BadRow(b"theirs", "x")], NOW)
        assert await run_totals(conn, run) == (0, 2)


async def test_one_run_of_a_batch(store, account):
    async with store.write() as conn:
        run = await a_run(conn, account)
        await conn.execute(update(runs).values(ended_at=NOW))
        await a_batch(conn, account, origin="run", run_id=run.id)
    with pytest.raises(StoreError, match=r"(?i)unique"):
        async with store.write() as conn:
            await a_batch(conn, account, origin="run", run_id=run.id)


# Catalogue and suppressions


async def test_products_and_tokens_are_brought_up_to_date(store, account):
    first = ProductSeen("p1", "Team", Decimal("24.50"), timedelta(days=30), "https://x.example/pay", active=True)
    token = CurrencySeen("10", "WETH", 18, "Wrapped Ether", "0xaa", "BASE")
    async with store.write() as conn:
        await write_products(conn, account, [])
        await write_products(conn, account, [first, ProductSeen("p2", "Bare")])
        await write_products(conn, account, [replace(first, name="Team XL", active=False)])
        await write_currencies(conn, account, [token])
        await write_currencies(conn, account, [replace(token, symbol="WETH9")])
        products = await load_products(conn, account)
        currencies = await load_currencies(conn, account)
        assert await load_products(conn, await an_account(conn, "other")) == {}
    assert products == {"p1": replace(first, name="Team XL", active=False), "p2": ProductSeen("p2", "Bare")}
    assert currencies == {"10": replace(token, symbol="WETH9", name="")}


async def test_an_address_is_suppressed_once_a_scope_and_freed_whole(store, account):
    async def add(scope: str, mac: str = "mac", reason: str = "bounced") -> bool:
        return await suppress(conn, account, mac, scope=scope, reason=reason, by="delivery", at=NOW)

    async with store.write() as conn:
        assert await add("all")
        assert not await add("all", reason="later")
        assert await add("reminders")
        assert await add("all", "mac-2")
        assert await suppressed(conn, account, ["mac", "mac-3"]) == {"mac": {"all", "reminders"}}
        assert await suppressed(conn, await an_account(conn, "other"), ["mac"]) == {}
        listed = await list_suppressed(conn, Filter())
        assert [(row.address_mac, row.scope) for row in listed] == [
            ("mac-2", "all"),
            ("mac", "reminders"),
            ("mac", "all"),
        ]
        assert {row.reason for row in listed} == {"bounced"}
        assert listed[0].at == NOW
        assert await unsuppress(conn, account, "mac") == 2
        assert await unsuppress(conn, account, "mac") == 0
        assert await suppressed(conn, account, ["mac", "mac-2"]) == {"mac-2": {"all"}}


async def test_a_naive_clock_cannot_end_up_in_the_ledger(store, account):
    with pytest.raises(Exception, match="naive time"):
        async with store.write() as conn:
            sub = await a_subscription(conn, account)
            await conn.execute(
                insert(events).values(
                    account_id=account,
                    subscription_id=sub,
                    seq=1,
                    kind="x",
                    source="pull",
                    at=datetime(2026, 4, 1),
                    asked_at=NOW,
                )
            )
