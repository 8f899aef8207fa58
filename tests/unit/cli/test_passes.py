from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from monitor.cli.console import json_text
from monitor.cli.passes import Pass
from monitor.domain.halt import Halt, HaltRule
from monitor.errors import ConfigError, ProviderUnavailableError
from monitor.usecases.dispatch import Delivery
from monitor.usecases.run import RunReport


def ended(outcome: str | None = "complete", delivery: Delivery | None = None, error=None) -> Pass:
    report = None if outcome is None else RunReport("acme", outcome)
    return Pass("acme", "UTC", report=report, delivery=delivery, error=error)


@pytest.mark.parametrize(
    ("done", "code"),
    [
        (ended(), 0),
        (ended(delivery=Delivery(sent=3, waiting=2, deferred=1)), 0),
        (ended("already_running"), 0),
        (ended("already_done"), 0),
        (ended("partial"), 1),
        (ended("interrupted"), 1),
        (ended("held"), 3),
        (ended(delivery=Delivery(failed=1)), 1),
        (ended(delivery=Delivery(held=1, failed=1)), 3),
        (ended(delivery=Delivery(stopped_by=Halt(HaltRule.SENDER_PAUSED, "535"))), 1),
        (ended(delivery=Delivery(stopped_by=Halt(HaltRule.SERVER_UNREACHABLE))), 1),
        (ended(delivery=Delivery(stopped_by=Halt(HaltRule.RESTORED))), 1),
        (ended(delivery=Delivery(stopped_by=Halt(HaltRule.PAUSED_BY_HAND))), 0),
        (ended(None, Delivery(stopped_by=Halt(HaltRule.NO_RUN_YET))), 0),
        (ended(error=ProviderUnavailableError("no")), 1),
        (ended(error=ConfigError("no")), 2),
    ],
)
def test_how_a_pass_ended_decides_its_exit_code(done, code):
    assert done.exit_code == code


def test_the_json_of_a_pass_is_json_and_tells_the_error():
    told = json.loads(json_text(ended(error=ConfigError("fix it")).as_json()))
    assert (told["outcome"], told["exit_code"]) == ("failed", 2)
    assert told["error"] == {"type": "ConfigError", "message": "fix it"}


def test_the_json_of_a_stopped_delivery_names_the_rule_apart_from_its_values():
    delivery = Delivery(stopped_by=Halt(HaltRule.SENDER_PAUSED, "535", datetime(2026, 4, 2, 6, 15, tzinfo=UTC)))
    told = json.loads(json_text(ended(delivery=delivery).as_json()))["delivery"]["stopped_by"]
    assert told == {"rule": "sender_paused", "why": "535", "until": "2026-04-02T06:15:00Z"}


def test_rules_that_stopped_nothing_are_left_out_of_the_json():
    delivery = Delivery()
    delivery.voided["unmailable"] += 0
    delivery.voided["healed"] += 1
    assert ended(delivery=delivery).as_json()["delivery"]["voided"] == {"healed": 1}
