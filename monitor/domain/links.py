"""Which addresses a mail may link to.

Phishing asks wallet owners to act at once, and so do our mails: a link leads only where the merchant said. What
a browser might read differently from us (userinfo, backslashes, look-alike letters, numeric hosts) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import idna

LONGEST = 2000
"""Characters of a link; longer ones break in mail clients."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_TOP = r"(?:[a-z]{2,63}|xn--[a-z0-9-]{1,59})"
_HOST = re.compile(rf"(?:{_LABEL}\.)+{_TOP}")
_URL = re.compile(r"https://[^/?#]+(?:[/?#][!#$&-;=?@A-Z_a-z~%\[\]]*)?", re.ASCII)
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def safe_link(url: str, allowed_hosts: Collection[str] | None) -> str | None:
    """`url` fit to be placed in a mail, its host in ASCII; None when it must not be linked.

    Args:
        url: what an API, a webhook or a setting gave.
        allowed_hosts: hosts a mail may link to, each with its subdomains; Unicode names are compared as punycode. None
            checks the form alone, for a link whose host was allowed before.
    """
    if len(url) > LONGEST:
        return None
    scheme, mark, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host_text, colon, port = authority.partition(":")
    host = ascii_host(host_text)
    if scheme.lower() != "https" or not mark or host is None or (colon and not _port(port)):
        return None
    if allowed_hosts is not None and not _allowed(host, allowed_hosts):
        return None
    link = f"https://{host}{colon}{port}{rest[len(authority) :]}"
    return link if _URL.fullmatch(link) else None


def ascii_host(host: str) -> str | None:
    """A host name in lower-case ASCII (IDNA 2008); None for an IP address, one label, or no host name at all."""
    if host.isascii():
        name = host.lower()
    else:
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    return name if len(name) <= 253 and _HOST.fullmatch(name) else None


def _port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) <= 65535


def _allowed(host: str, allowed_hosts: Collection[str]) -> bool:
    """Equal, or below by whole labels: `pay.acme.example` is under `acme.example`, `notacme.example` is not."""
    names = (ascii_host(allowed.strip()) for allowed in allowed_hosts)
    return any(name is not None and (host == name or host.endswith("." + name)) for name in names)
