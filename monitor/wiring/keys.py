"""What is secret: the key that addresses are hashed with, and all that a log must never show."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from monitor.config import Settings
from monitor.errors import UnmailableAddressError
from monitor.mail.address import normalise_address

MAC_CHARACTERS = 32
"""128 of the 256 bits, as RFC 2104, section 5, allows: the half of an index that every new customer is put into."""


def address_mac(key: bytes) -> Callable[[str], str]:
    """A keyed hash of addresses: equal for every spelling of one mailbox, and useless without the key.

    What is no address gets a hash of its own text: it is never mailed, but it is counted and can be looked up.
    """

    def mac(address: str) -> str:
        try:
            text = normalise_address(address)
        except UnmailableAddressError:
            text = address.strip().casefold()
        return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:MAC_CHARACTERS]

    return mac


def loaded_secrets(settings: Settings) -> tuple[str, ...]:
    """Every secret of the settings, for the log's redaction."""
    found = [] if settings.database.is_sqlite else [settings.database.url.get_secret_value()]
    found += [] if settings.secret_key is None else [settings.secret_key.get_secret_value()]
    found += [url.get_secret_value() for url in settings.alerts.urls]
    for name, account in settings.accounts.items():
        smtp = settings.smtp_for(name)
        secrets = (account.api_key, smtp.password, *account.webhook_secret)
        found += [secret.get_secret_value() for secret in secrets if secret is not None]
    return tuple(found)
