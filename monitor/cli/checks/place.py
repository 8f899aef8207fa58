"""What there is once an installation: secrets, folders, mails, the database, and who is told of errors."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitor.alarm import AppriseAlarm
from monitor.cli.checks.finding import Finding, fail, hint, ok
from monitor.config import Settings, secret_key
from monitor.config.load import SecretOrigin, secret_origins
from monitor.config.secrets import is_shared
from monitor.domain.words import count
from monitor.errors import ConfigError, MonitorError, NewerDatabaseError, RenderError
from monitor.mail.check import Problem, check_templates
from monitor.mail.render import Renderer
from monitor.store.accounts import AccountRow, change_account, find_account
from monitor.store.engine import Database
from monitor.store.revision import code_revision, database_revision, require_current
from monitor.store.watching import RunsSeen, runs_seen
from monitor.store.witness import check_witness
from monitor.wiring.place import Schema, open_database, prepare_state_dir

_LITTLE_SPACE = 200 * 2**20
_NOBODY = 0
"""No account's id."""
_GIT_S = 5


@dataclass
class Known:
    """What the database told of the accounts; empty before the first run."""

    rows: dict[str, AccountRow] = field(default_factory=dict)
    runs: dict[str, RunsSeen] = field(default_factory=dict)


def secrets(config: Path | None, environ: Mapping[str, str]) -> list[Finding]:
    """Whether each key and password stands where no repository and no other user can have it."""
    origins = list(secret_origins(config, environ))
    findings = [fail("secrets", _leak(one)) for one in origins if one.file is not None and _is_tracked(one.file)]
    if findings:
        return findings
    inside = [one for one in origins if one.in_settings]
    if inside:
        names = ", ".join(one.setting for one in inside)
        return [hint("secrets", f"{names}: in {inside[0].file} itself; a file of its own is not shared by mistake")]
    places = "; ".join(_told(one) for one in origins) or "none that others could use"
    return [ok("secrets", places)]


def _leak(origin: SecretOrigin) -> str:
    return (
        f"{origin.setting}: stands in {origin.file}, which git keeps: take it out of the repository "
        "(git rm --cached), and have a new one made, since history remembers"
    )


def _told(origin: SecretOrigin) -> str:
    return f"{origin.setting} from {'the environment' if origin.file is None else origin.file}"


def _is_tracked(file: Path) -> bool:
    """Whether a git repository keeps this file. False where there is no git to ask."""
    git = shutil.which("git")
    if git is None or not file.parent.is_dir():
        return False
    try:
        done = subprocess.run(  # noqa: S603  # git itself, with a path that the operator named
            [git, "-C", str(file.parent), "ls-files", "--error-unmatch", "--", file.name],
            capture_output=True,
            check=False,
            timeout=_GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def state_folder(settings: Settings) -> Finding:
    """Whether the state folder can be written, and holds a key that can be used."""
    try:
        folder = prepare_state_dir(settings)
        secret_key(settings)
    except MonitorError as error:
        return fail("state folder", error)
    return ok("state folder", f"{folder}, writable, with its secret key")


def mails(settings: Settings) -> Finding:
    """Whether every mail can be rendered in every language."""
    try:
        renderer = Renderer(settings.templates_dir)
        problems = check_templates(renderer)
    except RenderError as error:
        return fail("mails", f"templates_dir: {error}")
    except ConfigError as error:
        return fail("mails", error)
    if problems:
        places = [_placed(one) for one in problems]
        return fail("mails", "templates_dir: " + "\n".join(places))
    languages = ", ".join(renderer.wordings.locales)
    return ok("mails", f"every kind, cause and step is rendered ({languages})")


def _placed(problem: Problem) -> str:
    """The problem behind its file and line, which a template's own error names already."""
    place = f"{problem.file}{f':{problem.line}' if problem.line else ''}: "
    return place + problem.message.removeprefix(place)


def alerts(settings: Settings) -> Finding:
    """Whether somebody hears of errors."""
    urls = [url.get_secret_value() for url in settings.alerts.urls]
    try:
        if urls:
            AppriseAlarm(urls)
    except ConfigError as error:
        return fail("alerts", error)
    watched = [name for name, one in settings.accounts.items() if settings.heartbeat_for(one)]
    if urls:
        return ok("alerts", f"the daemon tells {count(len(urls), 'address', 'addresses')} of what needs a person")
    if len(watched) == len(settings.accounts):
        return ok("alerts", "heartbeat_url is told by the daemon how each scheduled run ended")
    return hint(
        "alerts",
        "alerts.urls: nobody is told of errors and held mails by the monitor itself; name an address for the daemon, "
        "or see that OnFailure= (systemd) or MAILTO (cron) reaches somebody",
    )


async def database(settings: Settings, known: Known) -> AsyncIterator[Finding]:
    """Whether the database can be used and is of this revision; what it knows of the accounts is put into `known`."""
    try:
        db = await open_database(settings, Schema.ANY)
    except MonitorError as error:
        yield fail("database", error)
        return
    try:
        if db.path is not None and not db.path.exists():
            yield _new_file(db.path)
            if _is_little(db.path.parent):
                yield _nearly_full(db.path)
            return
        yield await _revision(db)
        if await database_revision(db) == code_revision():
            async with db.write() as conn:
                # Changes no row, and fails where none may be changed.
                await change_account(conn, _NOBODY, paused_at=None)
            await _ask(db, settings.accounts, known)
            async with db.read() as conn:
                doubt = await check_witness(conn, db, settings.state_dir)
            if doubt is not None:
                yield hint("database", f"{doubt}; no mail leaves before you approve the next run's batch")
        if db.path is not None and is_shared(db.path.stat().st_mode):
            yield hint("database", f"{db.path} can be read by others, and addresses stand in it: chmod 600 it")
        if db.path is not None and _is_little(db.path.parent):
            yield _nearly_full(db.path)
    except MonitorError as error:
        yield fail("database", error)
    finally:
        await db.aclose()


async def _ask(db: Database, names: Iterable[str], known: Known) -> None:
    async with db.read() as conn:
        for name in names:
            row = await find_account(conn, name)
            if row is not None:
                known.rows[name] = row
                known.runs[name] = await runs_seen(conn, row.id)


def _is_little(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < _LITTLE_SPACE


def _nearly_full(path: Path) -> Finding:
    return hint("database", f"the disk of {path} is nearly full: free some space")


def _new_file(path: Path) -> Finding:
    folder = Path(os.path.realpath(path)).parent  # a link is there before its file is
    if not os.access(folder, os.W_OK | os.X_OK):
        missing = "is not writable for this user" if folder.is_dir() else "does not exist"
        return fail("database", f"database.url: {folder} {missing}")
    return ok("database", f"{path} is not there yet: the first run makes it")


async def _revision(db: Database) -> Finding:
    found = await database_revision(db)
    if db.is_sqlite and found != code_revision():
        try:
            await require_current(db)
        except NewerDatabaseError as error:
            return fail("database", error)
        except ConfigError:
            return hint("database", f"at revision {found or 'none'}: the next run upgrades it")
    await require_current(db)
    return ok("database", f"{db.place}, revision {found}")
