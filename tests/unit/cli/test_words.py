from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.cli.progress import STAGES
from monitor.cli.summary import changed_words, delivery_words, waiting_words
from monitor.cli.words import halt_words, kind_name, mail_reason, rule_sentence, rule_words, tail
from monitor.domain.halt import Halt, HaltRule
from monitor.domain.model import Kind
from monitor.domain.words import RULES, count
from monitor.mail.samples import VARIANTS
from monitor.store.summaries import EventCount
from monitor.usecases.dispatch import Delivery

AT = datetime(2026, 4, 2, 6, 0, tzinfo=UTC)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_ledger_has_a_short_form_without_holes(rule):
    words = rule_words(rule)
    assert words
    assert not {"{", "}"} & set(words)
    assert "unknown" not in words or rule == "unknown_state"


@pytest.mark.parametrize(("kind", "variant"), [(kind, variant) for kind in Kind for variant in VARIANTS[kind]])
def test_every_mail_has_a_reason_of_its_own_that_does_not_repeat_its_name(kind, variant):
    told = mail_reason(kind, variant)
    assert told
    assert told.casefold() != kind_name(kind).casefold()
    assert told != mail_reason("payment_failed", "unknown") or variant == "unknown"


def test_who_stopped_it_is_told_and_an_all_clear_without_a_variant_has_its_reason():
    assert mail_reason("recovered", "") == "the trouble is over that we wrote about"
    assert [mail_reason("stopped", by) for by in ("customer", "merchant")] == [
        "a confirmation: they stopped it",
        "by the merchant",
    ]


def test_one_mails_rule_is_told_with_its_values():
    told = rule_sentence("window", None, AT, None, "Europe/Budapest")
    assert told == "mails leave in the sending window only, which opens 2 Apr 2026, 08:00 CEST"
    assert rule_sentence("unmailable", "malformed", AT, None, "UTC").endswith(": malformed")
    assert rule_sentence(None, None, AT, None, "UTC") == ""


@pytest.mark.parametrize("rule", HaltRule)
def test_every_reason_to_stop_delivering_has_a_sentence_without_holes(rule):
    told = halt_words(Halt(rule, "535 no", AT), "acme", "Europe/Budapest")
    assert told
    assert not {"{", "}", "—"} & set(told)


def test_every_stage_of_the_use_cases_has_words_for_its_progress():
    sources = (Path(__file__).parents[3] / "monitor" / "usecases").glob("*.py")
    told = {stage for file in sources for stage in re.findall(r'progress\("([^"]+)"', file.read_text())}
    assert told == set(STAGES)


def test_a_pause_of_the_sender_is_told_with_its_end_and_one_by_hand_with_the_way_out():
    told = halt_words(Halt(HaltRule.SENDER_PAUSED, "535 {no}", AT), "acme", "Europe/Budapest")
    assert told == "the sender pauses until 2 Apr 2026, 08:00 CEST: 535 {no}"
    assert "`monitor resume acme`" in halt_words(Halt(HaltRule.PAUSED_BY_HAND), "acme", "UTC")


def test_numbers_are_grouped_and_one_is_one():
    assert [count(n, "mail") for n in (0, 1, 30_214)] == ["0 mails", "1 mail", "30,214 mails"]
    assert count(2, "box", "boxes") == "2 boxes"


def test_names_read_as_words_and_long_ids_by_their_end():
    assert (kind_name("low_on_funds"), tail("sub@0123456789")) == ("Low on funds", "…456789")


def test_changes_tell_situations_by_name_bills_by_number_and_the_rest_in_one_figure():
    changes = [
        EventCount("payment_failed", "payment_failed", "other", 2),
        EventCount("payment_failed", "payment_failed", "unknown", 1),
        EventCount("healthy", "healthy", None, 1),
        EventCount("bill_paid", "x", None, 1),
        EventCount("allowance_raised", "x", None, 4),
    ]
    assert changed_words(changes) == "3 payment failed, 1 healthy again, 1 bill paid, 4 other"


def test_a_delivery_is_told_with_everything_that_is_odd():
    delivery = Delivery(sent=3, failed=1, deferred=2, ambiguous=1, held=1)
    delivery.voided["healed"] += 2
    assert delivery_words(delivery) == (
        "3 sent, 2 not sent any more, 2 to be tried again, 1 failed for good, 1 in doubt (the reply was lost), 1 held"
    )
    assert delivery_words(Delivery()) == "none sent"


def test_waiting_mails_are_told_with_their_hour_and_the_command():
    told = waiting_words(Delivery(waiting=1, waiting_until=AT), "Europe/Budapest")
    assert told == "1 mail waits for 2 Apr 2026, 08:00 CEST; deliver again then with `monitor deliver`"
