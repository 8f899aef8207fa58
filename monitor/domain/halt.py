"""Why a delivery pass ended before its work did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class HaltRule(StrEnum):
    """What stopped it; people read the sentence that `cli/words.py` makes of it."""

    NO_RUN_YET = "no_run_yet"
    """Nothing is known of the account."""
    RESTORED = "restored"
    """The witness says that the database was restored or copied, and nobody has accepted it."""
    PAUSED_BY_HAND = "paused_by_hand"
    SENDER_PAUSED = "sender_paused"
    """The mail server refused the sender, not a mail."""
    SERVER_UNREACHABLE = "server_unreachable"

    @property
    def expected(self) -> bool:
        """Whether people wanted it so: then the pass has not failed."""
        return self in {HaltRule.NO_RUN_YET, HaltRule.PAUSED_BY_HAND}


@dataclass(frozen=True, slots=True)
class Halt:
    """A rule with its values: `why` in the words of whoever refused, `until` when it goes on by itself."""

    rule: HaltRule
    why: str = ""
    until: datetime | None = None
