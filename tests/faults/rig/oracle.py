"""What really happened: the sink's log joined with the outbox and the attempts, by Message-ID. It believes the sink.

`python -m tests.faults.rig.oracle --database URL --log FILE` prints the verdict and exits 1 when a promise is broken.
It shares no code with the product: plain SQL over the tables' names.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.faults.rig.sink import Accepted, read_log, read_violations

# An attempt that may have delivered without our knowing: it allows one second copy.
AMBIGUOUS_OUTCOMES = frozenset({"reply_lost", "owner_dead", "ambiguous"})
MAY_HAVE_ARRIVED = frozenset({"sent", "ambiguous", "unsettled", "in_data", "merged"})
AT_REST = frozenset({"sent", "voided", "failed", "unsettled", "held", "merged"})


@dataclass
class Verdict:
    """Message-IDs, or notification ids where no mail was made. Empty lists are good news, except the first two."""

    accepted: int = 0
    duplicates: list[str] = field(default_factory=list)
    """Taken twice by the server."""
    ambiguities: list[str] = field(default_factory=list)
    """Recorded as "may have been delivered", once per record."""
    lost: list[str] = field(default_factory=list)
    """Recorded as sent, and the server has never seen it."""
    unrecorded_duplicates: list[str] = field(default_factory=list)
    """More copies than one and the recorded ambiguities explain."""
    third_copies: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    """The server took it, and the outbox says it cannot have."""
    foreign: list[str] = field(default_factory=list)
    """The server took a mail that is no row's."""
    wrong_recipient: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    """Two copies of one mail that differ."""
    unfinished: list[str] = field(default_factory=list)
    """Rows that still wait: the run has not ended yet."""
    violations: list[str] = field(default_factory=list)

    @property
    def broken(self) -> dict[str, list[str]]:
        """The promises that do not hold, with the culprits."""
        watched = ("lost", "unrecorded_duplicates", "third_copies", "unrecorded", "foreign", "wrong_recipient",
                   "altered", "violations")  # fmt: skip
        return {name: getattr(self, name) for name in watched if getattr(self, name)}

    def lines(self) -> list[str]:
        names = [name for name in vars(self) if name != "accepted"]
        return [f"accepted {self.accepted}", *(f"{name} {len(getattr(self, name))}" for name in names)]


@dataclass(frozen=True)
class Row:
    id: str
    state: str
    message_id: str | None
    recipient: str | None
    ambiguities: int


def read_rows(database_url: str) -> list[Row]:
    """The outbox with the number of ambiguous attempts of each row."""
    engine = create_engine(database_url.replace("+aiosqlite", ""))
    try:
        with engine.connect() as connection:
            outcomes = connection.execute(text("SELECT notification_id, outcome FROM attempts")).all()
            ambiguous = Counter(row[0] for row in outcomes if row[1] in AMBIGUOUS_OUTCOMES)
            rows = connection.execute(text("SELECT id, state, message_id, recipient FROM notifications")).all()
            return [Row(row[0], row[1], row[2], row[3], ambiguous[row[0]]) for row in rows]
    finally:
        engine.dispose()


def judge(rows: list[Row], accepted: list[Accepted], violations: list[str] | None = None) -> Verdict:
    """The verdict over rows and the sink's log."""
    verdict = Verdict(accepted=len(accepted), violations=list(violations or []))
    taken: dict[str, list[Accepted]] = defaultdict(list)
    for mail in accepted:
        taken[mail.message_id].append(mail)
    known = {row.message_id for row in rows if row.message_id}
    verdict.foreign = [message_id for message_id in taken if message_id not in known]
    for row in rows:
        _judge_row(verdict, row, taken.get(row.message_id or "", []))
    return verdict


def _judge_row(verdict: Verdict, row: Row, copies: list[Accepted]) -> None:
    name = row.message_id or row.id
    verdict.ambiguities += [name] * row.ambiguities
    if row.state not in AT_REST:
        verdict.unfinished.append(name)
    if not copies:
        if row.state == "sent":
            verdict.lost.append(name)
        return
    if row.state not in MAY_HAVE_ARRIVED and not row.ambiguities:
        verdict.unrecorded.append(name)
    if len(copies) > 1:
        verdict.duplicates.append(name)
    if len(copies) - 1 > row.ambiguities:
        verdict.unrecorded_duplicates.append(name)
    if len(copies) > 2:
        verdict.third_copies.append(name)
    if len({copy.sha256 for copy in copies}) > 1:
        verdict.altered.append(name)
    if any(copy.recipients != (row.recipient,) for copy in copies):
        verdict.wrong_recipient.append(name)


def verdict_of(database_url: str, log: Path) -> Verdict:
    return judge(read_rows(database_url), read_log(log), read_violations(log))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--log", type=Path, required=True)
    given = parser.parse_args()
    verdict = verdict_of(given.database, given.log)
    print("\n".join(verdict.lines()))
    for name, culprits in verdict.broken.items():
        print(f"BROKEN {name}: {', '.join(culprits[:10])}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
