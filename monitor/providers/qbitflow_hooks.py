"""Webhooks of a QBitFlow account, whichever of its two APIs made them.

Both run on the same data, and an endpoint that was made under v1 keeps sending v1 bodies until it is moved (contract
v2, 5.1). So the header says how a delivery is signed, and the body says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from monitor.providers import qbitflow_v1_hooks as v1
from monitor.providers import qbitflow_v2_hooks as v2
from monitor.providers.hooks import HookSeen, Refusal
from monitor.providers.wire import UNREADABLE


class QBitFlowHooks:
    """Both dialects, with the same secrets: those of one account."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raise ValueError without a secret, or for an empty one."""
        self._v1 = v1.QBitFlowV1Hooks(secrets)
        self._v2 = v2.QBitFlowV2Hooks(secrets)

    def refusal(self, headers: Mapping[str, str], body: bytes, now: datetime) -> Refusal | None:
        """See `HookDialect`. A delivery with both signatures must satisfy v2's."""
        if v2.SIGNATURE not in headers and v1.SIGNATURE in headers:
            return self._v1.refusal(headers, body, now)
        return self._v2.refusal(headers, body, now)

    def read(self, headers: Mapping[str, str], body: bytes) -> HookSeen:
        """See `HookDialect`."""
        if v2.SIGNATURE not in headers:
            return self._v1.read(headers, body)
        if _is_v1(body):
            return v1.read_payload(body, v2.sent_at(headers[v2.SIGNATURE]))
        return self._v2.read(headers, body)


class _Shape(msgspec.Struct, gc=False):
    version: str | None = None
    subscription: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="subscriptionUUID", default=msgspec.UNSET)
    session: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_SHAPE = msgspec.json.Decoder(_Shape)


def _is_v1(body: bytes) -> bool:
    """A v1 body has no version, and one of the keys by which its kinds are recognised (contract v1, 7.2)."""
    try:
        shape = _SHAPE.decode(body)
    except UNREADABLE:
        return False
    return shape.version is None and not (shape.subscription is msgspec.UNSET and shape.session is msgspec.UNSET)
