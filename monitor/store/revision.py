"""Which revision a database is at, and how it is brought to this code's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from monitor.errors import ConfigError, NewerDatabaseError
from monitor.store.engine import Database

_FOLDER = Path(__file__).parent / "migrations"


def code_revision() -> str:
    """The newest revision this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise ConfigError("the installation has no migrations: install the package again")
    return head


async def database_revision(database: Database) -> str | None:
    """The database's revision; None for an empty one. Writes nothing."""
    async with database.read() as conn:
        return await conn.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the database to this code's revision in one transaction; returns (before, after). Idempotent."""
    if database.path is not None:
        with suppress(OSError):  # what is wrong with the folder is said where the file is opened
            database.path.touch(mode=0o600)  # a new file: customers' addresses are nobody else's to read
    before = await database_revision(database)
    if before == code_revision():
        return before, before
    _refuse_newer(before)
    async with database.write() as conn:
        await conn.run_sync(_upgrade)
    return before, code_revision()


async def require_current(database: Database) -> None:
    """Raise `ConfigError` with the command to run unless both agree; `NewerDatabaseError` where none helps."""
    revision = await database_revision(database)
    if revision == code_revision():
        return
    _refuse_newer(revision)
    state = "has no tables yet" if revision is None else f"is at revision {revision}, this code needs {code_revision()}"
    raise ConfigError(f"database.url: the database {state}: run `monitor db upgrade`")


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise NewerDatabaseError(
            f"database.url: the database is at revision {revision}, which is newer than this code "
            f"({code_revision()}): install the newer version of the monitor again",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return config


def _upgrade(sync: Connection) -> None:
    config = _config()
    config.attributes["connection"] = sync
    command.upgrade(config, "head")
