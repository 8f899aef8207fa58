"""Who sends too many wrong signatures: a small memory of addresses, so that a flood of them costs next to nothing."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

MOST_WRONG = 20
WINDOW_S = 60.0
MOST_ADDRESSES = 10_000


class Limiter:
    """Counts wrong deliveries by address; `now_s` is a clock that never goes back, in seconds."""

    def __init__(self, most: int = MOST_WRONG, window_s: float = WINDOW_S) -> None:
        """Above `most` within `window_s` an address waits for the window's end."""
        self._most = most
        self._window_s = window_s
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> int | None:
        """Whole seconds that this address must wait, at least 1; None: it may go on."""
        began, count = self._wrong.get(_net(address), (now_s, 0))
        left = began + self._window_s - now_s
        return max(1, round(left)) if count >= self._most and left > 0 else None

    def wrong(self, address: str, now_s: float) -> bool:
        """Note a wrong delivery; True when it is the one after which the address must wait."""
        net = _net(address)
        began, count = self._wrong.pop(net, (now_s, 0))
        if now_s - began >= self._window_s:
            began, count = now_s, 0
        self._wrong[net] = (began, count + 1)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return count + 1 == self._most


def _net(address: str) -> str:
    """An IPv6 sender has a whole /64 to choose from."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
