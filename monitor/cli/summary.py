"""A pass in words: what was pulled, what changed, which mails went, which did not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.cli import console
from monitor.cli.passes import Pass
from monitor.cli.remedies import complete, copyable
from monitor.cli.words import halt_words, kind_name, rule_words
from monitor.domain.halt import HaltRule
from monitor.domain.model import NotificationState, Situation
from monitor.domain.words import count, mark_of, moment, name_of
from monitor.store.summaries import EventCount
from monitor.usecases.dispatch import Delivery
from monitor.usecases.run import RunReport

_S = NotificationState
_NEWS = {one.value: name_of(one.value) for one in Situation} | {"healthy": "healthy again"}
_WAITING = frozenset({_S.STAGED, _S.READY, _S.MERGED, _S.CLAIMED, _S.IN_DATA, _S.AMBIGUOUS})
_OUTCOMES = {
    "complete": ("complete", "green"),
    "partial": ("partial: not every page could be read", "yellow"),
    "held": ("held by the guard", "magenta"),
    "already_running": ("another run of this account is in progress: nothing to do here", "cyan"),
    "already_done": ("done already today", "cyan"),
    "interrupted": ("interrupted: the next start goes on from here", "yellow"),
    "failed": ("failed", "red"),
    "delivered": ("delivery", "green"),
}


def print_pass(done: Pass) -> None:
    """One account's part of the answer: results to stdout, what went wrong to stderr as well."""
    out = console.stdout()
    words, colour = _OUTCOMES.get(done.outcome, (done.outcome.replace("_", " "), "white"))
    title = Text(done.account, style="bold").append(f"  {words}", style=f"not bold {colour}")
    if done.report is not None and done.report.now_at is not None:
        title.append(f"  {moment(done.report.now_at, ZoneInfo(done.zone))}", style="not bold dim")
    out.print(title)
    if done.error is not None:
        for line in str(done.error).splitlines():
            console.complain(f"{done.account}: {line}" if not line.startswith("accounts.") else line)
        return
    _print_facts(out, dict(_facts(done)))
    _print_mails(out, done)
    _print_held(out, done)
    for problem in _problems(done):
        console.warn(f"warning: {done.account}: {problem}")


def _print_facts(out: Console, facts: Mapping[str, str]) -> None:
    width = max(7, *map(len, facts)) + 2 if facts else 0
    for label, text in facts.items():
        if "`" in text:  # a folded command cannot be copied
            out.print(Text.assemble((f"  {label}".ljust(width), "dim"), f"  {text}"), soft_wrap=True)
            continue
        line = Table.grid(padding=(0, 2))
        line.add_column(style="dim", width=width)
        line.add_column(overflow="fold")
        line.add_row(f"  {label}", text)
        out.print(line)


def _facts(done: Pass) -> Iterable[tuple[str, str]]:
    report, delivery = done.report, done.delivery
    if report is not None and report.run_id is not None:
        yield "Pulled", pulled_words(report)
        if report.counts.get("payments"):
            yield "Payments", payment_words(report)
        if report.baseline:
            yield "First run", copyable(first_run_words(report))
        elif done.changes:
            yield "Changed", changed_words(done.changes)
        else:
            yield "Changed", "nothing"
    if delivery is not None:
        yield "Mails", delivery_words(delivery)
        if delivery.waiting:
            yield "Waiting", copyable(waiting_words(delivery, done.zone))
        # what the guard says below is not said twice, with the advice to make the run that was just made
        if delivery.stopped_by is not None and (report is None or delivery.stopped_by.why not in report.held):
            yield "Stopped", copyable(halt_words(delivery.stopped_by, done.account, done.zone))


def payment_words(report: RunReport) -> str:
    """`130 payments read, 2 events`."""
    words = [f"{count(report.counts['payments'], 'payment')} read"]
    events = report.counts["payment_events"]
    return ", ".join(words + ([count(events, "event")] if events else []))


def pulled_words(report: RunReport) -> str:
    """`1,020 subscriptions on 11 pages, 32 changed`."""
    counts = report.counts
    words = [f"{count(counts['rows'], 'subscription')} on {count(counts['pages'], 'page')}"]
    words += [f"{counts['rows_before']:,} before it was interrupted"] if counts.get("rows_before") else []
    words += [f"{counts['new']:,} new"] if counts["new"] else []
    words += [f"{counts['changed']:,} changed"] if counts["changed"] else []
    words += [f"{counts['facts']:,} new in the event log"] if counts["facts"] else []
    words += [f"{counts['bad']:,} unreadable (kept aside)"] if counts["bad"] else []
    words += [f"{counts['missing']:,} missing"] if counts["missing"] else []
    return ", ".join(words)


def first_run_words(report: RunReport) -> str:
    """What a baseline means."""
    if report.outcome in {"partial", "interrupted"}:
        return "not complete yet: start it again; no mail is sent before one complete run"
    if report.counts.get("mails"):
        return "what already needed an action has its mail too (first_run is notify)"
    return "recorded only, no mail; from now on what changes is mailed (`monitor adopt` mails what was open)"


def changed_words(changes: Iterable[EventCount]) -> str:
    """`12 payment failed, 3 paused, 8 bills paid`: situations by name; other fields in one figure."""
    kinds: Counter[str] = Counter()
    for one in changes:
        kinds[one.kind] += one.count
    named = [f"{number:,} {_NEWS[kind]}" for kind, number in kinds.most_common() if kind in _NEWS]
    paid = kinds["bill_paid"]
    other = sum(number for kind, number in kinds.items() if kind not in _NEWS) - paid
    named += [count(paid, "bill") + " paid"] if paid else []
    return ", ".join([*named, *([f"{other:,} other"] if other else [])])


def delivery_words(delivery: Delivery) -> str:
    """`27 sent, 2 not sent`, with what is odd."""
    voided = sum(delivery.voided.values())
    words = [f"{delivery.sent:,} sent" if delivery.sent else "none sent"]
    words += [f"{voided:,} not sent any more"] if voided else []
    words += [f"{delivery.deferred:,} to be tried again"] if delivery.deferred else []
    words += [f"{delivery.failed:,} failed for good"] if delivery.failed else []
    words += [f"{delivery.ambiguous:,} in doubt (the reply was lost)"] if delivery.ambiguous else []
    words += [f"{delivery.held:,} held"] if delivery.held else []
    return ", ".join(words)


def waiting_words(delivery: Delivery, zone: str) -> str:
    """`12 mails wait for 08:00 (Europe/Budapest); deliver again with ...`."""
    wait = "waits" if delivery.waiting == 1 else "wait"
    until = f" for {moment(delivery.waiting_until, ZoneInfo(zone))}" if delivery.waiting_until else ""
    return f"{count(delivery.waiting, 'mail')} {wait}{until}; deliver again then with `monitor deliver`"


def _print_mails(out: Console, done: Pass) -> None:
    """A line a kind; why mails did not go stands beside them, in words."""
    if not done.mails:
        return
    sent, rest = Counter[str](), Counter[str]()
    why: dict[str, Counter[str]] = {}
    for one in done.mails:
        if one.state is _S.SENT:
            sent[one.kind] += one.count
            continue
        rest[one.kind] += one.count
        why.setdefault(one.kind, Counter())[_reason(one.state, one.reason)] += one.count
    table = Table(box=None, padding=(0, 2), show_edge=False, header_style="dim")
    table.add_column("  Mails by kind")
    table.add_column("sent", justify="right")
    table.add_column("not sent", justify="right")
    table.add_column("because", overflow="fold")
    for kind in sorted({*sent, *rest}, key=lambda kind: -sent[kind]):
        reasons = "; ".join(f"{number:,} {words}" for words, number in why.get(kind, Counter()).most_common())
        table.add_row(f"  {kind_name(kind)}", _figure(sent[kind]), _figure(rest[kind]), reasons)
    out.print()
    out.print(table)


def _reason(state: NotificationState, reason: str | None) -> str:
    if state is _S.HELD:
        return f"held: {rule_words(reason) or 'waits for a person'}"
    if state in _WAITING:
        return rule_words(reason) or "ready to go"
    if state is _S.UNSETTLED:
        return "may have been delivered, is not sent again"
    return rule_words(reason) or mark_of(state)


def _figure(number: int) -> str:
    return f"{number:,}" if number else "-"


def _print_held(out: Console, done: Pass) -> None:
    report = done.report
    if report is not None and report.held:
        out.print()
        filled = any(one.batch_id == report.batch_id for one in done.waiting_for_people)
        what = "these mails; nothing of this run was sent" if filled else "this run, of which no mail was due"
        out.print(Text(f"  The guard holds {what}:", style="magenta"))
        for sentence in report.held:
            out.print(f"    - {sentence}", markup=False)
        if not filled:
            out.print(f"  {_about_nothing(report, done.delivery)}", markup=False, soft_wrap=True)
    for one in done.waiting_for_people:
        wait = "waits" if one.mails == 1 else "wait"
        look = f"monitor outbox review {one.batch_id}" if one.whole else "monitor outbox list --state held"
        mails = count(one.mails, "mail")
        said = f"  Batch {one.batch_id}: {mails} {wait} for a person. Look, then decide: {complete(look)}"
        out.print(said, markup=False, soft_wrap=True)


def _about_nothing(report: RunReport, delivery: Delivery | None) -> str:
    """What to do about a held batch without a mail: it matters only where the database itself is in doubt."""
    halt = None if delivery is None else delivery.stopped_by
    if delivery is not None and (halt is None or halt.rule is not HaltRule.RESTORED):
        return "There is nothing to decide: what comes due is judged again."
    look = complete(f"monitor outbox review {report.batch_id}")
    return f"Batch {report.batch_id}, empty, waits for a person. Look, then decide: {look}"


def _problems(done: Pass) -> list[str]:
    problems = [] if done.report is None else list(done.report.problems)
    return problems + ([] if done.delivery is None else done.delivery.problems)
