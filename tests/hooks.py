"""Signed deliveries for tests. The signatures are made here anew, so that they judge the product's."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

VECTORS = json.loads((Path(__file__).parent / "unit" / "providers" / "hook_vectors.json").read_text())
V1_SECRET = "whsec-demo-2f9c41"
V2_SECRET = "whsec_demo_current_5b1d"
V2_PREVIOUS = "whsec_demo_previous_77aa"
SUB = "sub@0198c001-0000-7000-8000-0000000000a1"


def at(seconds: int | str) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def sign_v2(body: bytes, now: datetime, *secrets: str) -> dict[str, str]:
    """The headers of a v2 delivery."""
    stamp = str(int(now.timestamp()))
    made = [hmac.new(one.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest() for one in secrets]
    return {"qbitflow-signature": ",".join([f"t={stamp}", *(f"v1={one}" for one in made)])}


def sign_v1(value: object, now: datetime, secret: str, *, hook_id: str = SUB) -> dict[str, str]:
    """The headers of a v1 delivery; only for values whose Python and Go texts agree."""
    stamp = str(int(now.timestamp()))
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    made = hmac.new(secret.encode(), f"{stamp}.{text}".encode(), hashlib.sha256).hexdigest()
    return {"x-webhook-signature-256": f"sha256={made}", "x-webhook-timestamp": stamp, "x-webhook-id": hook_id}


def event(event_id: str, kind: str, data: object, **over: object) -> bytes:
    """A v2 envelope."""
    made = {
        "id": event_id,
        "type": kind,
        "version": "v2",
        "createdAt": "2026-04-02T09:00:31Z",
        "test": False,
        "data": data,
    }
    return json.dumps({**made, **over}).encode()
