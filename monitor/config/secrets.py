"""Secrets that lie in files: read with their permissions checked, and the one this product makes for itself."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from monitor.config.settings import Settings
from monitor.errors import ConfigError

_SYSTEMD_CREDENTIALS = Path("/run/credentials")
_KEY_BYTES = 32
_LARGEST_SECRET = 64 * 1024


def read_secret(path: Path) -> str:
    """The secret in `path`, without the white space around it.

    Raises:
        ConfigError: missing, unreadable, empty, or readable for others; the text has the fix, not the setting's name.
    """
    try:
        with path.open("rb") as file:
            _refuse_if_shared(path, os.fstat(file.fileno()).st_mode)
            secret = file.read(_LARGEST_SECRET).decode().strip()
    except FileNotFoundError:
        raise ConfigError(f"the secret file {path} does not exist; create it with mode 0600") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the secret file {path} cannot be read ({reason}); make it readable for this user") from None
    if not secret:
        raise ConfigError(f"the secret file {path} is empty; write the secret into it")
    return secret


def is_shared(mode: int) -> bool:
    """True when the file's group or everybody can read, write or run it."""
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _refuse_if_shared(path: Path, mode: int) -> None:
    # systemd grants its credentials by an access list, whose mask shows as group bits: 0440 is as closed as 0400 there.
    if path.is_relative_to(_SYSTEMD_CREDENTIALS):
        mode &= ~stat.S_IRWXG
    if is_shared(mode):
        raise ConfigError(f"the secret file {path} can be read by others (mode {stat.S_IMODE(mode):04o}); chmod 600 it")


def secret_key(settings: Settings) -> bytes:
    """The key of the address hashes and of signed links, at least 32 bytes; made once in `state_dir`, mode 0600.

    A key file that is named in the settings is never made: after a typing error every suppression would be forgotten.

    Raises:
        ConfigError: the file is shared, damaged, missing though named, or cannot be made.
    """
    if settings.secret_key is not None:
        return _decoded(settings.secret_key.get_secret_value(), "secret_key")
    path = settings.secret_key_file or settings.state_dir / "secret_key"
    if settings.secret_key_file is None and not path.exists():
        _make_key(path)
    try:
        text = read_secret(path)
    except ConfigError as error:
        raise ConfigError(f"secret_key_file: {error}") from None
    return _decoded(text, f"secret_key_file ({path})")


def _decoded(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{where}: is damaged: hexadecimal text expected; restore it") from None
    if len(key) < _KEY_BYTES:
        raise ConfigError(f"{where}: is shorter than {_KEY_BYTES} bytes; restore it from a backup")
    return key


def _make_key(path: Path) -> None:
    """Whole or not at all, and by one process only: a linked file appears complete, and a second link is refused."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".secret_key-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(_KEY_BYTES) + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(path).hardlink_to(draft)
        except FileExistsError:
            pass  # another process was faster: its key counts
        finally:
            Path(draft).unlink()
    except OSError as error:
        raise ConfigError(
            f"state_dir ({path.parent}): no key can be made here: {error.strerror}; make it writable"
        ) from None
