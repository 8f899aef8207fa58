"""An operator's decisions: a plan goes as it was shown, once, or not at all; a single mail is held, released, retried."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from monitor.domain.guard import GuardLimits
from monitor.domain.model import Situation
from monitor.errors import NotFoundError
from monitor.sandbox import acts
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.batches import find_batch, held_ids
from monitor.store.by_hand import PHASE
from monitor.store.catalog import suppress
from monitor.store.ledger import touched_by_class
from monitor.store.schema import attempts, batches, notifications
from monitor.store.witness import FILE_NAME, check_witness
from monitor.usecases.adopt import adopt
from monitor.usecases.operate import Operator, rules_of
from tests.harness import Stage, staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
TIGHT = GuardLimits(small=2)


@pytest.fixture
async def stage(database_url, tmp_path):
    async with staged(healthy(40, trials=4, start=START), database_url, tmp_path / "var") as made:
        yield made


@pytest.fixture
async def held(stage):
    """A stage whose last run was held with five mails; `stage.batch` is the batch."""
    await stage.run()
    stage.change(guard=TIGHT)
    ids = cause(stage.world, {"trial_ending": 5})["trial_ending"]
    report = await stage.run()
    assert report.outcome == "held"
    return HeldStage(**vars(stage), batch=report.batch_id, hash=report.plan_hash, ids=ids)


@dataclass
class HeldStage(Stage):
    batch: int = 0
    hash: str = ""
    ids: tuple[str, ...] = ()


def operator(stage, by="anna"):
    return Operator(stage.tools, by, stage.state_dir, {"acme": "Europe/Budapest"})


async def batch_of(stage, batch_id):
    async with stage.db.read() as conn:
        return await find_batch(conn, batch_id)


async def mails(stage, **where):
    async with stage.db.read() as conn:
        rows = list(await conn.execute(select(notifications).order_by(notifications.c.id)))
    return [row for row in rows if all(getattr(row, name) == value for name, value in where.items())]


async def set_mail(stage, mail_id, **values):
    async with stage.db.write() as conn:
        await conn.execute(update(notifications).where(notifications.c.id == mail_id).values(**values))


async def set_batch(stage, batch_id, **values):
    async with stage.db.write() as conn:
        await conn.execute(update(batches).where(batches.c.id == batch_id).values(**values))


async def test_an_approved_plan_goes_out_once_and_names_who_approved_it(held):
    assert (await held.deliver()).sent == 0

    ruling = await operator(held).approve(held.batch, held.hash)

    assert ruling.ok and ruling.outcome == "approved" and len(ruling.ids) == 5
    assert ruling.plan_hash == held.hash and ruling.command == "monitor deliver"
    assert ruling.sentence == f"batch {held.batch}: 5 mails may leave now; each is checked once more before it does"
    assert (await batch_of(held, held.batch)).decided_by == "anna"
    assert (await held.deliver()).sent == 5
    assert (await held.deliver()).sent == 0
    assert len(held.mailbox.messages) == 5


async def test_without_a_hash_the_plan_that_the_guard_printed_is_approved(held):
    assert (await operator(held).approve(held.batch)).outcome == "approved"


async def test_a_second_approval_is_told_who_was_first_and_moves_nothing(held):
    await operator(held).approve(held.batch)
    await held.deliver()

    again = await operator(held, "ben").approve(held.batch, held.hash)

    assert again.ok and again.outcome == "already_decided"
    assert again.sentence == (
        f"batch {held.batch} was already approved by anna on 1 Apr 2026, 11:00 CEST; nothing moved"
    )
    other_way = await operator(held, "ben").reject(held.batch)
    assert not other_way.ok and other_way.outcome == "decided_otherwise"
    assert (await held.states())["sent"] == 5


async def test_an_approval_expires_after_a_day_and_a_review_renews_it(held):
    expiry = (await batch_of(held, held.batch)).valid_until
    held.world.advance(expiry - held.world.now + timedelta(seconds=1))

    late = await operator(held).approve(held.batch, held.hash)

    assert not late.ok and late.outcome == "expired"
    assert "2 Apr 2026, 11:00 CEST" in late.sentence and late.command == f"monitor outbox review {held.batch}"
    assert await mails(held, state="ready") == []
    renewed = await operator(held).review(held.batch)
    assert renewed.ok and renewed.plan_hash == held.hash and "5 mails would go" in renewed.sentence
    assert renewed.command == f"monitor outbox approve {held.batch} --plan-hash {held.hash}"
    assert (await operator(held).approve(held.batch, renewed.plan_hash)).ok


async def test_at_its_last_instant_an_approval_still_counts(held):
    expiry = (await batch_of(held, held.batch)).valid_until
    held.world.advance(expiry - held.world.now)
    assert (await operator(held).approve(held.batch)).ok


async def test_a_plan_that_changed_since_it_was_shown_is_refused_and_named(held):
    acts.confirm_trial(held.world, held.world.get(held.ids[0]))
    await held.run()

    refused = await operator(held).approve(held.batch, held.hash)

    assert not refused.ok and refused.outcome == "changed" and len(refused.ids) == 4
    assert "it holds 4 mails now" in refused.sentence and held.hash[:12] in refused.sentence
    assert await mails(held, state="ready") == []
    assert (await operator(held).approve(held.batch)).outcome == "changed"
    renewed = await operator(held).review(held.batch)
    assert (await operator(held).approve(held.batch, renewed.plan_hash)).ok
    assert (await held.deliver()).sent == 4


async def test_a_wrong_hash_approves_and_rejects_nothing(held):
    for decide in (operator(held).approve, operator(held).reject):
        assert (await decide(held.batch, "0" * 64)).outcome == "changed"
    assert len(await mails(held, state="held")) == 5


async def test_a_rejected_plan_never_goes_and_cannot_be_approved_later(held):
    ruling = await operator(held).reject(held.batch, held.hash)

    assert ruling.ok and ruling.sentence == f"batch {held.batch}: 5 mails will not be sent"
    assert {mail.reason for mail in await mails(held, state="voided")} == {"rejected"}
    assert (await operator(held, "ben").reject(held.batch)).outcome == "already_decided"
    later = await operator(held, "ben").approve(held.batch)
    assert not later.ok and "already rejected by anna" in later.sentence
    assert (await held.deliver()).sent == 0


async def test_nothing_of_a_rejected_batch_is_ever_released(held):
    await operator(held).reject(held.batch, held.hash)
    one = (await mails(held, reason="rejected"))[0].id
    await set_mail(held, one, state="held", reason="by_hand")
    assert not (await operator(held).release(one)).ok


async def test_an_expired_plan_can_still_be_rejected(held):
    held.world.advance(timedelta(days=2))
    assert (await operator(held).reject(held.batch)).outcome == "rejected"


async def test_what_was_held_by_hand_stays_when_its_batch_is_approved_and_ends_when_it_is_rejected(held):
    one, two = (await held_plan(held))[:2]
    await operator(held).hold(one)
    renewed = await operator(held).review(held.batch)
    assert len(renewed.ids) == 4
    await operator(held).approve(held.batch, renewed.plan_hash)
    assert [mail.id for mail in await mails(held, state="held")] == [one]

    await set_batch(held, held.batch, state="held", decided_at=None)
    await set_mail(held, two, state="held", reason="guard")
    await operator(held).reject(held.batch)

    assert {mail.id for mail in await mails(held, state="voided", reason="rejected")} == {one, two}


async def test_a_mail_released_into_a_held_plan_waits_for_the_plan_again(held):
    one = (await held_plan(held))[0]
    await operator(held).hold(one)

    ruling = await operator(held).release(one)

    assert ruling.ok and ruling.sentence == f"the mail is back in the held plan of batch {held.batch}"
    assert await held_plan(held) == list((await operator(held).review(held.batch)).ids)
    alone = await operator(held).release(one)
    assert not alone.ok and alone.command == f"monitor outbox review {held.batch}"


async def test_a_batch_that_collects_or_was_never_held_has_nothing_to_decide(stage):
    await stage.run()
    cause(stage.world, {"trial_ending": 1})
    report = await stage.run()
    for decide in (operator(stage).approve, operator(stage).reject, operator(stage).review):
        assert "was never held" in (await decide(report.batch_id)).sentence
    await set_batch(stage, report.batch_id, state="collecting")
    assert "still collects" in (await operator(stage).approve(report.batch_id)).sentence


async def test_mails_that_always_wait_for_an_operator_are_decided_together_once_they_were_looked_at(stage):
    await stage.run()
    cause(stage.world, {"cancelled:merchant_closed": 2, "trial_ending": 1})
    report = await stage.run()
    assert report.outcome == "complete"
    unseen = await operator(stage).approve(report.batch_id)
    assert unseen.outcome == "changed" and len(unseen.ids) == 2
    seen = await operator(stage).review(report.batch_id)

    assert (await operator(stage).approve(report.batch_id, seen.plan_hash)).ok

    assert (await stage.deliver()).sent == 3
    assert (await batch_of(stage, report.batch_id)).state == "open"


async def test_rejecting_them_leaves_the_rest_of_their_open_batch_alone(stage):
    await stage.run()
    cause(stage.world, {"cancelled:merchant_closed": 2, "trial_ending": 1})
    report = await stage.run()
    assert (await operator(stage).reject(report.batch_id)).ok
    assert (await stage.deliver()).sent == 1
    rejected = await mails(stage, state="voided", reason="rejected")
    async with stage.db.read() as conn:
        signed = list(
            await conn.execute(select(attempts.c.outcome, attempts.c.detail).where(attempts.c.phase == PHASE))
        )
        counted = await touched_by_class(conn, (await stage.row()).id, START - timedelta(days=1))
    assert [len(rejected), signed] == [2, [("rejected", "anna")] * 2]
    assert counted == {"cancelled": 2, "trial_ending": 1}, "nobody approved what the guard never held"


async def test_one_of_them_can_be_released_alone(stage):
    await stage.run()
    cause(stage.world, {"cancelled:merchant_closed": 2})
    await stage.run()
    one = (await mails(stage, state="held"))[0].id
    assert (await operator(stage).release(one[:13])).ok
    assert (await stage.deliver()).sent == 1


async def test_races_of_two_operators_open_exactly_the_plan_once(held):
    ids = await held_plan(held)
    for _ in range(30):
        rulings = await asyncio.gather(
            operator(held, "anna").approve(held.batch, held.hash), operator(held, "ben").approve(held.batch, held.hash)
        )
        assert Counter(ruling.outcome for ruling in rulings) == {"approved": 1, "already_decided": 1}
        assert [mail.id for mail in await mails(held, state="ready")] == ids
        winner = "anna" if rulings[0].outcome == "approved" else "ben"
        assert (await batch_of(held, held.batch)).decided_by == winner
        await set_batch(held, held.batch, state="held", decided_at=None, decided_by=None)
        for one in ids:
            await set_mail(held, one, state="held", reason="guard")
    await operator(held).approve(held.batch, held.hash)
    await asyncio.gather(held.deliver(), held.deliver())
    assert Counter(mail.message["To"] for mail in held.mailbox.messages).most_common(1)[0][1] == 1
    assert len(held.mailbox.messages) == 5


async def test_an_approval_and_a_rejection_at_once_end_as_one_of_them(held):
    for _ in range(20):
        approved, rejected = await asyncio.gather(
            operator(held, "anna").approve(held.batch, held.hash), operator(held, "ben").reject(held.batch)
        )
        assert {approved.outcome, rejected.outcome} in (
            {"approved", "decided_otherwise"},
            {"decided_otherwise", "rejected"},
        )
        assert len({mail.state for mail in await mails(held) if mail.id in approved.ids + rejected.ids}) == 1
        await set_batch(held, held.batch, state="held", decided_at=None, decided_by=None)
        for mail in await mails(held):
            await set_mail(held, mail.id, state="held", reason="guard")


async def test_a_sweep_that_heals_rows_during_an_approval_neither_blocks_nor_lets_a_healed_mail_go(held):
    for one in held.ids[:3]:
        acts.confirm_trial(held.world, held.world.get(one))
    ruling, report = await asyncio.gather(operator(held).approve(held.batch, held.hash), held.run())
    assert ruling.outcome in {"approved", "changed"} and report.outcome in {"complete", "held"}
    if not ruling.ok:
        await operator(held).review(held.batch)
        assert (await operator(held).approve(held.batch)).ok
    await held.deliver()
    assert len(held.mailbox.messages) == 2


async def test_approving_what_the_witness_held_accepts_this_database(stage):
    await stage.run()
    (stage.state_dir / FILE_NAME).write_text('{"uuid": "another", "counter": 7}')
    cause(stage.world, {"trial_ending": 1})
    report = await stage.run()
    assert report.outcome == "held"
    async with stage.db.read() as conn:
        assert await check_witness(conn, stage.db, stage.state_dir) is not None

    ruling = await operator(stage).approve(report.batch_id, report.plan_hash)

    assert ruling.sentence.endswith("This database is accepted as the one to go on with")
    async with stage.db.read() as conn:
        assert await check_witness(conn, stage.db, stage.state_dir) is None
    assert (await stage.run()).outcome == "complete"


async def test_rejecting_what_the_witness_held_says_that_the_database_is_still_not_accepted(stage):
    await stage.run()
    (stage.state_dir / FILE_NAME).write_text('{"uuid": "another", "counter": 7}')
    cause(stage.world, {"trial_ending": 1})
    first = await stage.run()

    ruling = await operator(stage).reject(first.batch_id)

    assert ruling.ok and "1 mail will not be sent. This database is still not accepted" in ruling.sentence
    assert ruling.command == "monitor run"
    again = await stage.run()
    assert again.outcome == "held"
    cause(stage.world, {"trial_ending": 1})
    last = await stage.run()
    assert (await operator(stage).approve(again.batch_id)).ok
    late = await operator(stage).reject(last.batch_id)
    assert late.ok and (late.command, "accepted" in late.sentence) == (None, False)


async def test_accepting_the_database_leaves_no_empty_batch_of_the_same_doubt_to_decide(stage):
    await stage.run()
    (stage.state_dir / FILE_NAME).write_text('{"uuid": "another", "counter": 7}')
    empty, other, last = [(await stage.run()).batch_id for _ in range(3)]
    cause(stage.world, {"trial_ending": 1})
    full = (await stage.run()).batch_id
    await set_batch(stage, other, reason='[["share", "too many"]]')

    assert (await operator(stage).approve(last)).ok

    states = {name: (await batch_of(stage, one)).state for name, one in (("empty", empty), ("other", other))}
    assert states == {"empty": "open", "other": "held"}
    assert (await batch_of(stage, empty)).decided_by == "anna"
    assert (await batch_of(stage, full)).state == "held", "its mail still waits for a person"


async def test_approving_for_another_reason_does_not_vouch_for_the_database(held):
    (held.state_dir / FILE_NAME).write_text('{"uuid": "another", "counter": 7}')
    await operator(held).approve(held.batch, held.hash)
    async with held.db.read() as conn:
        assert await check_witness(conn, held.db, held.state_dir) is not None


async def test_a_waiting_mail_is_held_by_hand_and_released_by_hand(stage):
    one = await waiting_mail(stage)

    ruling = await operator(stage).hold(one[:10])

    assert ruling.ok and ruling.command == f"monitor outbox release {one}"
    assert (await mails(stage, id=one))[0].why == "anna, 1 Apr 2026, 11:00 CEST"
    assert (await stage.deliver()).sent == 0
    twice = await operator(stage).hold(one)
    assert not twice.ok and twice.sentence == "the mail cannot be held: its state is 'held'"
    assert (
        await operator(stage, "ben").release(one)
    ).sentence == "the mail goes on with the next delivery, if it is still true"
    assert (await stage.deliver()).sent == 1
    async with stage.db.read() as conn:
        noted = list(await conn.execute(select(attempts).where(attempts.c.phase == "operator").order_by(attempts.c.id)))
    assert [(row.outcome, row.detail, row.copy) for row in noted] == [("held", "anna", 0), ("released", "ben", 0)]


async def test_a_staged_mail_released_by_hand_still_passes_the_guard(stage):
    one = await waiting_mail(stage)
    await set_mail(stage, one, state="staged")
    batch = (await mails(stage, id=one))[0].batch_id
    await set_batch(stage, batch, state="collecting")
    await operator(stage).hold(one)
    ruling = await operator(stage).release(one)
    assert "when the guard has judged its batch" in ruling.sentence
    assert (await mails(stage, id=one))[0].state == "staged"


async def test_an_urgent_mail_above_its_addresss_limit_goes_once_an_operator_released_it(stage):
    await stage.run()
    cause(stage.world, {"payment_failed:approval_revoked": 1})
    await stage.run()
    one = (await mails(stage, state="ready"))[0].id
    stage.change(guard=GuardLimits(per_address_24h=0, per_address_urgent_24h=0))
    assert (await stage.deliver()).held == 1
    assert (await mails(stage, id=one))[0].reason == "per_address"

    assert (await operator(stage).release(one)).ok

    assert (await stage.deliver()).sent == 1


async def test_all_waiting_mails_of_an_account_are_held_and_released_together(stage):
    await stage.run()
    cause(stage.world, {"trial_ending": 3})
    await stage.run()

    ruling = await operator(stage).hold_account("acme")

    assert ruling.sentence == "3 mails of acme are held until somebody releases them" and len(ruling.ids) == 3
    assert (await stage.deliver()).sent == 0
    assert (await operator(stage).hold_account("acme")).outcome == "nothing"
    assert (await operator(stage).release_account("acme")).sentence == "3 mails of acme go on"
    assert (await operator(stage).release_account("acme")).outcome == "nothing"
    assert (await stage.deliver()).sent == 3


async def test_what_was_held_by_hand_goes_back_to_where_its_batch_is_in_one_decision(held):
    one = (await mails(held, state="held"))[0]
    await operator(held).hold(one.id)
    held.change(guard=GuardLimits())
    cause(held.world, {"paused": 1})
    await held.run()
    alone = await operator(held).hold_account("acme")
    assert alone.sentence == "1 mail of acme is held until somebody releases it"

    ruling = await operator(held).release_account("acme")

    assert ruling.sentence == f"2 mails of acme go on; 1 back in the held plan of batch {held.batch}"
    assert ruling.command == f"monitor outbox review {held.batch}"
    assert {(mail.state, mail.reason) for mail in await mails(held) if mail.id in ruling.ids} == {
        ("held", "guard"),
        ("ready", None),
    }


async def test_a_failed_mail_is_tried_again_with_all_its_tries(stage):
    one = await waiting_mail(stage)
    await set_mail(stage, one, state="failed", reason="gave_up", tries=8, poisoned=2)

    ruling = await operator(stage).retry(one)

    assert ruling.ok and ruling.command == "monitor deliver"
    row = (await mails(stage, id=one))[0]
    assert (row.state, row.reason, row.tries, row.poisoned) == ("ready", None, 0, 0)
    assert (await stage.deliver()).sent == 1
    sent = await operator(stage).retry(one)
    assert not sent.ok and sent.sentence == "the mail cannot be tried again: its state is 'sent'"


async def test_a_retry_that_could_only_be_late_or_refused_again_is_refused(stage):
    one = await waiting_mail(stage)
    address_mac = stage.tools.address_mac("x@example.org")
    await set_mail(stage, one, state="failed", reason="refused", address_mac=address_mac)
    row = await stage.row()
    async with stage.db.write() as conn:
        await suppress(conn, row.id, address_mac, scope="all", reason="5.1.1", by="delivery", at=START)
    suppressed = await operator(stage).retry(one)
    assert not suppressed.ok and suppressed.command == "monitor suppressions remove ADDRESS"

    await set_mail(stage, one, not_after=START - timedelta(seconds=1))
    late = await operator(stage).retry(one)
    assert late.outcome == "expired" and "1 Apr 2026, 10:59 CEST" in late.sentence
    assert (await mails(stage, id=one))[0].state == "failed"


async def test_a_mail_that_may_have_arrived_is_never_tried_a_third_time(stage):
    one = await waiting_mail(stage)
    await set_mail(stage, one, state="unsettled", copies=2)
    assert "there is no third copy" in (await operator(stage).retry(one)).sentence


async def test_what_does_not_exist_is_named_with_the_command_that_lists(stage):
    with pytest.raises(NotFoundError, match="no batch 99: `monitor outbox batches`"):
        await operator(stage).approve(99)
    with pytest.raises(NotFoundError, match="no mail 'nothing'; `monitor outbox list`"):
        await operator(stage).hold("nothing")
    with pytest.raises(NotFoundError, match="no mail ''; "):
        await operator(stage).hold("")
    with pytest.raises(NotFoundError, match="run `monitor run` first"):
        await operator(stage).hold_account("acme")
    await stage.run()
    cause(stage.world, {"paused": 17})  # there are 16 digits to begin with
    await stage.run()
    firsts = Counter(mail.id[0] for mail in await mails(stage))
    with pytest.raises(NotFoundError, match="several mails begin with "):
        await operator(stage).hold(firsts.most_common(1)[0][0])
    with pytest.raises(NotFoundError, match="no mail ''; "):
        await operator(stage).hold("")


async def test_the_baseline_mails_nothing_until_it_is_adopted_and_approved_and_then_each_once(stage):
    cause(stage.world, {"payment_failed:insufficient_balance": 12, "trial_ending": 2})
    await stage.run()
    await stage.deliver()
    assert len(stage.mailbox.messages) == 0
    stage.world.advance(timedelta(hours=3))

    adoption = await adopt(stage.tools, stage.account, by="anna", situation=Situation.PAYMENT_FAILED)

    assert (adoption.episodes, adoption.mails, adoption.silent) == (12, 12, 0)
    assert adoption.kinds == (("payment_failed", 12),)
    assert (await stage.deliver()).sent == 0
    batch = await batch_of(stage, adoption.batch_id)
    assert rules_of(batch.reason) == (
        ("adopt", "anna adopted what the first contact had found; nothing goes without approval"),
    )
    assert (await stage.run()).outcome == "complete"  # what was adopted is no news of this day
    ruling = await operator(stage).approve(adoption.batch_id, adoption.plan_hash)
    assert len(ruling.ids) == 12
    await stage.deliver()
    assert len(stage.mailbox.messages) == 12
    assert len({mail.message["To"] for mail in stage.mailbox.messages}) == 12
    assert (await adopt(stage.tools, stage.account, by="anna", situation=Situation.PAYMENT_FAILED)).batch_id is None
    await stage.run()
    await stage.deliver()
    assert len(stage.mailbox.messages) == 12

    rest = await adopt(stage.tools, stage.account, by="anna")
    assert rest.kinds == (("trial_ending", 2),)


async def test_an_adoption_that_causes_no_mail_leaves_nothing_to_approve(stage):
    cause(stage.world, {"cancelled:customer": 2})
    await stage.run()
    stage.world.advance(timedelta(days=30))

    adoption = await adopt(stage.tools, stage.account, by="anna")

    assert (adoption.episodes, adoption.mails, adoption.silent) == (2, 0, 2)
    assert (await batch_of(stage, adoption.batch_id)).state == "open"


async def test_an_account_that_never_ran_has_nothing_to_adopt(stage):
    with pytest.raises(NotFoundError, match="run `monitor run` first"):
        await adopt(stage.tools, stage.account, by="anna")


async def test_two_adoptions_at_once_plan_each_mail_once(stage):
    cause(stage.world, {"trial_ending": 6})
    await stage.run()
    both = await asyncio.gather(*(adopt(stage.tools, stage.account, by=name) for name in ("anna", "ben")))
    assert sorted(one.mails for one in both) == [0, 6]


async def held_plan(stage):
    async with stage.db.read() as conn:
        ids = await held_ids(conn, stage.batch)
    assert ids == sorted(ids)
    return ids


async def waiting_mail(stage):
    await stage.run()
    cause(stage.world, {"trial_ending": 1})
    await stage.run()
    return (await mails(stage, state="ready"))[0].id
