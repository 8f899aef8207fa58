"""Taking a page apart into the bytes of its rows, so that a bad row costs that row and not the page.

msgspec splits a page without looking into its rows, except that one NaN or lone surrogate anywhere makes it refuse all
of it. Then the standard library's parser, which lets those pass, finds where each row begins and ends; the rows are
decoded by the same strict decoder as ever. HTML, truncation, an empty body and deep nesting are faults of the page.
"""

from __future__ import annotations

import json
import re

import msgspec

from monitor.providers.wire import UNREADABLE

MAX_CURSOR_BYTES = 2000
"""A cursor is kept under a unique index, whose entries PostgreSQL limits to 2,704 bytes."""

_SPACE = re.compile(r"[ \t\n\r]*")


class _Number(str):
    """A number as it was written: one of 5,000 digits must not fail here but in its row."""

    __slots__ = ()


_LENIENT = json.JSONDecoder(parse_int=_Number, parse_float=_Number, strict=False)


class PageFaultError(ValueError):
    """The body is not the JSON that the route promises (contract v2, decoding rules)."""


class _PageWire(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    next_cursor: str | None = msgspec.field(name="nextCursor", default=None)


_PAGE = msgspec.json.Decoder(_PageWire)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_page(body: bytes) -> tuple[list[bytes], str | None]:
    """The rows of a page and the next cursor, None at the end. Raises `PageFaultError`."""
    if body.strip() == b"null":  # contract v2: an empty list
        return [], None
    try:
        page = _PAGE.decode(body)
    except msgspec.ValidationError as error:
        raise PageFaultError(f"not a page: {error}") from error
    except UNREADABLE:
        rows, cursor = _salvaged_page(body)
    else:
        rows, cursor = [bytes(row) for row in page.items or ()], page.next_cursor
    if cursor is not None and (len(cursor.encode()) > MAX_CURSOR_BYTES or "\0" in cursor):
        raise PageFaultError("a cursor that cannot be kept")
    return rows, cursor or None


def read_rows(body: bytes, key: str) -> list[bytes]:
    """The rows under `key` of an object without a cursor. Raises `PageFaultError`, also where there is no such key."""
    try:
        members = _OBJECT.decode(body)
    except msgspec.ValidationError as error:
        raise PageFaultError(f"not a page: {error}") from error
    except UNREADABLE:
        found, _ = _salvaged_members(body, key)
    else:
        found = read_list(bytes(members[key])) if key in members else None
    if found is None:
        raise PageFaultError(f"no {key} in it")
    return found


def read_list(body: bytes) -> list[bytes]:
    """The rows of an array that is not paged. Raises `PageFaultError`."""
    if body.strip() == b"null":
        return []
    try:
        return [bytes(row) for row in _LIST.decode(body)]
    except msgspec.ValidationError as error:
        raise PageFaultError(f"not a list: {error}") from error
    except UNREADABLE:
        text = _text(body)
        return _whole(text, _rows(text, _skip(text, 0)))


def _salvaged_page(body: bytes) -> tuple[list[bytes], str | None]:
    """The page again, member by member; the last of two equal keys counts, as in msgspec."""
    rows, cursor = _salvaged_members(body, "items")
    if cursor is None:
        return rows or [], None
    if not isinstance(cursor, str) or isinstance(cursor, _Number) or not cursor.isprintable():
        raise PageFaultError("nextCursor is not a text")
    return rows or [], cursor


def _salvaged_members(body: bytes, name: str) -> tuple[list[bytes] | None, object]:
    """The rows under `name`, None where it is absent or null, and whatever stands under `nextCursor`."""
    text = _text(body)
    rows: list[bytes] | None = None
    cursor: object = None
    at = _expect(text, _skip(text, 0), "{")
    if text[at : at + 1] != "}":
        while True:
            key, at = _value(text, at)
            at = _expect(text, _skip(text, at), ":")
            if key == name and text[at : at + 1] == "[":
                rows, at = _rows(text, at)
            else:
                value, at = _value(text, at)
                if key == name and value is not None:
                    raise PageFaultError(f"{name} is not a list")
                cursor = value if key == "nextCursor" else cursor
            at = _skip(text, at)
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    _whole(text, ([], _expect(text, at, "}")))
    return rows, cursor


def _rows(text: str, at: int) -> tuple[list[bytes], int]:
    """The bytes of each element of the array that begins at `at`, and where it ends."""
    rows: list[bytes] = []
    at = _expect(text, at, "[")
    if text[at : at + 1] == "]":
        return rows, at + 1
    while True:
        start = at
        _, at = _value(text, at)
        rows.append(text[start:at].encode("utf-8", "surrogateescape"))
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            return rows, _expect(text, at, "]")
        at = _skip(text, at + 1)


def _whole(text: str, found: tuple[list[bytes], int]) -> list[bytes]:
    rows, at = found
    if _skip(text, at) != len(text):
        raise PageFaultError("more than one JSON value")
    return rows


def _text(body: bytes) -> str:
    """The body as text from which every slice gives back its very bytes."""
    if not body.strip():
        raise PageFaultError("an empty body")
    return body.decode("utf-8", "surrogateescape")


def _value(text: str, at: int) -> tuple[object, int]:
    try:
        value, end = _LENIENT.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise PageFaultError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise PageFaultError("nested too deep") from error
    return value, end


def _expect(text: str, at: int, character: str) -> int:
    """The place behind `character` and the space after it."""
    if text[at : at + 1] != character:
        raise PageFaultError(f"not JSON: {character} expected at character {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
