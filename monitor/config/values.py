"""What a single value must be: web address, mailbox, host, share. The errors say what is wrong and how to mend it."""

from __future__ import annotations

import re
from decimal import Decimal
from email.utils import formataddr, parseaddr
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

_HOST_SHAPE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")


def wrong(setting: str, text: str) -> PydanticCustomError:
    """An error of one field, raised from a check that sees the whole table."""
    return PydanticCustomError("setting", "{text}", {"setting": setting, "text": text})


def is_loopback(host: str) -> bool:
    """True for this machine only: `localhost` or an address of the loopback net."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def web_address(text: str) -> str:
    """`text` without a slash at its end.

    Raises:
        ValueError: no https address, or one with user and password; http is for this machine only.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in {"https", "http"} or not host or parts.username or not _is_clean(text.replace(" ", "\n")):
        raise ValueError("is no web address; write https://host/path without user, password or spaces")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("must begin with https:// (http:// only for this machine)")
    return text.rstrip("/")


def _is_clean(text: str) -> bool:
    """False where a line break or another control character would be carried into a header or a link."""
    return text.isprintable()


def _mailbox(text: str) -> str:
    name, address = parseaddr(text)
    try:
        validate_email(address, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise ValueError("is no mail address; write 'Name <name@host>' or 'name@host'") from error
    if not _is_clean(text) or text not in {formataddr((name, address)), address, f"{name} <{address}>"}:
        raise ValueError("must be one address in one line; write 'Name <name@host>' or 'name@host'")
    return text


def _link_host(text: str) -> str:
    host = text.lower().rstrip(".")
    if not _HOST_SHAPE.match(host):
        raise ValueError("is no host name; write it like 'qbitflow.app': no https://, port, path or *")
    return host


def bind_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:8080` or `[::1]:8080`; port 0 takes a free one.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare) != (bare != host) or not port.isascii() or not port.isdigit():
        raise ValueError("is no address to listen on; write host:port like '127.0.0.1:8080'")
    if int(port) > 65535:
        raise ValueError("has a port above 65535; write host:port like '127.0.0.1:8080'")
    return bare, int(port)


def _bind(text: str) -> str:
    bind_address(text)
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text)) if "/" in text else str(ip_address(text))
    except ValueError as error:
        raise ValueError('is no address or network; write it like "10.0.0.5" or "10.0.0.0/24"') from error


Network = Annotated[str, AfterValidator(_network)]
WebAddress = Annotated[str, AfterValidator(web_address)]
Mailbox = Annotated[str, AfterValidator(_mailbox)]
BindAddress = Annotated[str, AfterValidator(_bind)]
LinkHost = Annotated[str, AfterValidator(_link_host)]
Fraction = Annotated[Decimal, Field(gt=0, le=1)]
