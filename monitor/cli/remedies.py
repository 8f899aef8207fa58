"""Commands that are told to a person, ended so that they can be typed as they stand.

Whatever says what to do next writes its command in backticks and knows of no settings file. Before it is printed, the
command gets the `--config` that this one was started with.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

_OPTION: ContextVar[str] = ContextVar("config_option", default="")
_TOLD = re.compile(r"`(monitor [^`]+)`")
_WITHOUT_SETTINGS = re.compile(r"monitor (demo|init|sandbox)\b|.* (-c|--config) ")


def started_with(option: str) -> None:
    """Remember ` --config FILE`, or nothing, until this command ends."""
    _OPTION.set(option)


def complete(command: str) -> str:
    """The command with its settings file, where it takes one."""
    return command if _WITHOUT_SETTINGS.match(command) else f"{command}{_OPTION.get()}"


def copyable(text: str) -> str:
    """The text with every command in backticks complete."""
    return _TOLD.sub(lambda found: f"`{complete(found[1])}`", text)
