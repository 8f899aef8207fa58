"""What each account needs: its key, its mode, its mail server, and something that runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parseaddr

from monitor.cli.checks.finding import Finding, fail, hint, ok
from monitor.cli.checks.place import Known
from monitor.cli.stop import Stop
from monitor.clock import SystemClock
from monitor.config import Settings
from monitor.config.crontab import cron_trigger
from monitor.config.slots import due_slot, missing_since, several_a_day
from monitor.config.values import is_loopback
from monitor.domain.replies import Phase
from monitor.domain.words import count, moment
from monitor.errors import MailError, MonitorError
from monitor.mail.brand import ACCENT, is_color
from monitor.mail.render import Renderer
from monitor.mail.transport import ConnectionFailedError, InsecureConnectionError, LoginRefusedError, ReplyError
from monitor.store.accounts import AccountRow
from monitor.usecases.identity import check_identity
from monitor.wiring.accounts import build_account, build_transport

_SECURITY = {"none": "in clear, on this machine only", "starttls": "STARTTLS", "tls": "TLS"}
_CATCHERS_PORT = 1025


async def key(settings: Settings, name: str, row: AccountRow | None, stop: Stop) -> Finding:
    """Whether the API knows the key, and it is this account's."""
    what = f"{name}: key"
    clock = SystemClock()
    try:
        account = build_account(settings, name, clock=clock, sleep=stop.sleep)
    except MonitorError as error:
        return fail(f"{name}: settings", error)
    try:
        identity = await account.provider.identify()
        check_identity(clock, account, row, identity)
    except MonitorError as error:
        text = str(error)
        where = f"accounts.{name}"
        return fail(what, text if text.startswith(where) else f"{where}: {text}")
    finally:
        await account.provider.aclose()
    mode = "" if identity.mode is None else f"{identity.mode.value} "
    return ok(what, f"a {mode}key of space {identity.space_uuid}")


def mode(settings: Settings, name: str, known: Known) -> Iterator[Finding]:
    """Whether it was tried with a test key before it goes live."""
    account, row, what = settings.account(name), known.rows.get(name), f"{name}: mode"
    tried = [
        other
        for other, one in settings.accounts.items()
        if one.mode == "test" and other in known.rows and known.rows[other].baselined_at is not None
    ]
    if account.mode == "test":
        yield ok(what, "test; when the mails read well, add an account of another name for the live key")
    elif row is not None and row.baselined_at is not None:
        yield ok(what, f"live; its customers are known since {moment(row.baselined_at, account.zone)}")
    elif tried:
        yield ok(what, f"live; tried with the test account {tried[0]}")
    else:
        yield hint(
            what,
            f"accounts.{name}.mode is live and nothing was tried yet: use a test key first (an account of its own with "
            'mode = "test"), or read what `monitor run --dry-run` would do',
        )
    if account.mode == "test" and not account.mail_test_rows:
        yield hint(
            what,
            f"accounts.{name}.mail_test_rows is false: rows of a test key are recorded, never mailed; "
            "write true to have mails of them",
        )
    if account.mode == "live" and account.mail_test_rows:
        yield hint(what, f"accounts.{name}.mail_test_rows is true on a live account: test rows are mailed too")


def looks(settings: Settings, name: str) -> Iterator[Finding]:
    """What a mail would replace without a word: a colour that is none, a language that nobody translated."""
    account, what = settings.account(name), f"{name}: looks"
    if not is_color(account.brand.color):
        text = f"accounts.{name}.brand.color is no colour like #3456d1 (six hexadecimal digits): {ACCENT} is used"
        yield hint(what, text)
    with suppress(MonitorError):  # faulty templates have a line of their own
        wordings = Renderer(settings.templates_dir).wordings
        if wordings.of(account.locale).locale.language != re.split("[-_]", account.locale)[0]:
            text = f"there are no mails in {account.locale!r}, so they go out in English; there is: "
            yield hint(what, f"accounts.{name}.locale: {text}{', '.join(wordings.locales)}")


async def mail_server(settings: Settings, name: str) -> list[Finding]:
    """Connect, EHLO, TLS, AUTH, then MAIL and RCPT from the account to its own people, and QUIT: no mail."""
    account, smtp = settings.account(name), settings.smtp_for(name)
    what = f"{name}: mail server"
    where = f"accounts.{name}.smtp" if account.smtp is not None else "smtp"
    place = f"{smtp.host}:{smtp.port}"
    login = f", logged in as {smtp.username}" if smtp.username else ""
    said = f"{place} ({_SECURITY[smtp.security]}){login}, takes mail from {account.sender_address}"
    findings = [ok(what, f"{said}; {count(smtp.connections, 'connection')} at once at most")]
    if account.mode == "live" and is_loopback(smtp.host) and smtp.port == _CATCHERS_PORT:
        findings.append(hint(what, f"{where}: a live account whose mail goes to port 1025 of this machine: a catcher?"))
    try:
        async with build_transport(smtp).session() as session:
            try:
                await session.envelope(account.sender_address, parseaddr(account.reply_to)[1])
            except ReplyError as error:
                findings[:1] = [_refused(name, what, place, error)]
            await session.reset()
    except LoginRefusedError as error:
        return [fail(what, f"{where}.password: {place} refuses the login: {error}")]
    except InsecureConnectionError as error:
        return [fail(what, f"{where}.security: {place}: {error}")]
    except ConnectionFailedError as error:
        return [fail(what, f"{where}.host, {where}.port: {place}: {error}")]
    except (ReplyError, MailError) as error:
        return [fail(what, f"{where}: {place}: {error}")]
    return findings


def _refused(name: str, what: str, place: str, error: ReplyError) -> Finding:
    """A refused sender stops every mail. A refused recipient is one address; a 4xx may be of the moment."""
    lasting = error.reply.code is not None and error.reply.code // 100 == 5
    if error.reply.phase is not Phase.RCPT:
        text = f"accounts.{name}.sender: {place} does not take mail from this address: {error}"
        return fail(what, text) if lasting else hint(what, text)
    return hint(what, f"accounts.{name}.reply_to: {place} would not take a mail to where customers answer: {error}")


def schedule(settings: Settings, name: str, known: Known, now: datetime) -> Iterator[Finding]:
    """Whether something runs this account, as far as its ledger can tell."""
    account, seen, what = settings.account(name), known.runs.get(name), f"{name}: schedule"
    following = cron_trigger(account.schedule, account.zone).get_next_fire_time(None, now)
    next_at = f"{moment(following, account.zone)} ({account.schedule})"
    # only the daemon's own runs are a day's: after one by hand, or by a timer, today's is still due
    due = due_slot(account.schedule, account.zone, None if seen is None else seen.last_slot, now) is not None
    planned = f"a daemon runs at its start, then {next_at}" if due else f"the daemon's next run is {next_at}"
    last = None if seen is None else seen.whole_at
    if last is None:
        yield hint(what, f"nothing has run yet: a systemd timer, cron or `monitor daemon` must start it; {planned}")
    elif missing_since(account.schedule, account.zone, last, now) is not None:
        told = moment(last, account.zone)
        yield hint(what, f"no run was complete since {told}: is its timer, its cron line or the daemon at work?")
    else:
        yield ok(what, f"last complete run {moment(last, account.zone)}; {planned}")
    if several_a_day(account.schedule):
        yield hint(
            what,
            f"accounts.{name}.schedule names several times of a day: the daemon runs at the first; "
            "mails that come due in between go out by the minute",
        )
