"""The demo on a terminal: what was pulled, what changed, which mails went to whom and why, and which did not."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from monitor.cli.demo.stage import SETTINGS, MailLine, PaymentLine, Played, instant_words
from monitor.cli.demo.story import Play
from monitor.cli.summary import changed_words, payment_words, pulled_words
from monitor.cli.words import kind_name
from monitor.domain.words import count
from monitor.sandbox.mailbox import CaughtMail

_SIGNS = {"sent": ("✓", "green"), "waiting": ("◷", "cyan"), "held": ("‖", "magenta"), "not sent": ("–", "bright_black")}
_ORDER = ("sent", "waiting", "held", "not sent")
_SHOWN = 12
_LAST_HOUR = 20
"""The sending window's end, as it is set when nobody sets it."""


def tell_beginning(out: Console, play: Play) -> None:
    """What is about to be seen."""
    out.print()
    out.print(Text("Three days of a merchant, in seconds", style="bold"))
    out.print(play.told)


def tell_scene(out: Console, played: Played) -> None:
    """One scene: what happened, what the monitor saw, what it did."""
    scene, report = played.scene, played.done.report
    out.print()
    heading = Text.assemble((scene.title, "bold"), ("  " + instant_words(scene.at), "dim"))
    out.print(Rule(heading, align="left", style="bright_black"))
    out.print(Padding(Text(scene.told, style="italic"), (0, 2)))
    out.print()
    if report is None:
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", width=10)
    facts.add_column(overflow="fold")
    only_payments = bool(report.counts.get("payments")) and not report.counts["rows"]
    facts.add_row("  Pulled", payment_words(report) if only_payments else pulled_words(report))
    if report.counts.get("payments") and not only_payments:
        facts.add_row("  Payments", payment_words(report))
    if report.baseline:
        facts.add_row("  Mails", "none: a first run records what is there, so that no old trouble is mailed")
    else:
        if not only_payments:
            facts.add_row("  Changed", changed_words(played.done.changes))
        facts.add_row("  Mails", _tally(played.lines))
    out.print(facts)
    if played.paid:
        _tell_payments(out, played.paid)
    if report.held:
        _tell_held(out, played)
    elif not report.baseline and played.lines:
        _tell_mails(out, played.lines, scene.at)


def _tally(lines: Sequence[MailLine]) -> str:
    tally = Counter(line.what for line in lines)
    return ", ".join(f"{tally[what]} {what}" for what in _ORDER if tally[what]) or "none"


def _tell_mails(out: Console, lines: Sequence[MailLine], now: datetime) -> None:
    out.print()
    table = Table(box=None, padding=(0, 1), show_edge=False, header_style="dim")
    table.add_column("", width=12, no_wrap=True)
    table.add_column("To", width=15, no_wrap=True, overflow="ellipsis")
    table.add_column("Mail", width=22)
    table.add_column("Because", overflow="fold")
    table.add_column("File", justify="right", style="dim", width=4)
    for line in sorted(lines, key=lambda line: _ORDER.index(line.what))[:_SHOWN]:
        sign, style = _SIGNS[line.what]
        table.add_row(
            Text(f"  {sign} {line.what}", style=style),
            Text(line.who),
            Text(kind_name(line.mail.kind)),
            Text(_because(line, now)),
            "" if line.number is None else str(line.number),
        )
    out.print(table)


def _tell_payments(out: Console, lines: Sequence[PaymentLine]) -> None:
    out.print()
    table = Table(box=None, padding=(0, 1), show_edge=False, header_style="dim")
    for heading in ("  Payment", "Of", "Amount"):
        table.add_column(heading, no_wrap=True)
    table.add_column("What became of it", overflow="fold")
    for line in lines[:_SHOWN]:
        said = line.event.removeprefix("payment_").replace("_", " ")
        table.add_row(f"  {line.payment}", line.who, line.amount, said if line.why is None else f"{said}: {line.why}")
    out.print(table)


def _because(line: MailLine, now: datetime) -> str:
    if line.what != "waiting":
        return line.why
    at = f"{line.mail.next_try_at.astimezone(now.tzinfo):%H:%M}"
    return f"after sending hours; goes at {at}" if now.hour >= _LAST_HOUR else f"goes at {at}, if it is still true"


def _tell_held(out: Console, played: Played) -> None:
    report = played.done.report
    if report is None:
        return
    out.print()
    out.print(Text("  ‖ The guard holds the whole batch. Nobody is mailed until a person has looked:", style="magenta"))
    for sentence in report.held:
        out.print(Padding(Text(sentence), (0, 0, 0, 4)))


def tell_again(out: Console, played: Played) -> None:
    """The same run once more."""
    report = played.done.report
    rows = 0 if report is None else report.counts["rows"]
    payments = 0 if report is None else report.counts.get("payments", 0)
    read = count(rows, "subscription") if rows else count(payments, "payment")
    sent = 0 if played.done.delivery is None else played.done.delivery.sent
    verdict = "every mail goes once." if not sent else "THIS MUST NOT HAPPEN."
    out.print()
    out.print(Rule(Text("And once more", style="bold"), align="left", style="bright_black"))
    again = f"The same run again: {read} read, {count(sent, 'mail')} sent: {verdict}"
    out.print(Padding(again, (0, 2)))


def _program() -> str:
    """What a person types to start us: `make demo` installs into a virtual environment that no shell looks into."""
    started = Path(sys.argv[0])
    return str(started) if started.name == "monitor" and shutil.which("monitor") is None else "monitor"


def tell_end(out: Console, played: Sequence[Played], caught: Sequence[CaughtMail], folder: Path, index: Path) -> None:
    """Where everything lies, and what to do next."""
    silent = sum(line.what == "not sent" for one in played for line in one.lines)
    muted = sum(line.mail.reason == "baseline" for one in played for line in one.lines)
    held = sum(line.what == "held" for one in played for line in one.lines)
    people = {mail.recipients for mail in caught}
    out.print()
    out.print(Rule(style="bright_black"))
    again = len(caught) - len({mail.message["Message-ID"] for mail in caught})
    twice = f"{again} TWICE, WHICH MUST NOT HAPPEN" if again else "none twice"
    parts = [f"[bold]{count(len(caught), 'mail')}[/] to {count(len(people), 'customer')}, {twice}"]
    parts += [f"{held} held for a person"] if held else []
    past = f" ({muted} of them from before the first run)" if muted else ""
    parts += [f"{silent} left unsent, each for a reason{past}"] if silent else []
    out.print(Padding(f"{'; '.join(parts)}.", (0, 2)))
    told = sum(len(one.paid) for one in played)
    if told:
        out.print(Padding(f"{count(told, 'event')} of payments, each told once.", (0, 2)))
    out.print()
    settings = folder / SETTINGS
    someone = Counter(mail.recipients[0] for mail in caught).most_common(1)[0][0] if caught else "EMAIL"
    batch = played[-1].done.report.batch_id if played[-1].done.report is not None else ""
    program = _program()
    rows = (
        ("Look at the mails", str(index)),
        ("", f"{folder / 'mails'}/000001.eml, .html, .txt ..."),
        ("Ask why", f"{program} explain {someone} -c {settings}"),
        *((("Decide", f"{program} outbox review {batch} -c {settings}"),) if held else ()),
        ("Your own API", f"{program} init, then {program} check"),
        ("Play on", f"{program} sandbox --control"),
    )
    for label, text in rows:
        out.print(Text.assemble((f"  {label:<19}", "dim"), text), soft_wrap=True)  # a folded command cannot be copied
    out.print()
