"""Every rule that the code can write has its sentence, so that nobody reads a bare rule name."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Formatter
from zoneinfo import ZoneInfo

import pytest

from monitor.domain import episodes, intents
from monitor.domain.model import Action, Cause, Kind, NotificationState, Situation, Status
from monitor.domain.words import (
    ACTIONS,
    CAUSES,
    ENDINGS,
    EVENTS,
    NAMES,
    NOTHING,
    RULES,
    STATES,
    brief,
    distance,
    mark_of,
    masked,
    moment,
    name_of,
    sentence,
    tokens,
    why_failed,
)

ROOT = Path(__file__).parents[3] / "monitor"
WRITERS = [
    ROOT / "domain" / "still_due.py",
    *sorted((ROOT / "usecases").glob("*.py")),
    ROOT / "store" / "outbox.py",
    ROOT / "store" / "batches.py",
    ROOT / "store" / "by_hand.py",
]
NOT_ABOUT_A_MAIL = {"adopt.py", "report.py", "explain.py", "spells.py", "telling.py", "operate.py"}
BUDAPEST = ZoneInfo("Europe/Budapest")
NOON = datetime(2026, 11, 20, 13, 0, tzinfo=UTC)


def written_rules() -> set[str]:
    """Rules found in the source: of answers, of `reason=` and `"reason":`, and of calls that void or hold."""
    found: set[str] = set()
    for file in WRITERS:
        if file.name in NOT_ABOUT_A_MAIL:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            found |= set(_of_call(node)) | set(_of_dict(node))
    return found


def _of_call(node: ast.AST):
    if not isinstance(node, ast.Call):
        return
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    if name == "Answer" and len(node.args) > 1:
        yield from _texts(node.args[1])
    if name in {"void", "hold"} and len(node.args) > 2:
        yield from _texts(node.args[2])
    for keyword in node.keywords:
        if keyword.arg == "reason":
            yield from _texts(keyword.value)


def _of_dict(node: ast.AST):
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "reason":
                yield from _texts(value)


def _texts(node: ast.AST):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


ENDS = {episodes.RECOVERED, episodes.HEALED, episodes.REPLACED, episodes.RENEWED, episodes.ENDED} | {
    episodes.USAGE_LOWERED,
    episodes.PERIOD_OVER,
    episodes.NOT_BILLED,
}


def test_the_search_finds_the_rules_that_are_known_to_be_written():
    assert written_rules() >= {"expired", "window", "capped", "refused", "gave_up", "worker_died", "guard", "poisoned"}


def test_every_rule_that_the_code_writes_has_a_sentence():
    constants = {value for name, value in vars(intents).items() if name.isupper() and isinstance(value, str)}
    assert (written_rules() | constants | ENDS) - {"first", "recovered"} <= set(RULES)


def test_every_end_of_an_episode_has_words():
    assert set(ENDINGS) == ENDS


def test_every_name_and_state_has_words():
    assert {one.value for one in (*Situation, *Kind, *Status)} <= set(NAMES)
    assert {one.value for one in NotificationState} == set(STATES)
    assert {one.value for one in Cause} == set(CAUSES)
    assert {one.value for one in Action} == set(ACTIONS)


@pytest.mark.parametrize(
    ("cause", "told", "said"),
    [
        ("insufficient_balance", "insufficientBalance", "the wallet held too little"),
        ("other", "reverted", "reverted"),
        ("unknown", "sunspots", "sunspots"),
        (None, "card declined", "card declined"),
        (None, None, NOTHING),
    ],
)
def test_a_failed_payment_has_our_word_or_the_apis_where_ours_says_less(cause, told, said):
    assert why_failed(cause, told) == said


def test_every_change_that_is_no_situation_has_a_sentence():
    source = (ROOT / "domain" / "diff.py").read_text() + (ROOT / "domain" / "decide.py").read_text()
    written = {
        node.args[0].value
        for node in ast.walk(ast.parse(source.replace("from __future__ import annotations", "")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "Change"
        and isinstance(node.args[0], ast.Constant)
    }
    assert {"created", "bill_paid", "cause_changed"} <= written <= set(EVENTS)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_sentence_names_only_values_that_a_teller_has(rule):
    fields = {name for _, name, _, _ in Formatter().parse(RULES[rule]) if name}
    assert fields <= {"due_at", "not_after", "until", "why"}
    filled = sentence(rule, due_at="A", not_after="B", until="C", why="D")
    assert filled and "{" not in filled and "unknown" not in filled


def test_a_detail_that_nobody_gave_is_left_out_at_the_end_and_unknown_in_the_middle():
    assert sentence("by_hand") == "held by hand"
    assert sentence("skipped_late", not_after="B") == "found too late: it was due unknown and worth sending until B"
    assert sentence(None) == ""


def test_a_rule_of_another_version_is_quoted():
    assert sentence("novel") == 'a rule named "novel", which this version does not know'
    assert mark_of("novel") == "novel"
    assert name_of("brand_new") == "brand new"
    assert name_of(None) == "—"


@pytest.mark.parametrize(
    ("address", "shown"),
    [("anna@example.org", "a***@example.org"), ("a@b@c.org", "a***@c.org"), ("anna", "a***"), ("", "—"), (None, "—")],
)
def test_addresses_are_recognisable_but_not_mailable(address, shown):
    assert masked(address) == shown


def test_instants_are_on_the_accounts_wall_clock():
    assert moment(NOON, BUDAPEST) == "20 Nov 2026, 14:00 CET"
    assert brief(NOON, BUDAPEST) == "20 Nov 2026 14:00"
    assert moment(None, BUDAPEST) == brief(None, BUDAPEST) == "—"


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (timedelta(hours=3), "in 3 h"),
        (timedelta(minutes=-5), "5 min ago"),
        (timedelta(days=6, hours=23), "in 6 d"),
        (timedelta(days=7), ""),
        (timedelta(seconds=59), "now"),
        (timedelta(seconds=60), "in 1 min"),
    ],
)
def test_distances_are_said_under_a_week(by, said):
    assert distance(NOON + by, NOON) == said


@pytest.mark.parametrize(
    ("units", "decimals", "symbol", "said"),
    [
        (4_200_000, 6, "USDC", "4.20 USDC"),
        (24 * 10**18 + 1, 18, "WETH", "24.000000000000000001 WETH"),
        (0, 6, "USDC", "0 USDC"),
        (7, 0, "XYZ", "7 XYZ"),
        (2**256 - 1, 18, "WETH", f"{(2**256 - 1) // 10**18}.{(2**256 - 1) % 10**18} WETH"),
        (100_000_000, 6, "USDC", "100.00 USDC"),
        (4990, 2, "EUR", "49.90 EUR"),
        (4990, 1, "XYZ", "499.0 XYZ"),
        (None, 6, "USDC", "unknown"),
        ("5", None, None, "5 units"),
    ],
)
def test_amounts_are_exact_and_unknown_is_not_zero(units, decimals, symbol, said):
    assert tokens(units, decimals, symbol) == said
