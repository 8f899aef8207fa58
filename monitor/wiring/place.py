"""Where a process works: its database, its state folder, its locks."""

from __future__ import annotations

import os
from enum import Enum, auto
from pathlib import Path

from monitor.config import Settings
from monitor.errors import ConfigError
from monitor.store.engine import Database
from monitor.store.flock import FileLocks
from monitor.store.revision import require_current, upgrade


class Schema(Enum):
    """What to do about the database's revision before anything else."""

    READY = auto()
    """SQLite upgrades itself; PostgreSQL must be current (`monitor db upgrade`)."""
    CURRENT = auto()
    """Must be current; nothing is upgraded."""
    UNTOUCHED = auto()
    """Never opened here: a dry run copies it. Nothing is made that was not there, no key, no folder."""
    ANY = auto()
    """Not asked: for the commands that look at the revision themselves."""


async def open_database(settings: Settings, schema: Schema = Schema.READY) -> Database:
    """The database, at the revision that `schema` asks for; the caller closes it.

    Raises:
        ConfigError: of another revision, on a network disk, or of a kind we do not speak.
        StoreError: read-only, unreachable.
    """
    db = Database(settings.database.url.get_secret_value())
    try:
        db.check_disk()
        if schema is not Schema.UNTOUCHED and db.path is not None:
            _make_folder(db.path)
        if schema is Schema.READY and db.is_sqlite:
            await upgrade(db)
        elif schema in {Schema.READY, Schema.CURRENT}:
            await require_current(db)
    except BaseException:
        await db.aclose()
        raise
    return db


def prepare_state_dir(settings: Settings) -> Path:
    """The state folder, made for this user alone if it is not there. Raises `ConfigError` if it cannot be used."""
    folder = settings.state_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir: {folder} is not writable for this user; change its owner or name another folder")
    return folder


def take_locks(state_dir: Path) -> FileLocks:
    """The lock file of this folder. Raises `ConfigError` where it cannot be made."""
    try:
        return FileLocks(state_dir)
    except OSError as error:
        raise ConfigError(f"state_dir: {state_dir} takes no lock ({error.strerror}); make it writable") from None


def _make_folder(path: Path) -> None:
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"database.url: the folder of {path} cannot be made ({error.strerror}); name another one"
        ) from None
