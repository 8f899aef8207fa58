"""What an SMTP server's reply means for one mail, for its recipient and for its sender.

One recipient per transaction, so every reply concerns one mail. The reply code decides between now, later
and never (RFC 5321 4.2.1); of a never, the enhanced code says whose fault it is (RFC 3463). Where the two
contradict each other, or the reply is no SMTP at all, the careful reading is "later", with fewer tries
(`tries_allowed`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple, TypeGuard

from monitor.domain.backoff import TRANSIENT_TRIES, UNREADABLE_TRIES


class Phase(StrEnum):
    """What the client had said when the reply came."""

    CONNECT = "connect"
    HELO = "helo"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"
    QUIT = "quit"


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    RETRY = "retry"
    REFUSED = "refused"
    SUPPRESS = "suppress"
    """Refused, and the address does not exist: never mail it again."""
    PAUSE_SENDER = "pause_sender"
    """It is us, not the mail: stop sending, burn no attempt, tell a person."""


_ENHANCED = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?!\d)")
_MAILBOX_FULL = "2.2"
_NO_DETAIL = ""


class _Row(NamedTuple):
    """One row of the table of refusals; a column left empty matches everything."""

    verdict: Verdict
    phases: frozenset[Phase] = frozenset()
    codes: frozenset[int] = frozenset()
    details: frozenset[str] = frozenset()
    """Subject ("7") or subject and detail ("1.7") of a 5.x.y; `_NO_DETAIL`: there is none."""

    def matches(self, phase: Phase, code: int, detail: str) -> bool:
        return (
            (not self.phases or phase in self.phases)
            and (not self.codes or code in self.codes)
            and (not self.details or not self.details.isdisjoint({detail, detail.partition(".")[0]}))
        )


_REFUSALS = (
    # No mail was named yet: the session itself was refused.
    _Row(Verdict.PAUSE_SENDER, phases=frozenset({Phase.CONNECT, Phase.HELO, Phase.AUTH})),
    # Authentication, at whatever command (RFC 4954, section 6).
    _Row(Verdict.PAUSE_SENDER, codes=frozenset({530, 534, 535, 538})),
    _Row(Verdict.RETRY, details=frozenset({_MAILBOX_FULL})),
    # RFC 5321 4.5.3.1.10: 552 is to be treated as temporary, unless the enhanced code knows better.
    _Row(Verdict.RETRY, codes=frozenset({552}), details=frozenset({_NO_DETAIL})),
    # This mail: too long for the mailbox, too big for the system, an address in letters the server lacks.
    _Row(Verdict.REFUSED, details=frozenset({"2.3", "3.4", "6.7"})),
    # Only our own address was named, or is meant; policy is about who we are.
    _Row(Verdict.PAUSE_SENDER, phases=frozenset({Phase.MAIL})),
    _Row(Verdict.PAUSE_SENDER, details=frozenset({"7", "1.7", "1.8"})),
    # "Valid" and "relayed to a non-compliant mailer" do not say that the address is wrong.
    _Row(Verdict.REFUSED, details=frozenset({"1.5", "1.9"})),
    _Row(Verdict.SUPPRESS, details=frozenset({"1"})),
    _Row(Verdict.REFUSED),
)


def classify_reply(phase: Phase, code: int | None, enhanced: str | None = None, text: str = "") -> Verdict:
    """What to do after this reply.

    `code` None is a reply that could not be read. `enhanced` is the RFC 3463 code; when it is None, the
    beginning of `text` is searched for one. A reply to QUIT is always ACCEPTED: whatever was delivered
    stays delivered.
    """
    if phase is Phase.QUIT:
        return Verdict.ACCEPTED
    if not _is_reply_code(code):
        return Verdict.RETRY
    success = 3 if phase is Phase.DATA else 2
    kind = code // 100
    if kind == success:
        return Verdict.ACCEPTED
    if kind != 5:
        return Verdict.RETRY
    return _refusal(phase, code, _parse(enhanced) or _parse(text))


def tries_allowed(code: int | None, enhanced: str | None = None, text: str = "") -> int:
    """How often a mail may be tried while its replies mean RETRY: seldom where the reply made no sense."""
    found = _parse(enhanced) or _parse(text)
    full = found is not None and _detail(found) == _MAILBOX_FULL
    return TRANSIENT_TRIES if _is_reply_code(code) and (code // 100 == 4 or full) else UNREADABLE_TRIES


def enhanced_code(text: str) -> str | None:
    """The enhanced code that a reply's text begins with, or None."""
    found = _parse(text)
    return None if found is None else ".".join(str(part) for part in found)


def _refusal(phase: Phase, code: int, enhanced: tuple[int, int, int] | None) -> Verdict:
    """A 5xx reply by the first row that matches; an enhanced code of another class explains nothing."""
    if enhanced is not None and enhanced[0] == 4:
        return Verdict.RETRY  # "550 4.7.1": a greylisting server that cannot spell
    detail = _detail(enhanced) if enhanced is not None and enhanced[0] == 5 else _NO_DETAIL
    return next(row.verdict for row in _REFUSALS if row.matches(phase, code, detail))


def _detail(enhanced: tuple[int, int, int]) -> str:
    return f"{enhanced[1]}.{enhanced[2]}"


def _is_reply_code(code: int | None) -> TypeGuard[int]:
    """RFC 5321 4.2: 2 to 5, then 0 to 5, then 0 to 9."""
    return code is not None and 200 <= code <= 559 and code // 10 % 10 <= 5


def _parse(text: str | None) -> tuple[int, int, int] | None:
    found = _ENHANCED.match(text or "")
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))
