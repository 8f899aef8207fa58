"""JSON as the vendor's Go server writes it: what API v1 signs (contract v1, 7.3).

Whatever order, spaces and escapes a body arrives with, its canonical text is the same. Every number is a float64 there,
and the encoder has habits of its own: `<`, `>`, `&`, U+2028 and U+2029 are escaped, a float has an exponent below 1e-6
and from 1e21 up, a lone surrogate has become U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from typing import NoReturn

_SURROGATE = re.compile("[\ud800-\udfff]")
_HTML = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_SMALLEST_PLAIN, _SMALLEST_HUGE = 1e-6, 1e21


class NotCanonicalError(ValueError):
    """The body is no JSON that a Go server would read: malformed, not UTF-8, nested too deep, a number too large."""


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def canonical(body: bytes) -> bytes:
    """The canonical text of a JSON body, UTF-8. Raises `NotCanonicalError`."""
    try:
        value = _DECODER.decode(body.decode())
        pieces: list[str] = []
        _write(value, pieces)
    except RecursionError as error:
        raise NotCanonicalError("nested too deep") from error
    except ValueError as error:  # JSON, UTF-8, a number
        raise NotCanonicalError(str(error)) from error
    return "".join(pieces).translate(_HTML).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_refuse)


def _write(value: object, to: list[str]) -> None:
    if isinstance(value, _Number):
        to.append(_number(value))
    elif isinstance(value, str):
        to.append(encode_basestring(_whole(value)))
    elif isinstance(value, dict):
        members = {_whole(key): inner for key, inner in value.items()}
        separator = "{"
        for key in sorted(members):
            to.append(f"{separator}{encode_basestring(key)}:")
            _write(members[key], to)
            separator = ","
        to.append("}" if members else "{}")
    elif isinstance(value, list):
        separator = "["
        for inner in value:
            to.append(separator)
            _write(inner, to)
            separator = ","
        to.append("]" if value else "[]")
    else:
        to.append({None: "null", True: "true", False: "false"}[value])  # type: ignore[index]  # all that JSON has left


def _whole(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


@lru_cache(maxsize=1024)
def _number(text: str) -> str:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond float64")
    size = abs(value)
    if size == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if size < _SMALLEST_PLAIN or size >= _SMALLEST_HUGE:
        return repr(value).replace("e-0", "e-")  # Python writes 1e-07, Go 1e-7
    plain = format(Decimal(repr(value)), "f")
    return plain.removesuffix(".0")
