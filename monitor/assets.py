"""Where the shipped files are: in the wheel under `monitor/_data`, in a checkout beside the package."""

from __future__ import annotations

from pathlib import Path

from monitor.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE / "_data", _PACKAGE.parent)


def shipped(name: str, places: tuple[Path, ...] = _PLACES) -> Path:
    """The folder `templates` or `config` as this version ships it; `ConfigError` when the installation lacks it."""
    for place in places:
        folder = place / name
        if folder.is_dir():
            return folder
    raise ConfigError(f"{name}: not found in {places[0]}; install the package again")
