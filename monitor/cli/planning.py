"""The dry run: what a run started now would do, line by line, with the reason of each."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from rich import box
from rich.table import Table
from rich.text import Text

from monitor.cli import console
from monitor.cli.console import Format
from monitor.cli.exits import Exit, code_of, worst
from monitor.cli.passes import delivery_json
from monitor.cli.summary import pulled_words
from monitor.cli.words import kind_name, mail_reason, rule_sentence, tail
from monitor.domain.words import count, masked, moment
from monitor.errors import ConfigError, MonitorError
from monitor.usecases.plan import Plan, PlanLine, dry_run
from monitor.wiring.process import Wiring

LINES_SHOWN = 60
_WHAT = {
    "send": ("send", "green"),
    "wait": ("wait", "cyan"),
    "hold": ("hold", "magenta"),
    "void": ("not", "dim"),
    "fail": ("fail", "red"),
    "unsettled": ("not", "dim"),
}
_GOES = frozenset({"send", "wait", "hold"})


@dataclass(slots=True)
class AccountPlan:
    """One account's plan, or the error that stood in its way."""

    account: str
    zone: str
    plan: Plan | None = None
    error: MonitorError | None = None

    @property
    def exit_code(self) -> Exit:
        """As the real run would end, as far as a plan can know."""
        if self.error is not None or self.plan is None:
            return Exit.FAILURES if self.error is None else code_of(self.error)
        if self.plan.report.outcome == "held":
            return Exit.HELD
        return Exit.FAILURES if self.plan.report.outcome in {"partial", "interrupted"} else Exit.DONE

    def as_json(self) -> dict[str, Any]:
        """The stable keys of a plan; addresses are masked."""
        plan = self.plan
        head: dict[str, Any] = {"account": self.account, "exit_code": int(self.exit_code)}
        if plan is None:
            return {**head, "outcome": "failed", "error": str(self.error)}
        report = plan.report
        return {
            **head,
            "outcome": report.outcome,
            "now": report.now_at,
            "baseline": report.baseline,
            "counts": report.counts,
            "held": report.held,
            "problems": report.problems,
            "delivery": delivery_json(plan.delivery),
            "plan_hash": plan.plan_hash,
            "lines": [_line_json(line, self.zone) for line in plan.lines],
        }


@dataclass(slots=True)
class Plans:
    """All accounts' plans."""

    accounts: list[AccountPlan] = field(default_factory=list)

    @property
    def exit_code(self) -> Exit:
        """2 before 3 before 1."""
        return worst(one.exit_code for one in self.accounts)

    def as_json(self) -> dict[str, Any]:
        """The plan file."""
        return {"dry_run": True, "exit_code": int(self.exit_code), "accounts": [one.as_json() for one in self.accounts]}

    def show(self, output_format: Format, output: Path | None) -> int:
        """Print, and write the file if one is named; returns the exit code. Raises `ConfigError`."""
        if output is not None:
            try:
                output.write_text(console.json_text(self.as_json()) + "\n", encoding="utf-8")
            except OSError as error:
                raise ConfigError(
                    f"--output: {output} cannot be written ({error.strerror}); name another file"
                ) from None
            console.warn(f"the plan is in {output}")
        if output_format is Format.JSON:
            console.print_json(self.as_json())
        for one in self.accounts:
            if one.error is not None:
                console.complain(one.error)
            elif output_format is Format.TABLE:
                _print_plan(one)
        return self.exit_code


async def plan_all(wiring: Wiring, names: tuple[str, ...], at: datetime | None) -> Plans:
    """Plan one account after another. Nothing is written but a copy that is removed."""
    plans = Plans()
    for name in names:
        if wiring.tools.stopping():
            break
        one = AccountPlan(name, wiring.settings.account(name).timezone)
        plans.accounts.append(one)
        try:
            with tempfile.TemporaryDirectory(prefix="monitor-plan-") as folder:
                one.plan = await dry_run(
                    wiring.tools,
                    wiring.account(name),
                    wiring.mailer,
                    Path(folder),
                    wiring.settings.state_dir,
                    at=at,
                )
        except MonitorError as error:
            one.error = error
    return plans


def _line_json(line: PlanLine, zone: str) -> dict[str, Any]:
    mail = line.mail
    return {
        "id": mail.id,
        "what": line.what,
        "kind": mail.kind,
        "variant": mail.variant,
        "step": mail.step,
        "urgency": mail.urgency,
        "subscription": mail.subscription,
        "payment": mail.payment,
        "customer": mail.customer,
        "reference": mail.customer_reference,
        "recipient": masked(mail.address),
        "due_at": mail.due_at,
        "next_try_at": mail.next_try_at if line.what == "wait" else None,
        "not_after": mail.not_after,
        "reason": mail.reason,
        "why": line_words(line, zone),
        "facts": line.facts,
    }


def line_words(line: PlanLine, zone: str) -> str:
    """Why this mail would go, wait or stay."""
    mail = line.mail
    told = "" if line.what == "send" else rule_sentence(mail.reason, mail.why, mail.next_try_at, mail.not_after, zone)
    return told or mail_reason(mail.kind, mail.variant)


def _print_plan(one: AccountPlan) -> None:
    plan = one.plan
    if plan is None:
        return
    out, report = console.stdout(), plan.report
    title = Text(one.account, style="bold").append("  dry run: nothing was changed or sent", style="not bold yellow")
    if report.now_at is not None:
        title.append(f"  {moment(report.now_at, ZoneInfo(one.zone))}", style="not bold dim")
    out.print(title)
    if report.counts:
        out.print(f"  A run would read {pulled_words(report)}.")
    if report.baseline:
        notifies = report.counts.get("mails")
        what = "mails what already needs an action (first_run is notify)" if notifies else "mails nothing"
        out.print(f"  It would be the first run: it records what is there and {what}.")
    tally = {what: sum(line.what == what for line in plan.lines) for what in _WHAT}
    silent = tally["void"] + tally["unsettled"]
    out.print(
        f"  Mails: {tally['send']:,} to send, {tally['wait']:,} to wait, {tally['hold']:,} to hold, "
        f"{silent:,} to leave unsent{', ' + format(tally['fail'], ',') + ' to fail' if tally['fail'] else ''}."
    )
    for sentence in report.held:
        out.print(Text(f"  The guard would hold them: {sentence}", style="magenta"))
    if plan.lines:
        out.print()
        out.print(_lines_table(plan.lines, one.zone))
        if len(plan.lines) > LINES_SHOWN:
            out.print(f"  ... and {count(len(plan.lines) - LINES_SHOWN, 'line')} more: --output plan.json has them all")
    for problem in [*report.problems, *plan.delivery.problems]:
        console.warn(f"warning: {one.account}: {problem}")


def _lines_table(lines: list[PlanLine], zone: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for column in ("What", "To", "Mail", "Because"):
        table.add_column(column, overflow="fold")
    for line in sorted(lines, key=lambda line: line.what not in _GOES)[:LINES_SHOWN]:
        word, style = _WHAT.get(line.what, (line.what, "white"))
        mail = line.mail
        about = mail.customer_reference or tail(mail.subscription or mail.payment or "")
        recipient = f"{masked(mail.address)} ({about})"
        table.add_row(
            Text(word, style=style), Text(recipient), Text(kind_name(mail.kind)), Text(line_words(line, zone))
        )
    return table
