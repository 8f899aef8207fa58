"""Conclude from absence, and only after a complete sweep: who is missing is asked about one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from monitor.domain.guard import BatchCounts, Rule, judge
from monitor.domain.model import Source
from monitor.errors import ProviderError
from monitor.store.accounts import AccountRow
from monitor.store.engine import db_now
from monitor.store.locks import fence
from monitor.store.runs import RunRow, seen_in
from monitor.store.subscriptions import ext_ids_of, note_gone, unseen_ids
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import Observed, observe
from monitor.usecases.writing import Pen


@dataclass(slots=True)
class Absence:
    """Who was missing, and for how many of them the API says 404."""

    missing: int = 0
    gone: int = 0
    problems: list[str] = field(default_factory=list)


async def ask_missing(
    tools: Tools, account: Account, row: AccountRow, run: RunRow, *, batch_id: int, lock: str
) -> Absence:
    """Ask about each known live subscription that no page showed.

    More missing than the guard allows: nobody is asked, the gate holds. A 404 is counted; the second one, in another
    run, becomes an event. It never becomes a mail: the API keeps cancelled subscriptions readable (contract v2, 2.1).
    """
    async with tools.db.read() as conn:
        seen = await seen_in(conn, run.id)
        live, unseen = await unseen_ids(conn, row.id, seen, run.bound_at, known_before=run.asked_at)
    absence = Absence(missing=len(unseen))
    counts = BatchCounts(population=live, missing=len(unseen), known_live=live)
    if any(reason.rule is Rule.MISSING for reason in judge(counts, account.guard)):
        return absence
    async with tools.db.read() as conn:
        missing = await ext_ids_of(conn, unseen)
    for row_id, ext_id in missing:
        if tools.stopping():
            break
        try:
            await _ask(tools, account, row, run, (row_id, ext_id), absence, batch_id=batch_id, lock=lock)
        except ProviderError as error:
            absence.problems.append(f"{ext_id}: {error}")
            break
    return absence


async def _ask(
    tools: Tools,
    account: Account,
    row: AccountRow,
    run: RunRow,
    who: tuple[int, str],
    absence: Absence,
    *,
    batch_id: int,
    lock: str,
) -> None:
    async with tools.db.read() as conn:
        asked_at = await db_now(conn)
    answer = await account.provider.subscription(who[1])
    pen = Pen(run.now_at, Source.PULL, batch_id, run.id)
    async with tools.db.write() as conn:
        await fence(conn, lock, run.token)
        if answer is None:
            absence.gone += 1
            await note_gone(conn, row.id, who[0], asked_at=asked_at, run_id=run.id, now=run.now_at)
            return
        seen: Sequence[Observed] = [Observed(answer[0], answer[1], asked_at)]
        await observe(conn, row, account.policy(row), seen, pen, tools.address_mac)
