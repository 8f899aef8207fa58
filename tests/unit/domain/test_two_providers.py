"""One subscription, told by two providers: what one of them cannot tell is neither news nor taken back."""

from dataclasses import replace

from monitor.domain.decide import Standing, decide
from monitor.domain.model import Cause, Situation, Status
from tests.unit.domain.scenes import ACTIVE, LIVE, NOW, PAST_DUE, PAUSED


def test_a_switch_of_providers_is_no_change_of_what_one_of_them_cannot_tell():
    known = replace(PAST_DUE, provider="qbitflow-v2", maximum=5)
    first = decide(Standing(), known, LIVE, NOW)
    seen = replace(known, provider="qbitflow-v1", status_raw="past_due", maximum=None, price_usd=None, allowance=None)
    standing = Standing(snapshot=known, situation=first.after.situation, cause=Cause.OTHER, current=first.opens)
    decision = decide(standing, seen, LIVE, NOW)
    assert (decision.changes, decision.closes, decision.opens) == ((), None, None)
    # the same fields are news where one provider tells both
    assert decide(standing, replace(seen, provider="qbitflow-v2"), LIVE, NOW).changes


def test_a_bill_is_seen_across_providers():
    known = replace(ACTIVE, provider="qbitflow-v2")
    seen = replace(known, provider="qbitflow-v1", last_billing_at=NOW)
    standing = Standing(snapshot=known, situation=Situation.HEALTHY)
    assert [change.kind for change in decide(standing, seen, LIVE, NOW).changes] == ["bill_paid"]


def test_a_provider_without_the_word_takes_back_nothing_until_its_word_changes():
    paused = replace(PAUSED, provider="qbitflow-v2")
    spell = decide(Standing(), paused, LIVE, NOW).opens
    standing = Standing(snapshot=paused, situation=Situation.PAUSED, current=spell)
    seen = replace(paused, status=Status.UNKNOWN, provider="qbitflow-v1")
    decision = decide(standing, seen, LIVE, NOW)
    assert (decision.changes, decision.after.situation) == ((), Situation.PAUSED)
    # judged again by time, and read again by its own provider: the same
    later = Standing(snapshot=seen, situation=decision.after.situation, current=decision.keeps)
    assert decide(later, seen, LIVE, NOW).changes == ()
    back = decide(later, paused, LIVE, NOW)
    assert (back.changes, back.after.situation) == ((), Situation.PAUSED)
    frozen = decide(later, replace(seen, status_raw="frozen"), LIVE, NOW)
    assert [change.kind for change in frozen.changes] == ["unknown"]
    active = decide(later, replace(seen, status=Status.ACTIVE, status_raw="active"), LIVE, NOW)
    assert active.after.situation is Situation.HEALTHY
    assert active.changes
