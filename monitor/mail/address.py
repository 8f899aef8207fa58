"""One mail address, or none: what is mailed, suppressed and hashed is always the same text.

RFC 5322 allows lists, groups, comments and quoted local parts where RFC 5321 wants one mailbox. All are refused: no
customer has such an address, and each of them has once become a second recipient somewhere.
"""

from __future__ import annotations

import re
from functools import lru_cache

import idna
from email_validator import EmailNotValidError, validate_email

from monitor.errors import ConfigError, UnmailableAddressError

LONGEST = 254
"""Characters of a forward path without its brackets (RFC 5321 4.5.3.1.3)."""

_LONGEST_LOCAL = 64
_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_SENDER = re.compile(r'\s*(?:"(?P<quoted>[^"\\]*)"|(?P<plain>[^"<>]*?))\s*<(?P<spec>[^<>]+)>\s*')


@lru_cache(maxsize=4096)
def normalise_address(text: str) -> str:
    """The address in lower case with its domain in punycode.

    Raises:
        UnmailableAddressError: not exactly one plain mailbox; `rule` names what is wrong, the message holds no address.
    """
    spec = text.strip(" ")
    if len(spec) > LONGEST:
        raise UnmailableAddressError("the address is longer than 254 characters", rule="too_long")
    if not spec.isprintable():
        raise UnmailableAddressError("the address holds a control character", rule="control_character")
    local, at, domain = spec.rpartition("@")
    if not at or not local or not domain:
        raise UnmailableAddressError("the text is no mail address", rule="malformed")
    if "=?" in local:  # legal, but every header parser would decode it into another address (RFC 2047)
        raise UnmailableAddressError("the address looks like an encoded word", rule="encoded_word")
    if not local.isascii():
        raise UnmailableAddressError("the address needs a server with SMTPUTF8", rule="non_ascii_local_part")
    if len(local) <= _LONGEST_LOCAL and _PLAIN_LOCAL.fullmatch(local):
        address = f"{local}@{_normalised_domain(domain)}".lower()
        if len(address) <= LONGEST:
            return address
    return _validated(local, domain)


@lru_cache(maxsize=4096)
def _normalised_domain(domain: str) -> str:
    """The domain as it is mailed; most customers share a few, and its validation costs more than all the rest."""
    return _validated("a", domain).partition("@")[2]


def _validated(local: str, domain: str) -> str:
    try:
        # Punycode first: the email package would encode the domain wrongly. `.test` is for catchers and demos.
        ascii_domain = idna.encode(domain.lower(), uts46=True).decode("ascii") if not domain.isascii() else domain
        found = validate_email(
            f"{local}@{ascii_domain}",
            check_deliverability=False,
            allow_smtputf8=False,
            test_environment=True,
            strict=True,
        )
    except (EmailNotValidError, idna.IDNAError, UnicodeError) as error:
        raise UnmailableAddressError("the text is not one plain mail address", rule="malformed") from error
    return f"{found.local_part}@{found.ascii_domain or ascii_domain}".lower()


@lru_cache(maxsize=256)
def parse_sender(text: str) -> tuple[str, str]:
    """`Name <address>` or a bare address as (name, address); `ConfigError` when it is neither."""
    match = _SENDER.fullmatch(text)
    name = (match["quoted"] or match["plain"] or "") if match else ""
    try:
        spec = normalise_address(match["spec"] if match else text)
    except UnmailableAddressError as error:
        raise ConfigError(f"sender or reply_to: {error}; write Name <address>") from error
    if not name.isprintable():
        raise ConfigError("sender or reply_to: the name holds a control character; write Name <address>")
    return name.strip(), spec
