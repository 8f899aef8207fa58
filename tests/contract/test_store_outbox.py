"""The outbox machine: each transition from the states it may leave, and from no other."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from monitor.domain.intents import REVIVABLE
from monitor.domain.model import BatchState, Kind, NotificationState
from monitor.domain.payments import PaymentStatus
from monitor.domain.records import MailRecord
from monitor.errors import StoreError
from monitor.store.batches import (
    close_gate,
    collecting,
    collecting_batch,
    decide,
    find_batch,
    held_ids,
    mails_per_day,
    plan_hash,
    run_batch,
    staged_ids,
)
from monitor.store.cases import (
    load_mails,
    load_template_files,
    recent_mails,
    recent_verdicts,
    waiting,
)
from monitor.store.engine import db_now
from monitor.store.notices import void_overtaken
from monitor.store.outbox import (
    hold,
    keep_template,
    mails_of,
    poison,
    ready_ids,
    record_attempts,
    restage,
    snooze,
    stage,
    void,
    void_episodes,
)
from monitor.store.payments import insert_payments
from monitor.store.plans import mail_states, planned_mails
from monitor.store.runs import find_run
from monitor.store.schema import accounts, attempts, customers, notifications
from monitor.store.transit import (
    MAX_COPIES,
    Outcome,
    Wanted,
    claim,
    leased,
    mark_in_data,
    settle,
)
from tests.store_rows import (
    NOW,
    a_batch,
    a_customer,
    a_mail,
    a_snapshot,
    a_subscription,
    an_account,
    an_episode,
    mail_values,
)

S = NotificationState
ALL = set(S)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Shelf:
    """One account with one subscription, one episode and one open batch; mails are put on it in any state."""

    def __init__(self, store) -> None:
        self.store = store

    async def fill(self) -> None:
        async with self.store.write() as conn:
            self.account = await an_account(conn)
            self.customer = await a_customer(conn, self.account)
            snapshot = a_snapshot("sub@1", customer_ext_id="cust-1")
            self.sub = await a_subscription(conn, self.account, snapshot, customer_id=self.customer)
            self.episode = await an_episode(conn, self.account, self.sub)
            self.batch = await a_batch(conn, self.account)

    async def put(self, state: NotificationState = S.READY, **values: Any) -> str:
        async with self.store.write() as conn:
            step = f"step-{await self._count(conn)}"
            row = {"batch_id": self.batch, "state": state, "step": step, **values}
            return await a_mail(conn, self.account, self.sub, row.pop("episode_id", self.episode), **row)

    async def do(self, act, *args: Any, **how: Any) -> Any:
        async with self.store.write() as conn:
            return await act(conn, *args, **how)

    async def look(self, mail: str) -> Any:
        async with self.store.read() as conn:
            return (await conn.execute(select(notifications).where(notifications.c.id == mail))).one()

    async def _count(self, conn) -> int:
        return (await conn.execute(select(func.count()).select_from(notifications))).scalar_one()


@pytest.fixture
async def shelf(store) -> Shelf:
    made = Shelf(store)
    await made.fill()
    return made


# From which states each transition may leave, and where it leads


async def do_void(shelf: Shelf, mail: str) -> bool:
    return await shelf.do(void, mail, "healed", "paid")


async def do_hold(shelf: Shelf, mail: str) -> bool:
    return await shelf.do(hold, mail, "by hand")


async def do_snooze(shelf: Shelf, mail: str) -> bool:
    return await shelf.do(snooze, mail, NOW + HOUR, "window")


async def do_claim(shelf: Shelf, mail: str) -> bool:
    return mail in await shelf.do(claim, [Wanted(mail)], owner="me", lease=HOUR)


async def do_mark(shelf: Shelf, mail: str) -> bool:
    return mail in await shelf.do(mark_in_data, [(mail, 3, {})], owner="me", at=NOW, lease=HOUR)


async def do_settle(shelf: Shelf, mail: str, expect: NotificationState, to: NotificationState, **how: Any) -> bool:
    return mail in await shelf.do(settle, [Outcome(mail, expect, to, **{"token": 3, **how})])


async def do_poison(shelf: Shelf, mail: str) -> bool:
    return await shelf.do(poison, mail, again=None, poisoned=3, why="no such variable")


async def do_restage(shelf: Shelf, mail: str) -> bool:
    return await shelf.do(restage, mail, batch_id=shelf.batch)


async def do_close(shelf: Shelf, _mail: str) -> bool:
    return bool(await shelf.do(void_episodes, [(shelf.episode, "replaced")]))


TRANSITIONS = {
    "void": (do_void, {S.STAGED, S.HELD, S.READY}, {S.VOIDED}),
    "episode closed": (do_close, {S.STAGED, S.HELD, S.READY}, {S.VOIDED}),
    "hold": (do_hold, {S.STAGED, S.READY}, {S.HELD}),
    "snooze": (do_snooze, {S.READY, S.AMBIGUOUS}, {S.READY, S.AMBIGUOUS}),
    "claim": (do_claim, {S.READY, S.AMBIGUOUS}, {S.CLAIMED}),
    "mark": (do_mark, {S.CLAIMED}, {S.IN_DATA}),
    "poison": (do_poison, {S.READY}, {S.FAILED}),
    "restage": (do_restage, {S.VOIDED}, {S.STAGED}),
}


@pytest.mark.parametrize("name", TRANSITIONS)
async def test_a_transition_leaves_only_the_states_it_may(shelf, name):
    act, may_leave, leads_to = TRANSITIONS[name]
    for state in sorted(ALL):
        episode = await shelf.do(an_episode, shelf.account, shelf.sub, track=state)
        shelf.episode = episode
        mail = await shelf.put(state, owner="me", token=3, reason="healed")
        obeyed = await act(shelf, mail)
        after = await shelf.look(mail)
        assert obeyed is (state in may_leave), state
        assert S(after.state) in (leads_to if obeyed else {state})


@pytest.mark.parametrize("expect", [S.CLAIMED, S.IN_DATA, S.AMBIGUOUS])
async def test_an_outcome_is_written_only_over_the_state_it_expects(shelf, expect):
    for state in sorted(ALL):
        mail = await shelf.put(state, owner="me", token=3, until_at=NOW)
        obeyed = await do_settle(shelf, mail, expect, S.SENT, sent_at=NOW)
        after = await shelf.look(mail)
        assert obeyed is (state is expect)
        assert (after.state == S.SENT) is (state in {expect, S.SENT})
        if obeyed:
            assert (after.owner, after.until_at, after.sent_at) == (None, None, NOW)


async def test_an_outcome_under_another_token_is_refused(shelf):
    mail = await shelf.put(S.IN_DATA, token=4)
    assert not await do_settle(shelf, mail, S.IN_DATA, S.SENT)
    assert (await shelf.look(mail)).state == S.IN_DATA
    assert await do_settle(shelf, mail, S.IN_DATA, S.UNSETTLED, token=None)


async def test_a_copy_that_the_server_refused_at_the_dot_does_not_count(shelf):
    refused, kept = await shelf.put(S.IN_DATA, copies=1), await shelf.put(S.IN_DATA, copies=1)
    await do_settle(shelf, refused, S.IN_DATA, S.READY, token=0, copies_back=1, tries=1)
    await do_settle(shelf, kept, S.IN_DATA, S.AMBIGUOUS, token=0)
    assert ((await shelf.look(refused)).copies, (await shelf.look(refused)).tries) == (0, 1)
    assert (await shelf.look(kept)).copies == 1


async def test_a_group_is_settled_by_one_statement_each_row_by_its_own_state_and_token(shelf):
    values = {"tries": 2, "why": "then", "next_try_at": NOW}
    sent, taken, waits = [await shelf.put(S.IN_DATA, token=3, copies=1, **values) for _ in range(3)]
    moved = await shelf.do(
        settle,
        [
            Outcome(waits, S.IN_DATA, S.READY, 3, copies_back=1, reason="deferred", tries=3, next_try_at=NOW + HOUR),
            Outcome(taken, S.IN_DATA, S.SENT, 2, sent_at=NOW),
            Outcome(sent, S.IN_DATA, S.SENT, 3, sent_at=NOW),
        ],
    )
    assert moved == {sent, waits}
    rows = [await shelf.look(mail) for mail in (sent, taken, waits)]
    assert [(row.state, row.copies, row.tries, row.why, row.reason, row.next_try_at) for row in rows] == [
        (S.SENT, 1, 2, "then", None, NOW),
        (S.IN_DATA, 1, 2, "then", None, NOW),
        (S.READY, 0, 3, "then", "deferred", NOW + HOUR),
    ]
    assert rows[0].sent_at == NOW
    assert await shelf.do(settle, []) == set()


# Staging


async def test_one_step_of_one_episode_to_one_customer_is_one_mail_whatever_its_id(shelf):
    values = mail_values(shelf.account, shelf.sub, shelf.episode, shelf.batch, state=S.STAGED)
    other = {**values, "id": "another id"}
    assert await shelf.do(stage, []) == 0
    assert await shelf.do(stage, [values]) == 1
    assert await shelf.do(stage, [values, other]) == 0
    assert await shelf.do(stage, [{**other, "step": "second"}, {**values, "id": "x", "customer_key": "cust-2"}]) == 2


async def test_the_database_itself_refuses_the_second_mail_of_a_step(shelf):
    await shelf.put(step="first")
    with pytest.raises(StoreError, match=r"(?i)unique"):
        await shelf.put(step="first")


@pytest.mark.parametrize("reason", [*sorted(REVIVABLE), "baseline"])
async def test_a_step_that_was_never_sent_comes_back_with_its_episode(shelf, reason):
    mail = await shelf.put(S.VOIDED, reason=reason, why="then")
    assert await shelf.do(restage, mail, due_at=NOW + HOUR)
    after = await shelf.look(mail)
    assert (after.state, after.reason, after.why, after.due_at) == (S.STAGED, None, None, NOW + HOUR)


async def test_a_step_for_an_operator_comes_back_held(shelf):
    mail = await shelf.put(S.VOIDED, reason="healed")
    assert await shelf.do(restage, mail, held_for="operator_decides")
    after = await shelf.look(mail)
    assert (after.state, after.reason) == (S.HELD, "operator_decides")


@pytest.mark.parametrize("values", [{"reason": "expired"}, {"reason": "rejected"}, {"reason": "healed", "copies": 1}])
async def test_a_step_that_ended_for_good_or_may_have_been_sent_does_not_come_back(shelf, values):
    mail = await shelf.put(S.VOIDED, **values)
    assert not await shelf.do(restage, mail)


# The gate


async def test_an_open_gate_makes_the_staged_mails_ready_and_no_other(shelf, store):
    batch = await shelf.do(a_batch, shelf.account, state="collecting")
    staged = [await shelf.put(S.STAGED, batch_id=batch) for _ in range(2)]
    held = await shelf.put(S.HELD, batch_id=batch, reason="operator_decides")
    elsewhere = await shelf.put(S.STAGED)
    async with store.read() as conn:
        assert await staged_ids(conn, batch) == sorted(staged)
    moved, digest = await shelf.do(close_gate, batch, opened=True, reason=None, counts={"rows": 1}, now=NOW)
    assert (moved, digest) == (2, plan_hash(staged))
    states = [(await shelf.look(mail)).state for mail in (*staged, held, elsewhere)]
    assert states == [S.READY, S.READY, S.HELD, S.STAGED]
    async with store.read() as conn:
        row = await find_batch(conn, batch)
    assert (row.state, row.reason, row.valid_until) == (BatchState.OPEN, None, NOW + 24 * HOUR)


async def test_a_closed_gate_holds_the_staged_mails_and_says_why(shelf, store):
    batch = await shelf.do(a_batch, shelf.account, state="collecting")
    mail = await shelf.put(S.STAGED, batch_id=batch)
    moved, digest = await shelf.do(close_gate, batch, opened=False, reason="too many", counts={}, now=NOW)
    assert (moved, digest) == (1, plan_hash([mail]))
    after = await shelf.look(mail)
    assert (after.state, after.reason) == (S.HELD, "guard")
    async with store.read() as conn:
        assert (await find_batch(conn, batch)).state is BatchState.HELD
        assert await held_ids(conn, batch) == [mail]


@pytest.mark.parametrize("state", ["open", "held", "rejected"])
async def test_a_batch_is_judged_once(shelf, store, state):
    batch = await shelf.do(a_batch, shelf.account, state=state)
    mail = await shelf.put(S.STAGED, batch_id=batch)
    moved, _ = await shelf.do(close_gate, batch, opened=True, reason=None, counts={}, now=NOW)
    assert moved == 0
    assert (await shelf.look(mail)).state == S.STAGED
    async with store.read() as conn:
        assert (await find_batch(conn, batch)).state == state


async def test_live_and_tick_collect_in_one_batch_each_until_it_is_judged(shelf, store):
    live = await shelf.do(collecting_batch, shelf.account, "live", NOW)
    tick = await shelf.do(collecting_batch, shelf.account, "tick", NOW)
    assert live != tick
    assert await shelf.do(collecting_batch, shelf.account, "live", NOW + HOUR) == live
    async with store.read() as conn:
        assert [(one.id, one.origin, one.opened_at) for one in await collecting(conn, shelf.account)] == [
            (live, "live", NOW),
            (tick, "tick", NOW),
        ]
    await shelf.do(close_gate, live, opened=True, reason=None, counts={}, now=NOW)
    assert await shelf.do(collecting_batch, shelf.account, "live", NOW) > tick


async def test_two_batches_of_one_origin_cannot_collect_at_once(shelf):
    await shelf.do(a_batch, shelf.account, state="collecting", origin="tick")
    with pytest.raises(StoreError, match=r"(?i)unique"):
        await shelf.do(a_batch, shelf.account, state="collecting", origin="tick")


async def test_workers_who_open_the_live_batch_at_once_share_one(shelf):
    async def collect() -> int:
        async with shelf.store.write() as conn:
            found = await collecting_batch(conn, shelf.account, "live", NOW)
            await asyncio.sleep(0)
            return found

    assert len(set(await asyncio.gather(*(collect() for _ in range(8))))) == 1


async def test_a_mail_that_joins_while_the_gate_closes_is_judged_with_it_or_waits_for_the_next(shelf, store):
    """Staged in a batch that is judged already, it would wait for ever."""
    batch = await shelf.do(collecting_batch, shelf.account, "live", NOW)
    joined, gate_runs = asyncio.Event(), asyncio.Event()

    async def join() -> None:
        async with store.write() as conn:
            into = await collecting_batch(conn, shelf.account, "live", NOW)
            joined.set()
            if not store.is_sqlite:
                await gate_runs.wait()
            await conn.execute(
                notifications.insert().values(
                    **mail_values(shelf.account, shelf.sub, shelf.episode, into, id="late", state=S.STAGED)
                )
            )

    async def gate() -> None:
        await joined.wait()
        asyncio.get_running_loop().call_later(0.05, gate_runs.set)
        async with store.write() as conn:
            moved, digest = await close_gate(conn, batch, opened=True, reason=None, counts={}, now=NOW)
        assert digest == plan_hash(["late"] * moved), "the plan is what was moved"

    await asyncio.gather(join(), gate())
    after = await shelf.look("late")
    async with store.read() as conn:
        judged = (await find_batch(conn, after.batch_id)).state
    assert (after.state == S.STAGED) is (judged is BatchState.COLLECTING)


async def test_a_run_has_one_batch(shelf):
    from monitor.domain.model import Window
    from monitor.store.runs import insert_run

    run = await shelf.do(
        insert_run,
        account_id=shelf.account,
        slot=None,
        trigger="cli",
        token=1,
        now=NOW,
        bound_at=NOW,
        asked_at=NOW,
        windows=[Window(0)],
        baseline=False,
    )
    first = await shelf.do(run_batch, shelf.account, run.id, NOW)
    assert await shelf.do(run_batch, shelf.account, run.id, NOW) == first
    assert (await shelf.do(find_batch, first, lock=True)).run_id == run.id
    assert await shelf.do(find_batch, 999) is None
    assert (await shelf.do(find_run, run.id)).id == run.id


# Claims


async def test_a_claim_has_a_new_token_a_lease_by_the_databases_clock_and_what_the_making_settled(shelf, store):
    mail, plain = await shelf.put(token=6), await shelf.put(variant="as planned", address_mac="mac")
    async with store.write() as conn:
        before = await db_now(conn)
        tokens = await claim(conn, [Wanted(mail, "new mac", "other"), Wanted(plain)], owner="me", lease=HOUR)
        after = await db_now(conn)
    assert tokens == {mail: 7, plain: 1}
    row, kept = await shelf.look(mail), await shelf.look(plain)
    assert (row.owner, row.variant, row.address_mac, row.token) == ("me", "other", "new mac", 7)
    assert before <= row.until_at - HOUR <= after
    assert (kept.variant, kept.address_mac) == ("as planned", "mac")
    assert await shelf.do(claim, [], owner="me", lease=HOUR) == {}


async def test_fifty_who_claim_one_mail_are_one_owner(shelf):
    mail = await shelf.put()
    tokens = await asyncio.gather(
        *(shelf.do(claim, [Wanted(mail)], owner=f"worker-{n}", lease=HOUR) for n in range(50))
    )
    assert [one for one in tokens if one] == [{mail: 1}]


async def test_groups_that_overlap_in_any_order_are_shared_out_and_nobody_waits_in_a_circle(shelf):
    mails = [await shelf.put() for _ in range(30)]
    orders = [mails, mails[::-1], mails[10:] + mails[:10]] * 4
    claims = await asyncio.gather(
        *(
            shelf.do(claim, [Wanted(mail) for mail in order], owner=f"worker-{n}", lease=HOUR)
            for n, order in enumerate(orders)
        )
    )
    assert sorted(mail for tokens in claims for mail in tokens) == sorted(mails)


@pytest.mark.parametrize("state", ["collecting", "held", "rejected"])
async def test_nothing_of_a_batch_that_is_not_open_is_claimed_or_offered(shelf, store, state):
    batch = await shelf.do(a_batch, shelf.account, state=state)
    mail = await shelf.put(batch_id=batch)
    assert not await do_claim(shelf, mail)
    async with store.read() as conn:
        assert await ready_ids(conn, shelf.account, NOW, 10) == []


@pytest.mark.parametrize("wrong", [{"owner": "you"}, {"token": 4}])
async def test_a_body_leaves_only_under_ones_own_claim(shelf, wrong):
    mail = await shelf.put(S.CLAIMED, **{"owner": "me", "token": 3, **wrong})
    assert not await do_mark(shelf, mail)
    assert (await shelf.look(mail)).copies == 0


async def test_no_third_copy_ever_leaves(shelf):
    mail = await shelf.put(S.CLAIMED, owner="me", token=3, copies=MAX_COPIES)
    assert MAX_COPIES == 2
    assert not await do_mark(shelf, mail)
    assert (await shelf.look(mail)).state == S.CLAIMED


async def test_the_mark_tells_which_copy_it_is_and_freezes_the_mail(shelf, store):
    values = {"message_id": "<1@acme>", "date_hdr": "today", "recipient": "a@x.example"}
    fresh, again = [await shelf.put(S.CLAIMED, owner="me", token=3, copies=copies) for copies in (0, 1)]
    theirs = await shelf.put(S.CLAIMED, owner="you", token=3)
    async with store.write() as conn:
        before = await db_now(conn)
        asked = [(theirs, 3, {}), (fresh, 3, values), (again, 3, values)]
        assert await mark_in_data(conn, asked, owner="me", at=NOW, lease=HOUR) == {fresh: 1, again: 2}
        assert await mark_in_data(conn, [], owner="me", at=NOW, lease=HOUR) == {}
    for mail, copies in ((fresh, 1), (again, 2)):
        row = await shelf.look(mail)
        assert (row.state, row.in_data_at, row.message_id, row.copies) == (S.IN_DATA, NOW, "<1@acme>", copies)
        assert row.until_at >= before + HOUR, "a slow server may answer for long"


async def test_a_resend_keeps_what_the_first_mark_froze(shelf):
    frozen = {"message_id": "<1@acme>", "date_hdr": "then", "recipient": "a@x.example", "letter": "{}"}
    mail = await shelf.put(S.CLAIMED, owner="me", token=3, copies=1, **frozen)
    assert await do_mark(shelf, mail)
    row = await shelf.look(mail)
    assert {name: getattr(row, name) for name in frozen} == frozen


async def test_no_body_leaves_once_the_account_is_paused_by_hand(shelf, store):
    mail = await shelf.put(S.CLAIMED, owner="me", token=3)
    async with store.write() as conn:
        await conn.execute(update(accounts).values(paused_at=NOW))
    assert not await do_mark(shelf, mail)


async def test_leased_are_the_rows_that_some_worker_holds(shelf, store):
    held = {state: await shelf.put(state, owner="me", token=2, until_at=NOW) for state in ALL}
    async with store.read() as conn:
        rows = await leased(conn, shelf.account)
    assert {row.id for row in rows} == {held[S.CLAIMED], held[S.IN_DATA]}
    assert {(row.owner, row.token, row.until_at) for row in rows} == {("me", 2, NOW)}


# What may leave


async def test_the_most_pressing_leaves_first_then_the_longest_due(shelf, store):
    low = await shelf.put(rank=3, due_at=NOW - HOUR)
    young = await shelf.put(rank=1, due_at=NOW)
    old = await shelf.put(S.AMBIGUOUS, rank=1, due_at=NOW - HOUR)
    await shelf.put(next_try_at=NOW + SECOND)
    async with store.read() as conn:
        assert await ready_ids(conn, shelf.account, NOW, 10) == [old, young, low]
        assert await ready_ids(conn, shelf.account, NOW, 1) == [old]
        assert await ready_ids(conn, shelf.account, NOW, 10, [old, low]) == [young]
        assert await waiting(conn, shelf.account, NOW) == (1, NOW + SECOND)
        assert await waiting(conn, shelf.account, NOW + SECOND) == (0, None)


async def test_a_poisoned_mail_waits_and_then_fails(shelf):
    mail = await shelf.put()
    assert await shelf.do(poison, mail, again=NOW + HOUR, poisoned=1, why="line 3")
    after = await shelf.look(mail)
    assert (after.state, after.next_try_at, after.poisoned, after.why) == (S.READY, NOW + HOUR, 1, "line 3")
    assert await shelf.do(poison, mail, again=None, poisoned=3, why="line 3")
    assert (await shelf.look(mail)).state == S.FAILED


async def test_a_snooze_counts_no_try(shelf):
    mail = await shelf.put(tries=1)
    await do_snooze(shelf, mail)
    after = await shelf.look(mail)
    assert (after.tries, after.next_try_at, after.reason) == (1, NOW + HOUR, "window")


async def test_closing_an_episode_voids_what_waits_of_it_only(shelf, store):
    async with store.write() as conn:
        other = await an_episode(conn, shelf.account, shelf.sub, track="forecast")
    mine = [await shelf.put(state) for state in (S.STAGED, S.READY, S.SENT)]
    theirs = await shelf.put(episode_id=other)
    assert await shelf.do(void_episodes, [(shelf.episode, "healed")]) == 2
    states = [((await shelf.look(mail)).state, (await shelf.look(mail)).reason) for mail in (*mine, theirs)]
    assert states == [(S.VOIDED, "healed"), (S.VOIDED, "healed"), (S.SENT, None), (S.READY, None)]


async def test_a_gate_and_who_closes_the_episodes_of_its_mails_never_wait_in_a_circle(shelf, held_up):
    """Whatever the order in which the mails were written, or their episodes are closed in."""
    batch = await shelf.do(a_batch, shelf.account, state="collecting")
    episodes = []
    for name, track in (("c", "billing"), ("b", "forecast"), ("a", "usage")):
        episode = (
            shelf.episode if track == "billing" else await shelf.do(an_episode, shelf.account, shelf.sub, track=track)
        )
        await shelf.put(S.STAGED, id=name, batch_id=batch, episode_id=episode)
        episodes.append(episode)
    async with held_up(2, "UPDATE notifications SET why = 'looked at' WHERE id = 'b'"):
        opening = asyncio.create_task(shelf.do(close_gate, batch, opened=True, reason=None, counts={}, now=NOW))
        closing = asyncio.create_task(shelf.do(void_episodes, [(one, "healed") for one in episodes]))
    (moved, digest), voided = await asyncio.gather(opening, closing)
    assert (voided, digest) == (3, plan_hash("abc" if moved else []))
    assert [(await shelf.look(name)).state for name in "abc"] == [S.VOIDED] * 3


async def test_a_gate_and_who_overtakes_the_payments_of_its_mails_never_wait_in_a_circle(shelf, held_up):
    batch = await shelf.do(a_batch, shelf.account, state="collecting")
    paid = {"status": "failed", "status_raw": "failed", "first_asked_at": NOW, "asked_at": NOW, "seq": 1}
    row = {"account_id": shelf.account, "kind": "one_off", "test": False, **paid}
    moved = []
    for name in "cba":
        made = await shelf.do(insert_payments, shelf.account, [{**row, "ext_id": name}])
        await shelf.put(S.STAGED, id=name, batch_id=batch, episode_id=None, payment_id=made[name])
        moved.append((made[name], PaymentStatus.SUCCEEDED, None))
    async with held_up(2, "UPDATE notifications SET why = 'looked at' WHERE id = 'b'"):
        opening = asyncio.create_task(shelf.do(close_gate, batch, opened=True, reason=None, counts={}, now=NOW))
        voiding = asyncio.create_task(shelf.do(void_overtaken, moved))
    _, voided = await asyncio.gather(opening, voiding)
    assert voided == 3


# What the ledger and the counters tell


async def test_attempts_are_kept_whoever_writes_them(shelf, store):
    mail = await shelf.put()
    row = {"notification_id": mail, "copy": 1, "token": 1, "phase": "dot", "outcome": "sent", "at": NOW}
    await shelf.do(record_attempts, [])
    await shelf.do(record_attempts, [row, {**row, "token": 0, "outcome": "ambiguous"}])
    async with store.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(attempts))).scalar_one() == 2


async def test_the_breaker_remembers_the_newest_replies_oldest_first(shelf, store):
    mail = await shelf.put()
    outcomes = ["sent", "refused", "returned", "deferred", "refused", "sent"]
    rows = [
        {
            "notification_id": mail,
            "copy": 1,
            "token": n,
            "phase": "dot",
            "outcome": outcome,
            "at": NOW + n * SECOND,
        }
        for n, outcome in enumerate(outcomes)
    ]
    await shelf.do(record_attempts, rows)
    async with store.read() as conn:
        assert await recent_verdicts(conn, shelf.account, None, 10) == [False, True, False, True, False]
        assert await recent_verdicts(conn, shelf.account, None, 2) == [True, False]
        assert await recent_verdicts(conn, shelf.account, NOW + 3 * SECOND, 10) == [True, False]


@pytest.mark.parametrize("state", [BatchState.COLLECTING, BatchState.REJECTED])
@pytest.mark.parametrize("approve", [True, False])
async def test_only_a_batch_that_a_gate_has_judged_is_decided_about(shelf, store, state, approve):
    batch = await shelf.do(a_batch, shelf.account, state=state)
    mail = await shelf.put(S.HELD, batch_id=batch, reason="guard")
    assert await shelf.do(decide, batch, approve=approve, by="anna", now=NOW) == 0
    async with store.read() as conn:
        found = await find_batch(conn, batch)
        assert (found.state, found.decided_by, found.decided_at) == (state, None, None)
        assert (await mail_states(conn, shelf.account))[mail] == S.HELD


async def test_mails_are_told_with_their_states(shelf, store):
    for state in (S.READY, S.READY, S.SENT):
        await shelf.put(state)
    mail = await shelf.put(S.HELD, batch_id=await shelf.do(a_batch, shelf.account))
    async with store.read() as conn:
        states = await mail_states(conn, shelf.account)
    assert states[mail] == "held"
    assert len(states) == 4


async def test_mails_of_a_day_are_those_that_were_sent_since(shelf, store):
    for at in (NOW, NOW + SECOND, NOW + HOUR):
        await shelf.put(S.SENT, sent_at=at)
    await shelf.put(S.READY)
    async with store.read() as conn:
        assert sorted(await mails_per_day(conn, shelf.account, NOW)) == [NOW + SECOND, NOW + HOUR]


async def test_an_address_counts_what_went_within_a_day_and_what_is_on_its_way(shelf, store):
    day_ago = NOW - timedelta(hours=24)
    for state, sent_at in (
        (S.SENT, day_ago),
        (S.SENT, day_ago + SECOND),
        (S.SENT, NOW - HOUR),
        (S.CLAIMED, None),
        (S.IN_DATA, None),
        (S.AMBIGUOUS, None),
        (S.READY, None),
    ):
        await shelf.put(state, sent_at=sent_at, address_mac="mac")
    await shelf.put(S.SENT, sent_at=NOW, address_mac="other")
    async with store.read() as conn:
        found = await recent_mails(conn, shelf.account, ["mac"], NOW)
    count, oldest = found["mac"]
    assert set(found) == {"mac"}
    assert (count, instant(oldest)) == (5, day_ago + SECOND)


def instant(at: datetime | None) -> datetime | None:
    assert at is None or at.tzinfo is not None
    return at


async def test_what_the_outbox_holds_of_a_subscription(shelf, store):
    mail = await shelf.put(S.SENT, sent_at=NOW, step="first")
    async with store.read() as conn:
        assert await mails_of(conn, []) == {}
        found = await mails_of(conn, [shelf.sub])
    assert found == {
        shelf.sub: [MailRecord(mail, shelf.episode, "first", "cust-1", Kind.PAYMENT_FAILED, S.SENT, None, NOW)]
    }


async def test_the_words_of_a_template_are_kept_once(shelf, store):
    await shelf.do(keep_template, "h", "first words")
    await shelf.do(keep_template, "h", "other words")
    async with store.read() as conn:
        assert await load_template_files(conn, "h") == "first words"
        assert await load_template_files(conn, "none") is None


async def test_a_waiting_mail_is_loaded_with_all_that_decides_about_it(shelf, store):
    first = await shelf.put(S.SENT, sent_at=NOW - HOUR, message_id="<first@acme>")
    await shelf.put(S.SENT, sent_at=NOW, message_id="<second@acme>")
    mail = await shelf.put(tries=2, not_after=NOW)
    async with store.write() as conn:
        await a_customer(conn, shelf.account, "cust-2", address_mac="mac-cust-1")
        await a_customer(conn, shelf.account, "cust-3", address_mac="mac-cust-1", deleted=True)
        assert await load_mails(conn, shelf.account, []) == []
        found = await load_mails(conn, shelf.account, [mail, "unknown", first])
    assert [one.id for one in found] == [mail, first]
    case = found[0]
    assert (case.tries, case.not_after, case.address, case.shared_address) == (2, NOW, "cust-1@customer.example", True)
    assert (case.about.situation_open, case.first_message_id, case.deleted, case.erased) == (
        True,
        "<first@acme>",
        False,
        False,
    )
    assert case.about.episode.id == shelf.episode
    assert case.about.subscription.snapshot.ext_id == "sub@1"


async def test_an_address_of_one_living_customer_is_not_shared(shelf, store):
    mail = await shelf.put()
    async with store.write() as conn:
        await a_customer(conn, shelf.account, "gone", address_mac="mac-cust-1", deleted=True)
        await conn.execute(update(customers).where(customers.c.ext_id == "cust-1").values(erased_at=NOW))
        (case,) = await load_mails(conn, shelf.account, [mail])
    assert not case.shared_address
    assert case.erased


async def test_a_mail_of_a_subscription_without_a_customer_has_no_address(shelf, store):
    async with store.write() as conn:
        sub = await a_subscription(conn, shelf.account, a_snapshot("sub@2"))
        episode = await an_episode(conn, shelf.account, sub, closed_at=NOW)
        mail = await a_mail(conn, shelf.account, sub, episode, batch_id=shelf.batch, customer_key="")
        (case,) = await load_mails(conn, shelf.account, [mail])
        (line,) = [one for one in await planned_mails(conn, shelf.account) if one.id == mail]
    assert (case.address, case.name, case.deleted, case.about.situation_open) == (None, None, False, False)
    assert (line.address, line.subscription, line.state) == (None, "sub@2", S.READY)


async def test_a_plan_lists_the_most_pressing_first(shelf, store):
    low = await shelf.put(rank=3)
    urgent = await shelf.put(rank=1, due_at=NOW)
    older = await shelf.put(rank=1, due_at=NOW - HOUR)
    async with store.read() as conn:
        assert [one.id for one in await planned_mails(conn, shelf.account)] == [older, urgent, low]
