"""Reading answers of QBitFlow's APIs: what both of them share between the HTTP client and their own rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from typing import Protocol, TypeVar
from urllib.parse import quote

from monitor.domain.model import BadRow
from monitor.errors import ProviderRefusedError, ProviderUnavailableError
from monitor.providers.answers import Answer
from monitor.providers.envelope import PageFaultError, read_list, read_page
from monitor.providers.http import ApiClient
from monitor.providers.wire import UNREADABLE, RowError, bad_row, check_row

OnBadRow = Callable[[str, BadRow], None]
"""endpoint, row: for rows of lists whose answer type has no place for a bad one."""

_Seen = TypeVar("_Seen")


class _HasId(Protocol):
    @property
    def ext_id(self) -> str: ...


_Named = TypeVar("_Named", bound=_HasId)


class Reader:
    """Asks, and takes answers apart. `account` is the account's name in messages."""

    def __init__(self, client: ApiClient, account: str, on_bad_row: OnBadRow | None) -> None:
        self.client = client
        self._account = account
        self._on_bad_row = on_bad_row

    def end_after(self, limit: timedelta | None) -> None:
        """See `Provider`."""
        self.client.end_after(limit)

    async def found(self, endpoint: str, path: str, params: dict[str, str] | None = None) -> Answer | None:
        """The answer, or None where the API itself (not a gateway before it) says 404."""
        try:
            return await self.client.get(endpoint, path, params)
        except ProviderRefusedError as error:
            if error.status == 404:
                return None
            raise

    async def one(
        self, endpoint: str, path: str, ext_id: str, read: Callable[[bytes], _Named | BadRow]
    ) -> _Named | None:
        """The object of this id, or None where the API says 404. A row that cannot be read, or another's, raises."""
        answer = await self.found(endpoint, path)
        if answer is None:
            return None
        row = read(answer.body.strip())
        if isinstance(row, BadRow):
            raise self.fault(endpoint, answer, row.reason)
        self.check_id(endpoint, answer, row.ext_id, ext_id)
        return row

    def check_id(self, endpoint: str, answer: Answer, ext_id: str, asked: str) -> None:
        """Raise where the answer is about another one than was asked for."""
        if bare(ext_id) != bare(asked):
            raise self.fault(endpoint, answer, f"another {endpoint} than the one asked for")

    async def pages(self, endpoint: str, path: str, params: dict[str, str]) -> AsyncIterator[list[bytes]]:
        """The rows of each page of a list, to its end; whoever has enough stops asking."""
        used: set[str] = set()
        cursor: str | None = None
        while True:
            raw_rows, cursor = await self.page(endpoint, path, params, cursor)
            yield raw_rows
            if cursor is None:
                return
            if cursor in used:
                raise ProviderUnavailableError(f"{endpoint}: its cursors go round in a circle")
            used.add(cursor)

    async def page(
        self, endpoint: str, path: str, params: dict[str, str], cursor: str | None
    ) -> tuple[list[bytes], str | None]:
        """The rows of a page and the next cursor."""
        answer = await self.client.get(endpoint, path, {**params, "cursor": cursor} if cursor else params)
        try:
            return read_page(answer.body)
        except PageFaultError as error:
            raise self.fault(endpoint, answer, str(error)) from error

    async def listed(
        self, endpoint: str, path: str, params: dict[str, str], read: Callable[[bytes], _Seen | None]
    ) -> tuple[_Seen, ...]:
        """The readable rows of an array that is not paged."""
        raw_rows = await self.rows(endpoint, path, params)
        return tuple(self.readable(endpoint, (read_or_bad(raw, read) for raw in raw_rows)))

    async def rows(self, endpoint: str, path: str, params: dict[str, str]) -> list[bytes]:
        """The rows of an array that is not paged."""
        answer = await self.client.get(endpoint, path, params)
        try:
            return read_list(answer.body)
        except PageFaultError as error:
            raise self.fault(endpoint, answer, str(error)) from error

    def readable(self, endpoint: str, rows: Iterable[_Seen | BadRow]) -> list[_Seen]:
        """The good ones; the bad ones are reported."""
        seen: list[_Seen] = []
        for row in rows:
            if not isinstance(row, BadRow):
                seen.append(row)
            elif self._on_bad_row is not None:
                self._on_bad_row(endpoint, row)
        return seen

    def fault(self, endpoint: str, answer: Answer, reason: str) -> ProviderUnavailableError:
        """The error of an answer with status 200 that is not what the contract says."""
        return ProviderUnavailableError(
            f"{endpoint}: the answer is not what the contract says ({reason}), "
            f"request id {answer.request_id}: check accounts.{self._account}.base_url"
        )


def read_or_bad(raw: bytes, read: Callable[[bytes], _Seen | None]) -> _Seen | BadRow:
    """What `read` makes of the row, or why it cannot be read."""
    try:
        check_row(raw)
        seen = read(raw)
    except (*UNREADABLE, RowError) as error:
        return bad_row(raw, error, None)
    return bad_row(raw, RowError("null instead of an object"), None) if seen is None else seen


def segment(text: str) -> str:
    """A path segment (contract v2, section 1); dots alone are escaped too, or they would name another path."""
    escaped = quote(text, safe="@:+,=$&;")
    return escaped if escaped.strip(".") else escaped.replace(".", "%2E")


def bare(ext_id: str) -> str:
    """The UUID of an id: paths and filters take it with or without its prefix (contract v2, ids)."""
    return ext_id.rpartition("@")[2].casefold()
