"""Wake the operator, through Apprise: mail, chat, pager, whatever an address of `[alerts] urls` names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from monitor.errors import ConfigError


class Alarm(Protocol):
    """Somebody who can be told."""

    async def ring(self, title: str, body: str) -> bool:
        """Tell it; True when it was taken, also by nobody because nobody is named. Never raises."""
        ...


class AppriseAlarm:
    """All addresses of the settings at once."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Nothing is sent yet. Raises `ConfigError` for an address that Apprise does not know, by its number."""
        import apprise  # noqa: PLC0415  # half a second of imports, which only who wants alerts pays for

        self._apprise = apprise.Apprise()
        said = logging.getLogger("apprise")
        said.disabled = True  # our own line names the setting; theirs would stand in the middle of a list for people
        try:
            unknown = next((number for number, url in enumerate(urls) if not self._apprise.add(url)), None)
        finally:
            said.disabled = False
        if unknown is not None:
            raise ConfigError(f"alerts.urls[{unknown}]: Apprise knows no such address; its wiki lists what it takes")

    async def ring(self, title: str, body: str) -> bool:
        """True when every address took it."""
        return bool(await asyncio.to_thread(self._apprise.notify, title=title, body=body))


class NoAlarm:
    """Nobody is named: what there is to tell is in the log."""

    async def ring(self, title: str, body: str) -> bool:
        _ = title, body
        return True
