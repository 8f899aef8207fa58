"""Whether an account's webhooks really come: judged in every run, from the vendor's endpoints and from the event log.

What the log told long after it happened, and no webhook brought, shows that the endpoint is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from monitor.domain.endpoint import EndpointSeen
from monitor.errors import ProviderError
from monitor.providers.base import TellsEndpoints
from monitor.store.accounts import AccountRow, change_account
from monitor.usecases.context import Account, Tools

LATE = timedelta(hours=1)
"""A delivery that failed once is repeated well within this time."""


async def watch_hooks(
    tools: Tools, account: Account, row: AccountRow, fresh: Sequence[datetime], api_at: datetime
) -> str | None:
    """Note what is wrong with the account's webhooks, None for nothing, and return it.

    `fresh` is when that happened which only the log has told, `api_at` the vendor's clock. An account without a webhook
    secret has no webhooks, so nothing is wrong with them.
    """
    missed_at, problem = None, None
    if account.hooked:
        missed_at = _missed_at(row, fresh, api_at)
        problem = await _endpoint_problem(account) or _silence(account, row, missed_at)
    if (missed_at, problem) != (row.hook_missed_at, row.hook_problem):
        async with tools.db.write() as conn:
            await change_account(conn, row.id, hook_missed_at=missed_at, hook_problem=problem)
    return problem


def _missed_at(row: AccountRow, fresh: Sequence[datetime], api_at: datetime) -> datetime | None:
    """Since when no webhook came though something happened; what was missed is missed until one comes."""
    late = [at for at in (row.hook_missed_at, *fresh) if at is not None and at < api_at - LATE]
    since = [at for at in late if row.hook_at is None or row.hook_at < at]
    return min(since, default=None)


def _silence(account: Account, row: AccountRow, missed_at: datetime | None) -> str | None:
    if missed_at is None:
        return None
    heard = "none ever came" if row.hook_at is None else f"the last one came {row.hook_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"no webhook brought what happened since {missed_at:%Y-%m-%d %H:%M} UTC ({heard}): "
        f"see that the endpoint's address ends in /hooks/{account.name} and can be reached"
    )


async def _endpoint_problem(account: Account) -> str | None:
    """What the vendor says of the endpoint; None where it is well, or where this key may not ask."""
    if not isinstance(account.provider, TellsEndpoints):
        return None
    try:
        endpoints = await account.provider.endpoints()
    except ProviderError:
        return None
    ours = [one for one in endpoints if one.url.rstrip("/").endswith(f"/hooks/{account.name}")]
    if not ours:
        return f"no webhook endpoint is registered whose address ends in /hooks/{account.name}"
    if all(one.disabled_at is not None for one in ours):
        return f"the webhook endpoint is disabled{_why(ours[0])}: mend what it complains of, then enable it again"
    failing = [one.failing_since_at for one in ours if one.failing_since_at is not None]
    if failing and len(failing) == len(ours):
        since = f"{min(failing):%Y-%m-%d %H:%M} UTC"
        return f"deliveries to the webhook endpoint fail since {since}; after three days it is disabled"
    return None


def _why(endpoint: EndpointSeen) -> str:
    since = "" if endpoint.disabled_at is None else f" since {endpoint.disabled_at:%Y-%m-%d %H:%M} UTC"
    return since + (f" ({endpoint.disabled_reason})" if endpoint.disabled_reason else "")
