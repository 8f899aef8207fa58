"""Query parameters and pages of API v2: what is accepted, what is a 400, which rows come next."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from monitor.errors import MonitorError
from monitor.sandbox.entities import Status, Subscription
from monitor.sandbox.v2_shapes import camel
from monitor.sandbox.world import World

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
Test = Callable[[Subscription], bool]


class ApiError(MonitorError):
    """An answer that is not 2xx, in the words of contract v2, section 6."""

    def __init__(self, status: int, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details


def invalid(field: str, message: str, **details: Any) -> ApiError:
    """400 `validation_failed` with its field error."""
    errors = [{"field": field, "message": message}]
    return ApiError(400, "validation_failed", f"{field} {message}", errors=errors, **details)


def not_found(what: str) -> ApiError:
    return ApiError(404, "not_found", f"{what} not found")


def limit_of(query: Mapping[str, str], *, default: int, maximum: int) -> int:
    """The page size. Raises ApiError outside 1 to `maximum`."""
    text = query.get("limit", "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= maximum):
        raise invalid("limit", f"must be 1 to {maximum}", max=maximum)
    return int(text)


def instant_of(query: Mapping[str, str], field: str) -> datetime | None:
    """An RFC 3339 instant with an offset. Raises ApiError for anything else."""
    text = query.get(field, "")
    if not text:
        return None
    if not _RFC3339.fullmatch(text):
        raise invalid(field, "must be an RFC 3339 time with an offset")
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise invalid(field, "is no such instant") from error


def flag_of(query: Mapping[str, str], field: str) -> bool | None:
    text = query.get(field, "")
    if text not in ("", "true", "false"):
        raise invalid(field, "must be true or false")
    return None if not text else text == "true"


def uuid_of(query: Mapping[str, str], field: str) -> str | None:
    text = query.get(field, "")
    if text and not _UUID.fullmatch(text):
        raise invalid(field, "must be a UUID")
    return text or None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk goes on: after the row `row` (or, by offset, at that place), on page `page`."""

    row: int
    page: int
    key: str = ""
    """Order key of that row, for orders other than by creation."""

    def cursor(self) -> str:
        """Opaque text for the wire."""
        data = json.dumps([self.row, self.page, self.key]).encode()
        return base64.urlsafe_b64encode(data).decode().rstrip("=")


def place_of(text: str | None) -> Place | None:
    """Reads a cursor; None at the beginning. Raises ApiError for one that we did not make."""
    if not text:
        return None
    try:
        row, page, key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return Place(int(row), int(page), str(key))
    except (binascii.Error, ValueError, TypeError) as error:
        raise invalid("cursor", "is not valid") from error


def page_number(query: Mapping[str, str]) -> int:
    """The page that a cursor asks for; 1 for none and for a foreign one."""
    try:
        place = place_of(query.get("cursor"))
    except ApiError:
        return 1
    return place.page if place else 1


def filters(world: World, query: Mapping[str, str], *, member: int | None) -> list[Test]:
    """The tests of contract v2, 2.2. Both time bounds are excluded. Raises ApiError for a bad value."""
    tests = [_space(world, query, member)]
    status = query.get("status")
    if status:
        if status not in {camel(value) for value in Status}:
            raise invalid("status", "is not a status")
        tests.append(lambda sub: sub.status_text is None and camel(sub.status) == status)
    if reference := query.get("reference"):
        tests.append(lambda sub: sub.reference == reference)
    if customer := uuid_of(query, "customerUuid"):
        number = world.ids.read("customer", customer.lower())
        tests.append(lambda sub: sub.customer is not None and sub.customer.n == number)
    if product := uuid_of(query, "productUuid"):
        wanted = world.ids.read("product", product.lower())
        tests.append(lambda sub: sub.product.n == wanted)
    if after_at := instant_of(query, "createdAfter"):
        tests.append(lambda sub: sub.created_at > after_at)
    if before_at := instant_of(query, "createdBefore"):
        tests.append(lambda sub: sub.created_at < before_at)
    return tests


def _space(world: World, query: Mapping[str, str], member: int | None) -> Test:
    everybody, user = flag_of(query, "includeMembers"), uuid_of(query, "userUuid")
    if everybody and user:
        raise invalid("includeMembers", "cannot be combined with userUuid")
    if member is not None:
        return lambda sub: sub.member == member
    if user:
        wanted = world.ids.read("member", user.lower())
        return lambda sub: wanted is not None and sub.member == wanted
    if everybody:
        return lambda _sub: True
    return lambda sub: sub.member is None


def newest_first(world: World, after: Place | None) -> Iterator[Subscription]:
    """By creation, after the row of the cursor: a row that appears meanwhile shifts nothing."""
    rows = world.subscriptions
    start = (after.row if after else len(rows)) - 1
    for n in range(min(start, len(rows) - 1), -1, -1):
        if not rows[n].gone:
            yield rows[n]


def newest_change_first(world: World, after: Place | None) -> Iterator[Subscription]:
    """By `updated_at`: a row that changes during a walk jumps to the front."""
    bound = (after.key, after.row) if after else None
    keyed = sorted(((sub.updated_at.isoformat(), sub.n) for sub in world.living()), reverse=True)
    return (world.subscriptions[n] for key, n in keyed if bound is None or (key, n) < bound)


def page_of(rows: Iterator[Subscription], tests: Sequence[Test], limit: int) -> tuple[list[Subscription], bool]:
    """The next rows that pass, and whether one more exists."""
    page: list[Subscription] = []
    for sub in rows:
        if all(test(sub) for test in tests):
            if len(page) == limit:
                return page, True
            page.append(sub)
    return page, False
