"""Whether webhooks can come in: a secret to verify them with, and an endpoint that answers from outside."""

from __future__ import annotations

import httpx

from monitor.cli.checks.finding import Finding, fail, hint, ok
from monitor.config import Settings
from monitor.store.accounts import AccountRow

_ANSWER_WITHIN_S = 10.0
_UNSIGNED = 401
"""What our own endpoint says to a delivery without a signature; a proxy without one behind it says something else."""


async def endpoint(settings: Settings, name: str, row: AccountRow | None) -> Finding:
    """Send one unsigned delivery to the public address; it is refused and stored nowhere."""
    what, account = f"{name}: webhooks", settings.account(name)
    if not account.webhook_secret:
        return hint(
            what,
            f"accounts.{name}.webhook_secret is not set: changes are seen by the daily run only; "
            "with the secret of an endpoint there, `monitor serve` hears of them at once",
        )
    public_url = settings.web.public_url
    if public_url is None:
        return hint(
            what, "web.public_url is not set, so nobody can try whether the endpoint is reached; name https://your.host"
        )
    address = f"{public_url}/hooks/{name}"
    try:
        async with httpx.AsyncClient(timeout=_ANSWER_WITHIN_S) as client:
            answer = await client.post(address, content=b"{}")
    except httpx.HTTPError as error:
        return fail(what, f"web.public_url: {address} does not answer ({type(error).__name__}): is `monitor serve` up?")
    if answer.status_code != _UNSIGNED:
        return fail(
            what,
            f"web.public_url: {address} answers {answer.status_code} to an unsigned delivery, where 401 is right: "
            "does it lead to `monitor serve` or the daemon, with these settings?",
        )
    if row is not None and row.hook_problem is not None:
        return hint(what, row.hook_problem)
    last = None if row is None else row.hook_at
    heard = "none came yet" if last is None else f"the last one came {last:%Y-%m-%d %H:%M} UTC"
    return ok(what, f"{address} answers and asks for a signature; {heard}")
