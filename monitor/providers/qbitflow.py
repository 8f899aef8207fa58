"""What both of QBitFlow's APIs ask of a client: the same kind of key, sent in the same header."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import httpx

from monitor.clock import Clock
from monitor.errors import ConfigError
from monitor.providers.http import ApiClient, OnRequest

_KEY = re.compile(r"sk_[\x21-\x7e]+")


def qbitflow_client(
    base_url: str,
    api_key: str,
    *,
    account: str,
    clock: Clock,
    sleep: Callable[[float], Awaitable[None]],
    on_behalf_of: str | None,
    on_request: OnRequest | None,
    transport: httpx.AsyncBaseTransport | None,
) -> ApiClient:
    """A client that asks with this key, for this member if one is named. Nothing is asked yet.

    Raises `ConfigError` for a key or an address that could never work; what a member's name is, each API says itself.
    """
    if not _KEY.fullmatch(api_key):
        raise ConfigError(f"accounts.{account}.api_key holds no QBitFlow key: it begins with sk_ and has no spaces")
    headers = {"X-API-Key": api_key}
    if on_behalf_of:
        headers["On-Behalf-Of"] = on_behalf_of
    return ApiClient(
        base_url, headers, account=account, clock=clock, sleep=sleep, on_request=on_request, transport=transport
    )
