"""Everything this product raises on purpose.

Two families that never inherit from one another, so that no handler swallows the wrong one: `ConfigError` is the
operator's to mend (exit 2), `MonitorError`'s other children happen while the product works.
"""

from __future__ import annotations

from datetime import timedelta


class MonitorError(Exception):
    """Base of every error of this product."""


class ConfigError(MonitorError):
    """The installation must be changed before a run makes sense. Exit code 2.

    The message names the setting, the place and the fix, in that order.
    """


class NewerDatabaseError(ConfigError):
    """The database was made by a newer version: nothing but that version can go on with it."""


class NotFoundError(MonitorError):
    """What was asked for by name or number is not stored. Exit code 1: the command was right."""


class StoreError(MonitorError):
    """The database refused: read-only, full, unreachable, or of another revision."""


class StoreClosedError(StoreError):
    """The database is there and refuses what only a person can give: rights, tables, a place. Exit code 2."""


class FencedOffError(StoreError):
    """Somebody else holds the lock by now: this transaction must not commit (engine: PAGE, fencing token)."""


class ProviderError(MonitorError):
    """The payment API did not give what was asked."""


class ProviderAuthError(ProviderError):
    """The key is refused: unknown, expired, revoked, or its space is closed (401, 403, 410)."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProviderUnavailableError(ProviderError):
    """No answer, 5xx, or an answer that is not the expected JSON, after all retries."""


class ProviderRefusedError(ProviderError):
    """A 4xx that a retry cannot heal, such as an unknown cursor."""

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class RateLimitedError(ProviderError):
    """The API asks for a wait that this run cannot make; `retry_after` is what it asked."""

    def __init__(self, message: str, *, retry_after: timedelta | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MailError(MonitorError):
    """A mail could not be made or handed over."""


class RenderError(MailError):
    """A template failed for these facts; `template` and `line` say where, when known."""

    def __init__(self, message: str, *, template: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.template = template
        self.line = line


class UnmailableAddressError(MailError):
    """The address cannot be mailed: malformed, several in one, or it needs what the server lacks.

    `rule` is a stable word for the ledger; the message holds no address.
    """

    def __init__(self, message: str, *, rule: str = "malformed") -> None:
        super().__init__(message)
        self.rule = rule
