"""The template files: the shipped ones, and over them, file by file, those of the operator's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from monitor.assets import shipped
from monitor.errors import ConfigError

SUFFIXES = frozenset({".txt", ".html", ".css", ".po"})


def read_templates(override: Path | None = None) -> dict[str, str]:
    """All template files by their path below the folder, with `/`; read once, so that a run uses one version.

    Raises:
        ConfigError: `override` is no folder, or a file in it cannot be read as UTF-8.
    """
    if override is not None and not override.is_dir():
        raise ConfigError(f"templates_dir: {override} is no folder; create it or remove the setting")
    files = dict(_texts(shipped("templates")))
    if override is not None:
        files |= dict(_texts(override))
    return files


def fingerprint(files: Mapping[str, str]) -> str:
    """A hash over names and contents, 64 hex digits, whatever the order."""
    digest = hashlib.sha256()
    for path in sorted(files):
        content = files[path].encode()
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        try:
            yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"templates_dir: {path} cannot be read as UTF-8 ({error}); mend or remove it") from error
