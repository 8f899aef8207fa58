"""Ids, keys, addresses and small numbers of a world: each follows from the seed and a running number."""

from __future__ import annotations

import re

_KINDS = {
    "space": 1,
    "organization": 2,
    "key": 3,
    "subscription": 0xA,
    "bill": 0xB,
    "customer": 0xC,
    "product": 0xD,
    "event": 0xE,
    "failure": 0xF,
    "member": 0x10,
    "endpoint": 0x12,
    "payment": 0x11,
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7000-8000-[0-9a-f]{12}")
_MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """A 64-bit number that looks random and follows from `numbers` (splitmix64): the same on every machine."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class Ids:
    """Writes and reads ids. The number is in the last 12 digits, so that no index has to be kept."""

    def __init__(self, seed: int, mode: str) -> None:
        self._head = f"{0x01980000 + seed % 0x10000:08x}"
        self.space = self._uuid("space", 0)
        self.organization = self._uuid("organization", 0)
        self.api_key = f"sk_{self._uuid('key', 0)}_{mode}_{mix(seed, 3):016x}"

    def _uuid(self, kind: str, n: int) -> str:
        return f"{self._head}-{_KINDS[kind]:04x}-7000-8000-{n:012x}"

    def subscription(self, n: int) -> str:
        return f"sub@{self._uuid('subscription', n)}"

    def bill(self, n: int) -> str:
        return f"sub-hist@{self._uuid('bill', n)}"

    def payment(self, n: int) -> str:
        return f"pay@{self._uuid('payment', n)}"

    def event(self, n: int) -> str:
        return f"evt_{self._uuid('event', n)}"

    def customer(self, n: int) -> str:
        return self._uuid("customer", n)

    def product(self, n: int) -> str:
        return self._uuid("product", n)

    def endpoint(self, n: int) -> str:
        return self._uuid("endpoint", n)

    def failure(self, n: int) -> str:
        return self._uuid("failure", n)

    def member(self, n: int) -> str:
        return self._uuid("member", n)

    @property
    def key(self) -> str:
        """The UUID of the API key."""
        return self._uuid("key", 0)

    def read(self, kind: str, text: str) -> int | None:
        """The number in an id of this world, with or without its prefix; None for anything else."""
        prefix = {"subscription": "sub@", "bill": "sub-hist@", "payment": "pay@", "event": "evt_"}.get(kind, "")
        bare = text.removeprefix(prefix)
        if not _UUID.fullmatch(bare) or bare[:13] != f"{self._head}-{_KINDS[kind]:04x}":
            return None
        return int(bare[-12:], 16)


def evm_address(seed: int, n: int) -> str:
    """40 hexadecimal digits."""
    return f"0x{mix(seed, n, 1):016x}{mix(seed, n, 2):016x}{n & 0xFFFFFFFF:08x}"


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def solana_address(seed: int, n: int) -> str:
    """44 base58 characters."""
    number = mix(seed, n, 3) << 192 | mix(seed, n, 4) << 128 | mix(seed, n, 5) << 64 | n
    digits = []
    for _ in range(44):
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "".join(digits)


def hash_of(seed: int, n: int, salt: int) -> str:
    """64 hexadecimal digits, as of a transaction."""
    return "0x" + "".join(f"{mix(seed, n, salt, part):016x}" for part in range(4))
