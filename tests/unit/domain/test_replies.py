"""What each SMTP reply means, at each command: a table to read, not a computation."""

import pytest

from monitor.domain.backoff import TRANSIENT_TRIES, UNREADABLE_TRIES
from monitor.domain.replies import Phase, Verdict, classify_reply, enhanced_code, tries_allowed

OK, LATER, NO, DEAD, US = (
    Verdict.ACCEPTED,
    Verdict.RETRY,
    Verdict.REFUSED,
    Verdict.SUPPRESS,
    Verdict.PAUSE_SENDER,
)
COLUMNS = (Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.DOT)

# code, enhanced, text                     MAIL   RCPT   DATA   DOT
TABLE = [
    (250, "2.1.0", "ok",                    OK,    OK,    LATER, OK),
    (250, None, "",                         OK,    OK,    LATER, OK),
    (251, None, "will forward",             OK,    OK,    LATER, OK),
    (252, "2.1.5", "cannot verify",         OK,    OK,    LATER, OK),
    (250, "5.1.1", "contradicts itself",    OK,    OK,    LATER, OK),
    (354, None, "go ahead",                 LATER, LATER, OK,    LATER),
    (421, "4.3.2", "closing",               LATER, LATER, LATER, LATER),
    (450, "4.2.1", "mailbox busy",          LATER, LATER, LATER, LATER),
    (451, "4.7.1", "greylisted",            LATER, LATER, LATER, LATER),
    (452, "4.2.2", "mailbox full",          LATER, LATER, LATER, LATER),
    (452, None, "too many recipients",      LATER, LATER, LATER, LATER),
    (454, "4.7.0", "try TLS later",         LATER, LATER, LATER, LATER),
    (450, "5.1.1", "contradicts itself",    LATER, LATER, LATER, LATER),
    (550, "4.7.1", "contradicts itself",    LATER, LATER, LATER, LATER),
    (552, "5.2.2", "mailbox full",          LATER, LATER, LATER, LATER),
    (550, "5.2.2", "mailbox full",          LATER, LATER, LATER, LATER),
    (552, None, "exceeded storage",         LATER, LATER, LATER, LATER),
    (552, "5.3.4", "message too big",       NO,    NO,    NO,    NO),
    (552, "5.2.3", "longer than allowed",   NO,    NO,    NO,    NO),
    (553, "5.6.7", "no such letters here",  NO,    NO,    NO,    NO),
    (550, "5.1.1", "no such user",          US,    DEAD,  DEAD,  DEAD),
    (550, "5.1.2", "no such domain",        US,    DEAD,  DEAD,  DEAD),
    (556, "5.1.10", "null MX",              US,    DEAD,  DEAD,  DEAD),
    (550, None, "5.1.1 in the text only",   US,    DEAD,  DEAD,  DEAD),
    (553, "5.1.8", "bad sender address",    US,    US,    US,    US),
    (550, "5.1.5", "valid, it says",        US,    NO,    NO,    NO),
    (550, "5.7.1", "policy",                US,    US,    US,    US),
    (554, "5.7.26", "DMARC",                US,    US,    US,    US),
    (530, "5.7.0", "authenticate first",    US,    US,    US,    US),
    (530, None, "authenticate first",       US,    US,    US,    US),
    (535, "5.7.8", "bad credentials",       US,    US,    US,    US),
    (534, None, "mechanism too weak",       US,    US,    US,    US),
    (535, None, "bad credentials",          US,    US,    US,    US),
    (538, None, "encryption required",      US,    US,    US,    US),
    (559, None, "the last of the grammar",  US,    NO,    NO,    NO),
    (560, None, "beyond the grammar",       LATER, LATER, LATER, LATER),
    (200, None, "the first of the grammar", OK,    OK,    LATER, OK),
    (199, None, "below the grammar",        LATER, LATER, LATER, LATER),
    (550, "5.2.1", "mailbox disabled",      US,    NO,    NO,    NO),
    (550, None, "mailbox unavailable",      US,    NO,    NO,    NO),
    (550, "2.1.5", "contradicts itself",    US,    NO,    NO,    NO),
    (550, "banana", "not a code",           US,    NO,    NO,    NO),
    (554, "5.4.4", "cannot route",          US,    NO,    NO,    NO),
    (503, "5.5.1", "bad sequence",          US,    NO,    NO,    NO),
    (571, None, "beyond the grammar",       LATER, LATER, LATER, LATER),
    (599, "5.1.1", "beyond the grammar",    LATER, LATER, LATER, LATER),
    (100, None, "no such class",            LATER, LATER, LATER, LATER),
    (666, None, "no such class",            LATER, LATER, LATER, LATER),
    (-1, None, "the line was garbage",      LATER, LATER, LATER, LATER),
    (None, None, "\x00\xff" * 32_768,       LATER, LATER, LATER, LATER),
]  # fmt: skip
CELLS = [
    pytest.param(phase, code, enhanced, text, verdict, id=f"{phase} {code} {enhanced} {text[:20]!r}")
    for code, enhanced, text, *verdicts in TABLE
    for phase, verdict in zip(COLUMNS, verdicts, strict=True)
]


@pytest.mark.parametrize(("phase", "code", "enhanced", "text", "verdict"), CELLS)
def test_a_reply_means_what_the_table_says(phase, code, enhanced, text, verdict):
    assert classify_reply(phase, code, enhanced, text) is verdict


def test_the_table_has_at_least_the_promised_cells():
    assert len(CELLS) >= 120


@pytest.mark.parametrize("phase", [Phase.CONNECT, Phase.HELO, Phase.AUTH])
@pytest.mark.parametrize(
    ("code", "enhanced", "verdict"),
    [
        (220, None, OK),
        (235, "2.7.0", OK),
        (421, None, LATER),
        (454, "4.7.0", LATER),
        (334, None, LATER),
        (535, "5.7.8", US),
        (534, "5.7.9", US),
        (550, "5.1.1", US),
        (552, None, US),
        (554, None, US),
        (554, "4.7.1", LATER),
        (None, None, LATER),
    ],
)
def test_a_session_that_is_refused_is_our_fault_and_no_mails(phase, code, enhanced, verdict):
    assert classify_reply(phase, code, enhanced) is verdict


@pytest.mark.parametrize("code", [221, 421, 451, 550, 999, None])
def test_whatever_quit_answers_the_mail_stays_delivered(code):
    assert classify_reply(Phase.QUIT, code, "5.7.1", "") is Verdict.ACCEPTED


def test_an_explicit_enhanced_code_wins_over_the_text():
    assert classify_reply(Phase.RCPT, 550, "5.2.1", "5.1.1 no such user") is NO


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("5.1.1 no such user", "5.1.1"),
        (" 4.7.1: later", "4.7.1"),
        ("5.1.10 null MX", "5.1.10"),
        ("5.1.1234 is none", None),
        ("user 5.1.1", None),
        ("3.1.1 no such class", None),
        ("", None),
    ],
)
def test_the_enhanced_code_stands_at_the_beginning_of_the_text(text, code):
    assert enhanced_code(text) == code


@pytest.mark.parametrize(
    ("code", "enhanced", "text", "tries"),
    [
        (451, "4.7.1", "", TRANSIENT_TRIES),
        (421, None, "", TRANSIENT_TRIES),
        (400, None, "", TRANSIENT_TRIES),
        (552, "5.2.2", "", TRANSIENT_TRIES),
        (552, None, "5.2.2 mailbox full", TRANSIENT_TRIES),
        (552, None, "", UNREADABLE_TRIES),
        (550, "4.7.1", "", UNREADABLE_TRIES),
        (466, None, "", UNREADABLE_TRIES),
        (None, None, "", UNREADABLE_TRIES),
        (None, "4.2.2", "", UNREADABLE_TRIES),
    ],
)
def test_a_reply_that_makes_no_sense_is_not_tried_for_days(code, enhanced, text, tries):
    assert tries_allowed(code, enhanced, text) == tries
