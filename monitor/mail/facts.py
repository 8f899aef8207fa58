"""A letter's facts in the customer's words: what templates may print, by name.

A fact that is not known is an `UnknownFact`: `{% if fact %}` asks for it, printing it is an error. So no mail ever says
"None", "0.00" or a date of the year 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any, NoReturn

from jinja2 import Undefined, UndefinedError
from markupsafe import Markup

from monitor.domain.letter import Letter
from monitor.domain.links import safe_link
from monitor.domain.model import ZERO_TIME_YEAR
from monitor.mail.address import parse_sender
from monitor.mail.brand import palette
from monitor.mail.clean import greetable, isolated, one_line
from monitor.mail.wording import NBSP, Wording, moment

# marked as markup, since they stand in every second element and need no escaping
_LTR, _RTL, _LEFT, _RIGHT = Markup("ltr"), Markup("rtl"), Markup("left"), Markup("right")
PRODUCT_LONGEST = 60
PRODUCT_IN_SUBJECT = 26
_DEADLINES = (
    "next_bill", "next_attempt", "cancellation", "paid_until", "trial_end", "ends", "period_ends",
)  # fmt: skip
_PAST = (
    "ended", "paused_since", "failed", "last_bill", "signed_up", "balance_checked", "measured", "amount_due_as_of",
    "payment",
)  # fmt: skip
_MOMENTS = tuple(
    (name, name if name == "amount_due_as_of" else f"{name}_at", name in _DEADLINES) for name in _DEADLINES + _PAST
)
_TOKENS = (
    "amount_due", "allowance_left", "approve_more", "approve_total", "maximum_now", "maximum_to_set", "approved",
    "payment_amount",
)  # fmt: skip


class UnknownFact(Undefined):
    """A fact nobody told us: false in a condition, an error when printed."""

    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise UndefinedError(self._undefined_message)

    def __iter__(self) -> NoReturn:
        raise UndefinedError(self._undefined_message)

    def __len__(self) -> NoReturn:
        raise UndefinedError(self._undefined_message)


def facts_of(letter: Letter, wording: Wording) -> dict[str, Any]:
    """Every name a template may use, for this letter (docs/templates.md lists them)."""
    facts: dict[str, Any] = {
        "kind": letter.kind.value,
        "variant": letter.variant,
        "step": letter.step,
        "is_last_call": letter.step == "last_call",
        "is_repeated": letter.step != "first" and not letter.first_in_episode,
        "is_refusable": letter.refusable,
        "is_purchase": letter.purchase,
        "amounts_uncertain": letter.amounts_uncertain,
        "approve_bills": letter.approve_bills,
    }
    facts |= _texts(letter, wording)
    facts |= _moments(letter, wording)
    facts |= _amounts(letter, wording)
    facts |= _links(letter)
    facts |= _frame(letter, wording)
    return facts


def _texts(letter: Letter, wording: Wording) -> dict[str, Any]:
    def text(name: str, value: str | None, longest: int) -> Any:
        line = one_line(value, longest) if value else ""
        return isolated(line, is_rtl=wording.is_rtl) if line else _unknown(name)

    brand = letter.brand
    return {
        "brand": text("brand", brand.name, 60),
        "postal_address": text("postal_address", brand.postal_address, 200),
        "phrase": text("phrase", brand.phrase, 80),
        "product": text("product", letter.product, PRODUCT_LONGEST),
        "product_short": text("product_short", letter.product, PRODUCT_IN_SUBJECT),
        "customer_name": text("customer_name", greetable(letter.customer_name), 60),
        "token": text("token", letter.token, 16),
        "sub_tail": text("sub_tail", letter.sub_tail, 12),
        "wallet_tail": text("wallet_tail", letter.wallet_tail, 12),
        "reference": text("reference", letter.reference, 60),
        "last_bill_tx": text("last_bill_tx", letter.last_bill_tx, 120),
        "payment_tx": text("payment_tx", letter.payment_tx, 120),
        "message_code": message_code(letter.notification_id),
    }


def _moments(letter: Letter, wording: Wording) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, field, deadline in _MOMENTS:
        at: datetime | None = getattr(letter, field)
        if at is None or at.year <= ZERO_TIME_YEAR + 1:
            facts[name] = _unknown(name)
        else:
            facts[name] = moment(at, letter.zone, wording, deadline=deadline)
    until, now = letter.paid_until_at, letter.now
    facts["has_access"] = bool(facts["paid_until"]) and until is not None and now is not None and until > now
    return facts


def _amounts(letter: Letter, wording: Wording) -> dict[str, Any]:
    token = one_line(letter.token, 16) if letter.token else None
    facts: dict[str, Any] = {}
    for name in _TOKENS:
        value: Decimal | None = getattr(letter, name)
        shown = value is not None and token is not None
        facts[name] = f"{wording.number(value)}{NBSP}{token}" if value is not None and shown else _unknown(name)
    for name, usd in (
        ("price", letter.price_usd),
        ("last_bill_usd", letter.last_bill_usd),
        ("payment_usd", letter.payment_usd),
    ):
        # "0" means that the product's price counts; a letter without it does not know the price.
        facts[name] = f"{wording.number(usd)}{NBSP}USD" if usd else _unknown(name)
    for name, usd in (("used", letter.used_usd), ("limit", letter.limit_usd)):
        facts[name] = _unknown(name) if usd is None else f"{wording.number(usd)}{NBSP}USD"
    share = None if letter.used_usd is None or not letter.limit_usd else _share(letter.used_usd, letter.limit_usd)
    facts["used_share"] = _unknown("used_share") if share is None else wording.percent(share)
    facts["nothing"] = f"0{NBSP}USD"
    facts["every"] = wording.every(letter.period) if letter.period else _unknown("every")
    return facts


def _share(used: Decimal, limit: Decimal) -> int:
    """Whole percent, rounded down: 100 only where the limit is reached. Exact whatever the decimal context."""
    return int(Fraction(used) * 100 / Fraction(limit))


def _links(letter: Letter) -> dict[str, Any]:
    found: Mapping[str, str | None] = {
        "manage_link": _link(letter.manage_link, letter.link_hosts),
        "product_link": _link(letter.product_link, letter.link_hosts),
        "payment_link": _link(letter.payment_link, letter.link_hosts),
        "brand_url": _link(letter.brand.url, None),
        "unsubscribe_url": _link(letter.unsubscribe_url, None) if letter.refusable else None,
    }
    return {name: link or _unknown(name) for name, link in found.items()}


def _frame(letter: Letter, wording: Wording) -> dict[str, Any]:
    return {
        "contact": parse_sender(letter.reply_to)[1],
        "colors": palette(letter.brand.color),
        "lang": wording.lang,
        "dir": _RTL if wording.is_rtl else _LTR,
        "start": _RIGHT if wording.is_rtl else _LEFT,
        "end": _LEFT if wording.is_rtl else _RIGHT,
    }


def message_code(notification_id: str) -> str:
    """What a customer reads out to the merchant: the first ten digits of the outbox id, `3F9A1-C277B`."""
    digits = "".join(filter(str.isalnum, notification_id))[:10].upper()
    return f"{digits[:5]}-{digits[5:]}"


def _link(url: str | None, hosts: tuple[str, ...] | None) -> str | None:
    return safe_link(url, hosts) if url else None


@cache
def _unknown(name: str) -> UnknownFact:
    return UnknownFact(hint=f"{name} is not known for this mail: ask with {{% if {name} %}} before it is printed")
