"""structlog, set up once: JSON lines in production, coloured lines on a terminal, always to stderr.

No address, name, key, token or password of a connection string may stand in a line. Three nets, since each has holes:
values under telling keys are dropped, patterns are cut out of every text (tracebacks too), and the secrets that were
loaded are cut out literally. An object that is no plain value is named, never shown: its repr may hold a customer.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

REDACTED = "[redacted]"
_SHORTEST_SECRET = 6
"""A shorter literal would be cut out of ordinary words."""
_NOISY = ("aiosqlite", "alembic", "apscheduler", "asyncio", "httpcore", "httpx", "sqlalchemy", "uvicorn.access")

_TELLING = frozenset(
    {
        "address", "addresses", "authorization", "body", "cookie", "dsn", "email", "key", "link", "mail_from", "name",
        "names", "passphrase", "password", "phrase", "raw", "recipient", "recipients", "reply", "secret", "secrets",
        "sender", "token", "url",
    }
)  # fmt: skip
_HARMLESS = frozenset({"address_mac", "dedupe_key", "event", "exception", "stack"})

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\[parameters: .*", re.DOTALL), "[parameters: [redacted]]"),  # SQLAlchemy quotes a whole row
    (re.compile(r"DETAIL: .*"), "DETAIL: [redacted]"),  # PostgreSQL quotes the row that failed
    (re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^/\s@]*@", re.IGNORECASE), rf"\g<scheme>{REDACTED}@"),
    (re.compile(r"\b(?:sk|whsec)_[\w-]+"), REDACTED),
    (re.compile(r"\b(?P<kind>bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\g<kind> {REDACTED}"),
    (re.compile(r"(?P<parameter>[?&][\w.-]+=)[^&\s\"'<>]+"), rf"\g<parameter>{REDACTED}"),
    (re.compile(r"[^\s@<>\"'(),;:=\[\]]+@[^\s@<>\"'(),;:=\[\]]+"), REDACTED),
)


class Redaction:
    """A structlog processor; the last one before the renderer."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        literal = sorted({text for text in secrets if len(text) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, literal))) if literal else None

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        return {str(key): self._value(str(key), value) for key, value in event.items()}

    def text(self, text: str) -> str:
        """`text` without anything that looks like an address, a key, a token or a password."""
        if self._literal is not None:
            text = self._literal.sub(REDACTED, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text

    def _value(self, key: str, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value  # a fencing token is a number; what must be hidden never is
        if key not in _HARMLESS and not _TELLING.isdisjoint(key.lower().split("_")):
            return REDACTED
        if isinstance(value, Mapping):
            return {str(name): self._value(str(name), inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(key, inner) for inner in value]
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {self.text(str(value))}"
        return self.text(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str | UUID | Path | Decimal | timedelta):
        return str(value)
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return f"<{type(value).__name__}>"


def configure_logging(
    *,
    level: str = "info",
    as_json: bool | None = None,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Sets up structlog and the standard library's logging. May be called again, with the secrets of the settings.

    `as_json` None: JSON, unless `stream` (default stderr) is a terminal.
    """
    target = stream or sys.stderr
    plain = as_json if as_json is not None else not target.isatty()
    redaction = Redaction(secrets)
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*before, redaction, _renderer(as_json=plain)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,  # a cached logger would keep the secrets of before
    )
    _configure_libraries(level, target, before, [redaction, _renderer(as_json=plain)])


def _renderer(*, as_json: bool) -> Callable[[Any, str, MutableMapping[str, Any]], str | bytes]:
    if as_json:
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer()  # the exception is text by then: formatted before the redaction, not here


def _configure_libraries(level: str, target: TextIO, before: list[Processor], after: list[Processor]) -> None:
    """What libraries log goes the same way."""
    handler = logging.StreamHandler(target)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
