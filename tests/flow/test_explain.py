"""Why did she get this mail, or none? Asked of a real ledger, on both databases."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from monitor.domain.guard import GuardLimits
from monitor.domain.words import RULES
from monitor.errors import ConfigError, NotFoundError
from monitor.sandbox import acts
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.accounts import change_account
from monitor.store.outbox import record_attempts
from monitor.store.schema import customers, episodes, events, notifications, subscriptions
from monitor.usecases.adopt import adopt
from monitor.usecases.explain import Reader
from monitor.usecases.operate import Operator
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
FAILED = "payment_failed:allowance_exhausted"


@pytest.fixture
async def stage(database_url, tmp_path):
    async with staged(healthy(30, trials=3, start=START), database_url, tmp_path / "var") as made:
        yield made


def reader(stage, **options):
    return Reader(stage.db, stage.tools.address_mac, {"acme": "Europe/Budapest"}, stage.world.now, **options)


async def story(stage, asked, **options):
    return (await reader(stage).explain(asked, **options)).stories[0]


async def test_an_account_that_travelled_is_told_by_its_own_clock_alone(stage):
    await stage.run()
    tomorrow = stage.world.now + timedelta(days=1)
    stage.world.advance(to=tomorrow)
    (other,) = cause(stage.world, {FAILED: 1})[FAILED]
    await stage.run(at=tomorrow)
    wall = stage.tools.clock.now()
    await set_travel(stage, timedelta(days=2))

    told = (await Reader(stage.db, stage.tools.address_mac, {}, wall).explain(other)).stories[0]

    assert told.now == wall + timedelta(days=2)
    assert told.facts["last read"].startswith("2 Apr 2026, 09:0")


async def test_a_mail_is_found_by_the_beginning_of_its_id_as_listings_print_it(stage):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    assert (await story(stage, mail[:13])).subscription == asked
    for nothing in ("", "  "):
        with pytest.raises(ConfigError, match="nothing was asked for: give a subscription's or a payment's id"):
            await story(stage, nothing)


async def test_a_beginning_that_several_mails_share_is_told_and_not_guessed_from(stage):
    await stage.run()
    cause(stage.world, {"paused": 17})
    await stage.run()
    async with stage.db.read() as conn:
        firsts = Counter(found[0] for found in (await conn.execute(select(notifications.c.id))).scalars())
    shared = firsts.most_common(1)[0][0]  # seventeen ids, sixteen digits
    assert firsts[shared] > 1
    with pytest.raises(NotFoundError, match=f"several mails begin with {shared}: name more of the id"):
        await reader(stage).explain(shared)


async def set_travel(stage, travel):
    async with stage.db.write() as conn:
        await change_account(conn, (await stage.row()).id, time_travel=travel)


async def set_mail(stage, mail_id, **values):
    async with stage.db.write() as conn:
        await conn.execute(update(notifications).where(notifications.c.id == mail_id).values(**values))


async def one_failing(stage, situation=FAILED):
    """A subscription that has failed after the baseline; its mail waits."""
    await stage.run()
    stage.world.advance(timedelta(hours=1))
    (asked,) = cause(stage.world, {situation: 1})[situation]
    await stage.run()
    return asked


def whats(told):
    return [line.what for line in told.lines]


async def test_a_sent_mail_is_told_with_its_reason_its_reply_and_its_message_id(stage):
    asked = await one_failing(stage)
    await stage.deliver()

    told = await story(stage, asked)

    assert told.situation == "payment_failed"
    assert told.summary == "Payment failed since 1 Apr 2026, 12:00 CEST: the allowance was used up"
    assert told.next == "No further mail is planned for this episode. Deadline 8 Apr 2026, 12:00 CEST"
    assert whats(told) == ["sent", "event", "seen"]
    sent, event, seen = told.lines
    assert sent.sentence.startswith(
        'Sent "payment failed", first mail to c***@customer.example, the server answered 250'
    )
    assert sent.because == "payment failed since 1 Apr 2026, 12:00 CEST, deadline 8 Apr 2026, 12:00 CEST"
    assert event.sentence == "Payment failed: the allowance was used up (before: healthy)" and event.ref == "run 2"
    assert seen.sentence == "First seen at the first contact with the account: recorded, nothing was mailed"
    step = told.spells[0].steps[0]
    assert (step.outcome, step.step, step.at) == ("sent", "first", stage.world.now)
    assert step.message_id == str(stage.mailbox.messages[0].message["Message-ID"])
    assert step.reply is not None and step.reply.startswith("250")
    assert told.facts["status"] == "past due" and told.facts["failing since"] == "1 Apr 2026, 12:00 CEST"


async def test_a_state_without_a_deadline_names_none(stage):
    asked = await one_failing(stage, "paused")
    await stage.deliver()
    assert (await story(stage, asked)).next == "No further mail is planned for this episode"


async def test_a_subscription_that_was_muted_at_the_baseline_says_so_and_how_to_change_it(stage):
    (asked,) = cause(stage.world, {FAILED: 1})[FAILED]
    await stage.run()
    told = await story(stage, asked)
    assert told.next.startswith("Muted since the first contact: `monitor adopt --account acme` unmutes it")
    silent = next(line for line in told.lines if line.what == "not_sent")
    assert silent.sentence == 'Not sent: "payment failed", first mail' and silent.rule == "baseline"
    assert "`monitor adopt` unmutes it" in silent.because and silent.dated

    await adopt(stage.tools, stage.account, by="anna")
    held = await story(stage, asked)
    assert "anna adopted what the first contact had found" in held.spells[0].steps[0].because


async def test_a_healthy_subscription_says_since_when_and_that_nothing_is_due(stage):
    await stage.run()
    asked = stage.world.id_of(next(stage.world.living()))
    told = await story(stage, asked)
    assert told.summary == "Healthy since 1 Apr 2026, 11:00 CEST (first seen)" and told.next == "Nothing is due"
    assert whats(told) == ["seen"] and told.spells == ()
    trial = next(stage.world.id_of(sub) for sub in stage.world.living() if sub.status == "trial")
    assert (await story(stage, trial)).next.startswith("Nothing is due. It is looked at again ")


async def test_one_who_signed_up_after_the_baseline_has_no_baseline_line(stage):
    await stage.run()
    stage.world.advance(timedelta(hours=2))
    first = next(sub for sub in stage.world.living() if sub.status == "active")
    sub = acts.subscribe(stage.world, first.product, first.wallet, first.customer)
    stage.world.advance(timedelta(minutes=1))
    await stage.run()
    told = await story(stage, stage.world.id_of(sub))
    assert [line.what for line in told.lines] == ["event", "seen"]
    assert told.lines[0].sentence in {"New subscription, active", "New subscription, trial"}
    assert told.lines[1].sentence.startswith("First seen (")
    assert told.lines[1].because == "account baselined 1 Apr 2026, 11:00 CEST"


async def test_an_unknown_state_is_told_and_a_healed_one_says_why_no_all_clear_went(stage):
    asked = await one_failing(stage, "trial_ending")
    acts.confirm_trial(stage.world, stage.world.get(asked))
    await stage.run()
    told = await story(stage, asked)
    assert [(step.outcome, step.rule) for step in told.spells[0].steps] == [
        ("voided", "healed"),
        ("no_all_clear", "no_all_clear"),
    ]
    assert "no warning of this episode was delivered" in told.spells[0].steps[1].because
    assert told.spells[0].steps[0].at == stage.world.now

    stage.world.change(stage.world.get(asked), status_text="frozen")
    await stage.run()
    odd = await story(stage, asked)
    assert odd.summary.startswith("In a state that this version does not know since ")
    assert odd.facts["status"] == '"frozen", a word that this version does not know'


async def test_a_recovery_with_proof_is_followed_by_the_all_clear(stage):
    asked = await one_failing(stage)
    await stage.deliver()
    stage.world.advance(timedelta(hours=1))
    cause(stage.world, {"recovered": 1})
    await stage.run()
    await stage.deliver()
    told = await story(stage, asked)
    assert told.summary.startswith("Healthy since 1 Apr 2026, 13:00 CEST")
    assert [step.outcome for step in told.spells[0].steps] == ["sent", "sent"]
    assert whats(told)[:2] == ["sent", "ended"]
    assert any(line.sentence.startswith("Allowance raised from ") for line in told.lines)
    assert any(line.sentence.startswith("A bill was paid (1 Apr 2026") for line in told.lines)


@pytest.mark.parametrize(("close_reason", "said"), [("healed", "no paid bill"), ("recovered", "too long ago")])
async def test_an_end_after_a_warning_says_why_no_all_clear_followed(stage, close_reason, said):
    asked = await one_failing(stage)
    await stage.deliver()
    async with stage.db.write() as conn:
        await conn.execute(update(episodes).values(closed_at=stage.world.now, close_reason=close_reason))
    assert said in (await story(stage, asked)).spells[0].steps[1].because


async def test_a_step_that_is_not_due_yet_names_its_day_and_one_that_never_came_says_so(stage):
    asked = await one_failing(stage, "payment_failed:other")
    told = await story(stage, asked)
    assert told.spells[0].steps[0].outcome == "not_due"
    assert told.next.startswith(
        'Not yet: "payment failed", first mail comes due 2 Apr 2026, 12:00 CEST, if it is still'
    )
    stage.world.advance(timedelta(days=2))
    assert (await story(stage, asked)).spells[0].steps[0].outcome == "due"
    cause(stage.world, {"recovered": 1})
    await stage.run()
    gone = await story(stage, asked)
    step = gone.spells[0].steps[0]
    if step.outcome != "voided":
        assert step.rule == "never_due" and "the episode ended" in step.because


async def test_every_rule_is_told_in_words_with_its_values_wherever_it_can_stand(stage):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    for rule in RULES:
        for state in ("voided", "ready", "held", "failed", "ambiguous", "unsettled"):
            await set_mail(stage, mail, state=state, reason=rule, why="a detail", next_try_at=START + timedelta(days=1))
            step = (await story(stage, asked)).spells[0].steps[0]
            assert (
                step.outcome == state
                and step.because
                and "{" not in step.because
                and "unknown" not in step.because.replace("unknown_state", "")
            )
            assert step.rule == rule and step.why == "a detail"


@pytest.mark.parametrize(
    ("values", "sentence", "command"),
    [
        ({"state": "staged"}, 'Waits for the guard: "payment failed", first mail', None),
        ({"state": "ready"}, 'Waits until the next delivery: "payment failed", first mail', None),
        ({"state": "claimed"}, 'Is being sent: "payment failed", first mail', None),
        ({"state": "in_data"}, 'Handed over, no reply yet: "payment failed", first mail', None),
        (
            {"state": "failed", "reason": "gave_up"},
            'Not sent, failed: "payment failed", first mail',
            "monitor outbox retry {id}",
        ),
        (
            {"state": "held", "reason": "by_hand"},
            'Held for an operator: "payment failed", first mail',
            "monitor outbox release {id}",
        ),
        (
            {"state": "held", "reason": "guard"},
            'Held for an operator: "payment failed", first mail',
            "monitor outbox review 2",
        ),
        (
            {"state": "ambiguous", "copies": 1, "recipient": "x@y.org"},
            'May have arrived: "payment failed", first mail to x***@y.org; goes once more as the same mail, if it is still due',
            None,
        ),
        ({"state": "unsettled"}, 'May have arrived: "payment failed", first mail; no further copy is sent', None),
    ],
)
async def test_every_state_has_its_sentence_and_what_can_be_done(stage, values, sentence, command):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    await set_mail(stage, mail, **values)
    told = await story(stage, asked)
    step = told.spells[0].steps[0]
    assert step.sentence == sentence
    assert step.command == (None if command is None else command.format(id=mail))
    assert told.next.startswith(sentence) == (values["state"] not in {"failed", "unsettled"})


async def test_a_mail_sent_twice_says_that_an_earlier_copy_may_have_arrived(stage):
    asked = await one_failing(stage)
    await stage.deliver()
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    await set_mail(stage, mail, copies=2)
    assert (await story(stage, asked)).spells[0].steps[0].sentence.endswith("; an earlier copy may have arrived too")


async def test_the_guards_sentence_the_approval_and_a_rejection_are_told(stage):
    await stage.run()
    stage.change(guard=GuardLimits(small=0, min_population=1_000))
    asked, other = cause(stage.world, {"trial_ending": 2})["trial_ending"]
    report = await stage.run()
    held = await story(stage, asked)
    assert held.lines[0].what == "waits" and report.held[0] in held.lines[0].because
    operator = Operator(stage.tools, "anna", stage.state_dir, {"acme": "Europe/Budapest"})
    mail = (await story(stage, other)).spells[0].steps[0].notification
    await operator.hold(mail)
    await operator.review(report.batch_id)
    await operator.approve(report.batch_id)
    approved = await story(stage, asked)
    assert any(
        line.sentence == f"The held plan of batch {report.batch_id} was approved by anna" for line in approved.lines
    )
    by_hand = await story(stage, other)
    assert by_hand.spells[0].steps[0].because == "held by hand: anna, 1 Apr 2026, 11:00 CEST"
    assert any(
        line.what == "decision" and line.sentence == "Trial ending: An operator held it: anna" for line in by_hand.lines
    )


async def test_a_rejection_names_who_and_when(stage):
    await stage.run()
    stage.change(guard=GuardLimits(small=0, min_population=1_000))
    (asked,) = cause(stage.world, {"trial_ending": 1})["trial_ending"]
    report = await stage.run()
    await Operator(stage.tools, "anna", stage.state_dir).reject(report.batch_id)
    line = next(line for line in (await story(stage, asked)).lines if line.what == "not_sent")
    assert line.because == "an operator rejected the batch: anna, 1 Apr 2026, 11:00 CEST" and line.dated


async def test_replies_of_the_mail_server_have_their_own_lines(stage):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    common = {"notification_id": mail, "copy": 1, "token": 1, "at": stage.world.now}
    async with stage.db.write() as conn:
        await record_attempts(
            conn,
            [
                {**common, "phase": "rcpt", "code": 450, "enhanced": "4.2.0", "outcome": "deferred", "detail": None},
                {
                    **common,
                    "phase": "dot",
                    "code": None,
                    "enhanced": None,
                    "outcome": "ambiguous",
                    "detail": "the line went dead",
                },
                {**common, "phase": "rcpt", "code": 550, "enhanced": None, "outcome": "refused", "detail": "ignored"},
                {**common, "phase": "rcpt", "code": None, "enhanced": None, "outcome": "novel", "detail": None},
            ],
        )
    lines = [line.sentence for line in (await story(stage, asked)).lines if line.what == "attempt"]
    assert lines == [
        "Payment failed: novel",
        "Payment failed: The mail server refused it (550)",
        "Payment failed: No last reply was seen: it may have arrived: the line went dead",
        "Payment failed: The mail server asked for a later try (450 4.2.0)",
    ]


async def test_what_was_known_then_leaves_out_what_came_later(stage):
    asked = await one_failing(stage)
    began = stage.world.now
    stage.world.advance(timedelta(minutes=10))
    await stage.run()
    await stage.deliver()
    sent_at = stage.world.now

    before = await story(stage, asked, known_at=began)
    assert whats(before) == ["waits", "event", "seen"] and before.facts == {}
    assert before.spells[0].steps[0].sentence == 'Waited then: "payment failed", first mail, due 1 Apr 2026, 12:00 CEST'
    assert before.spells[0].steps[0].outcome == "waiting" and before.situation == "payment_failed"
    after = await story(stage, asked, known_at=sent_at)
    assert whats(after)[0] == "sent"
    earlier = await story(stage, asked, known_at=began - timedelta(seconds=1))
    assert earlier.summary == "Healthy since 1 Apr 2026, 11:00 CEST (first seen)" and earlier.spells == ()
    never = await story(stage, asked, known_at=START - timedelta(seconds=1))
    assert never.summary == "Not known then: first seen 1 Apr 2026, 11:00 CEST" and never.lines == ()


async def test_an_episode_that_ended_later_was_open_then(stage):
    asked = await one_failing(stage, "trial_ending")
    then = stage.world.now
    stage.world.advance(timedelta(hours=1))
    acts.confirm_trial(stage.world, stage.world.get(asked))
    await stage.run()
    told = await story(stage, asked, known_at=then)
    assert told.spells[0].open and told.spells[0].steps[0].outcome == "waiting"
    assert told.summary.startswith("Trial ending since ")


async def test_an_end_that_has_no_instant_is_told_as_later_and_hidden_from_what_was_known_before(stage):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    late = stage.world.now + timedelta(days=2)
    await set_mail(stage, mail, state="voided", reason="expired", why="late", not_after=late)
    line = (await story(stage, asked)).lines[0]
    assert not line.dated and line.at == late
    assert (await story(stage, asked, known_at=late - timedelta(seconds=1))).spells[0].steps[0].outcome == "waiting"
    assert (await story(stage, asked, known_at=late)).spells[0].steps[0].outcome == "voided"


async def test_an_address_finds_every_subscription_of_everybody_who_has_it(stage):
    await stage.run()
    asked = [stage.world.id_of(sub) for sub in list(stage.world.living())[:3]]
    async with stage.db.write() as conn:
        owner = select(subscriptions.c.customer_id).where(subscriptions.c.ext_id.in_(asked[:2]))
        await conn.execute(
            update(customers)
            .where(customers.c.id.in_(owner))
            .values(email="Anna@Example.org", address_mac=stage.tools.address_mac("anna@example.org"))
        )
        other = select(subscriptions.c.customer_id).where(subscriptions.c.ext_id == asked[2])
        await conn.execute(
            update(customers).where(customers.c.id.in_(other)).values(email="ANNA@example.org", address_mac="old key")
        )
    found = await reader(stage).explain("  anna@example.ORG ")
    assert sorted(one.subscription for one in found.stories) == sorted(asked)
    assert {one.address for one in found.stories} == {"A***@Example.org", "A***@example.org"}
    whole = await reader(stage, show_addresses=True).explain("anna@example.org", account="acme")
    assert {one.address for one in whole.stories} == {"Anna@Example.org", "ANNA@example.org"}


async def test_a_mails_id_and_a_reference_lead_to_their_subscription(stage):
    asked = await one_failing(stage)
    mail = (await story(stage, asked)).spells[0].steps[0].notification
    async with stage.db.write() as conn:
        await conn.execute(update(subscriptions).where(subscriptions.c.ext_id == asked).values(reference="order-7"))
    assert (await story(stage, mail)).subscription == (await story(stage, "order-7")).subscription == asked


async def test_what_is_not_known_is_an_error_that_says_what_to_give(stage):
    await stage.run()
    with pytest.raises(NotFoundError, match="no subscription or payment nobody is known: give a subscription"):
        await reader(stage).explain("nobody")
    with pytest.raises(
        NotFoundError,
        match="no customer's address and no subscription is nobody@example.org in account acme: is it spelled",
    ):
        await reader(stage).explain("nobody@example.org", account="acme")
    with pytest.raises(NotFoundError):
        await reader(stage).explain(stage.world.id_of(next(stage.world.living())), account="other")


async def test_a_paused_account_is_named_before_what_waits(stage):
    asked = await one_failing(stage)
    async with stage.db.write() as conn:
        await change_account(conn, (await stage.row()).id, paused_at=stage.world.now)
    assert (await story(stage, asked)).next.startswith(
        "The account is paused by hand since 1 Apr 2026, 12:00 CEST. Waits"
    )


async def test_every_kind_of_event_is_told(stage):
    asked = await one_failing(stage)
    told = [
        ("maximum_changed", "1000000", None, "Maximum amount changed from "),
        ("price_changed", "9.99", "12", "Price changed from 9.99 USD to 12 USD"),
        (
            "cause_changed",
            "unknown",
            "other",
            "The failed bill has another cause now: another reason that the API does not name",
        ),
        ("customer_changed", "a", None, "The subscription has another customer: a before, nothing now"),
        ("status_changed", "active", "odd", "The API's status went from active to odd"),
        ("action_changed", None, "topUpAllowance", "The API asks for topUpAllowance (before: nothing)"),
        ("gone", "healthy", "gone", "The API does not know this subscription any more"),
        ("novel_kind", None, None, "novel kind"),
    ]
    row = await stage.row()
    async with stage.db.write() as conn:
        sub = (await conn.execute(select(subscriptions.c.id).where(subscriptions.c.ext_id == asked))).scalar_one()
        for seq, (kind, old, new, _) in enumerate(told, 50):
            await conn.execute(
                events.insert().values(
                    account_id=row.id,
                    subscription_id=sub,
                    seq=seq,
                    kind=kind,
                    old=old,
                    new=new,
                    source="pull",
                    at=stage.world.now,
                    asked_at=stage.world.now,
                )
            )
    said = [line.sentence for line in (await story(stage, asked)).lines if line.what == "event"][::-1]
    for (_, _, _, beginning), sentence in zip(told, said[1:], strict=True):
        assert sentence.startswith(beginning), sentence


async def test_ended_episodes_without_a_mail_still_name_the_step_that_never_came(stage):
    for situation in ("payment_failed:other", "stopped", "low_on_funds", "max_amount_reached"):
        (asked,) = cause(stage.world, {situation: 1})[situation]
        await stage.run()
        async with stage.db.write() as conn:
            await conn.execute(notifications.delete())
            await conn.execute(
                update(episodes)
                .where(episodes.c.closed_at.is_(None))
                .values(closed_at=stage.world.now, close_reason="ended")
            )
        steps = (await story(stage, asked)).spells[0].steps
        assert [(step.step, step.outcome) for step in steps] == [("first", "never_due")]


async def test_an_episode_that_no_campaign_knows_has_no_steps(stage):
    asked = await one_failing(stage)
    async with stage.db.write() as conn:
        await conn.execute(notifications.delete())
        await conn.execute(update(episodes).values(kind="healthy", closed_at=stage.world.now, close_reason="ended"))
    assert (await story(stage, asked)).spells[0].steps == ()


async def test_a_test_subscription_billed_by_the_hour_says_so(stage):
    asked = await one_failing(stage)
    async with stage.db.write() as conn:
        await conn.execute(
            update(subscriptions).where(subscriptions.c.ext_id == asked).values(test=True, frequency=timedelta(hours=1))
        )
    facts = (await story(stage, asked)).facts
    assert facts["test"] == "a test subscription" and facts["price"].endswith(" USD every 1:00:00")
    async with stage.db.write() as conn:
        await conn.execute(
            update(subscriptions).where(subscriptions.c.ext_id == asked).values(frequency=None, price_usd=None)
        )
    assert (await story(stage, asked)).facts["price"] == "unknown"
