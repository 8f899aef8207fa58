"""The desk between outbox and mail: gathers a mail's facts, has it worded, and keeps what a resend must repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.campaign import FIRST, campaign_for
from monitor.domain.letter import Letter
from monitor.domain.letters import Mailing, StoredFacts, fill_letter
from monitor.domain.links import safe_link
from monitor.domain.model import CurrencySeen, Kind, ProductSeen
from monitor.domain.notices import NOTICES
from monitor.domain.payment_letter import PaymentFacts, fill_payment_letter
from monitor.domain.spending import faced
from monitor.mail.mailer import Made
from monitor.store.cases import OfEpisode, OfPayment, OfSubscription, StoredMail, load_template_files
from monitor.store.catalog import load_currencies, load_products
from monitor.store.engine import Database
from monitor.store.outbox import keep_template
from monitor.store.subscriptions import StoredSubscription
from monitor.usecases.context import Account
from monitor.usecases.marks import ClaimedMail


class Mailer(Protocol):
    """Words and composes letters (the mail edge)."""

    template_hash: str

    def template_files(self) -> str:
        """All template files as one text, to be kept with the first mail that uses them."""
        ...

    def make(self, letter: Letter, files: str | None = None) -> Made:
        """The message of a letter; with `files`, in the words of that older version.

        Raises `RenderError` for a template that fails, `UnmailableAddressError` for an address that cannot be mailed.
        """
        ...


@dataclass(frozen=True, slots=True)
class MadeMail:
    """A message with what the outbox freezes of it."""

    mail: StoredMail
    made: Made
    variant: str
    frozen: Mapping[str, Any]

    def claimed(self, token: int) -> ClaimedMail:
        """The same, once it is ours under this token."""
        return ClaimedMail(
            id=self.mail.id,
            kind=self.mail.kind.value,
            token=token,
            tries=self.mail.tries,
            sender=self.made.sender,
            recipient=self.made.recipient,
            message=self.made.message,
            address_mac=self.mail.address_mac,
            frozen=self.frozen,
            in_doubt=self.mail.copies > 0,
        )


class LetterDesk:
    """Makes messages of stored mails; one a delivery pass, since products and tokens are read once."""

    def __init__(self, mailer: Mailer) -> None:
        """Nothing is read yet."""
        self._mailer = mailer
        self._kept = False
        self._catalog: tuple[dict[str, ProductSeen], dict[str, CurrencySeen]] | None = None
        self._older: dict[str | None, str | None] = {}

    async def read(self, db: Database, account_id: int, mails: Sequence[StoredMail]) -> None:
        """Read what `make` will need of the database for these mails; nothing, where all of it is known."""
        older = {mail.template_hash for mail in mails if _is_resent(mail)} - {self._mailer.template_hash, *self._older}
        if self._catalog is not None and not older:
            return
        async with db.read() as conn:
            self._catalog = await load_products(conn, account_id), await load_currencies(conn, account_id)
            for digest in older:
                self._older[digest] = None if digest is None else await load_template_files(conn, digest)

    def make(self, account: Account, mail: StoredMail, now: datetime) -> MadeMail:
        """The message of this mail. One that may have been delivered already is made again to the letter."""
        if _is_resent(mail):
            return self._same_again(mail)
        letter, variant = self._letter(account, mail, now)
        made = self._mailer.make(letter)
        frozen = {
            "recipient": made.recipient,
            "letter": msgspec.json.encode(letter).decode(),
            "date_hdr": letter.date_header,
            "message_id": letter.message_id,
            "template_hash": made.template_hash,
        }
        return MadeMail(mail, made, variant, frozen)

    async def keep(self, conn: AsyncConnection) -> None:
        """Keep the words that mails are made of today: a resend must repeat them."""
        if not self._kept:
            await keep_template(conn, self._mailer.template_hash, self._mailer.template_files())
            self._kept = True

    def _letter(self, account: Account, mail: StoredMail, now: datetime) -> tuple[Letter, str]:
        """What the mail would say now, and the variant of its words."""
        variant, refusable = _words(mail, now)
        mailing = Mailing(
            kind=mail.kind,
            variant=variant,
            step=FIRST if mail.step == mail.kind else mail.step,
            urgency=mail.urgency,
            notification_id=mail.id,
            first_in_episode=mail.first_message_id is None,
            locale=mail.locale or account.locale,
            zone=mail.zone or account.zone,
            brand=account.brand,
            sender=account.sender,
            reply_to=account.reply_to,
            recipient=mail.address or "",
            refusable=refusable,
            shared_address=mail.shared_address,
            in_reply_to=mail.first_message_id,
            message_id=f"<{mail.id}@{account.sender_address.rpartition('@')[2]}>",
            date_header=_date_header(now),
            link_hosts=tuple(sorted(account.link_hosts)),
        )
        about = mail.about
        if isinstance(about, OfPayment):
            return fill_payment_letter(mailing, self._payment_facts(account, mail, about), now), variant
        return fill_letter(mailing, self._facts(account, mail, about.subscription), now), variant

    def _payment_facts(self, account: Account, mail: StoredMail, about: OfPayment) -> PaymentFacts:
        products, currencies = self._catalog or ({}, {})
        seen = about.payment.seen
        product = products.get(seen.product_ext_id or "")
        bill_of = None if about.subscription is None else self._facts(account, mail, about.subscription)
        return PaymentFacts(
            payment=seen,
            bill_of=bill_of,
            customer_name=mail.name,
            product_name=None if product is None else product.name,
            product_link=_allowed(None if product is None else product.payment_link, account),
            currency=currencies.get(seen.currency or ""),
            payment_link=_allowed(seen.explorer_url, account),
        )

    def _facts(self, account: Account, mail: StoredMail, subscription: StoredSubscription) -> StoredFacts:
        products, currencies = self._catalog or ({}, {})
        snapshot, told = subscription.snapshot, subscription.told
        product = products.get(snapshot.product_ext_id or "")
        link = told.manage_link or account.manage_url or None
        return StoredFacts(
            snapshot=snapshot,
            told=told,
            episode=mail.about.episode if isinstance(mail.about, OfEpisode) else None,
            customer_name=mail.name,
            product_name=None if product is None else product.name,
            product_price_usd=None if product is None else product.price_usd,
            product_link=_allowed(None if product is None else product.payment_link, account),
            currency=currencies.get(snapshot.currency_ext_id or ""),
            manage_link=_allowed(link, account),
        )

    def _same_again(self, mail: StoredMail) -> MadeMail:
        letter = msgspec.json.decode(mail.letter or "", type=Letter)
        return MadeMail(mail, self._mailer.make(letter, self._older.get(mail.template_hash)), mail.variant, {})


def _words(mail: StoredMail, now: datetime) -> tuple[str, bool]:
    """The variant of the mail's words, by what its reader faces now, and whether such mails may be refused."""
    about = mail.about
    if isinstance(about, OfSubscription):
        return about.subscription.snapshot.status.value, NOTICES[mail.kind].refusable
    if isinstance(about, OfPayment):
        return mail.variant, NOTICES[mail.kind].refusable
    after = faced(about.episode.track, about.subscription.snapshot, about.subscription.told, now)
    if mail.kind is Kind.RECOVERED:
        return mail.variant, True
    campaign = campaign_for(after.situation, after.variant)
    steps = () if campaign is None else campaign.steps
    return after.variant, any(step.refusable for step in steps if step.name == mail.step)


@lru_cache(maxsize=8)  # all mails of a pass have the same
def _date_header(now: datetime) -> str:
    return format_datetime(now.astimezone(UTC))


def _is_resent(mail: StoredMail) -> bool:
    return mail.copies > 0 and mail.letter is not None


def _allowed(link: str | None, account: Account) -> str | None:
    return None if link is None else safe_link(link, account.link_hosts)
