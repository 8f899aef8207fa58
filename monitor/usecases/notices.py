"""Put notices into the outbox, in the transaction that wrote what they tell of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.domain.model import Kind, NotificationState
from monitor.domain.notices import payment_notice
from monitor.domain.payments import PaymentSeen
from monitor.providers.base import Capability
from monitor.store.batches import collecting_batch
from monitor.store.customers import load_customers
from monitor.store.notices import stage_notices, subscription_rows
from monitor.store.subscriptions import upsert_customers
from monitor.usecases.context import Account, Tools
from monitor.usecases.observe import customer_values
from monitor.usecases.writing import notice_row


@dataclass(frozen=True, slots=True)
class News:
    """What became of a payment, by the kind of mail that tells of it."""

    payment_id: int
    seen: PaymentSeen
    kind: Kind


async def stage_payment_notices(
    conn: AsyncConnection,
    tools: Tools,
    account: Account,
    account_id: int,
    news: Sequence[News],
    now: datetime,
    batch_id: int | None,
) -> tuple[int, int]:
    """Write the notices of the kinds that this account sends: (to be sent, silent). None as batch: the live one.

    Whoever is to be mailed is kept, as an API told them with the payment.
    """
    policy = account.notice_policy
    wanted = [one for one in news if policy.sends(one.kind)]
    if not wanted:
        return 0, 0
    people = [one.seen.customer for one in wanted if one.seen.customer is not None]
    payers = {one.seen.customer_ext_id for one in wanted if one.seen.customer_ext_id}
    told = {one.ext_id: customer_values(one, tools.address_mac) for one in people}
    # whom the API names only is read before the mail goes, where it can be asked for a customer
    named = payers if Capability.SUBSCRIPTIONS in account.provider.capabilities else ()
    await upsert_customers(conn, account_id, {**{ext_id: {} for ext_id in sorted(named)}, **told})
    known = await load_customers(conn, account_id, sorted(payers))
    bills = {one.seen.subscription_ext_id for one in wanted if one.seen.subscription_ext_id}
    subscription_ids = await subscription_rows(conn, account_id, bills)
    if batch_id is None:
        batch_id = await collecting_batch(conn, account_id, "live", now)
    rows = []
    for one in wanted:
        payer = known.get(one.seen.customer_ext_id or "")
        deleted = payer is not None and payer.deleted
        rows.append(
            {
                **notice_row(payment_notice(policy, one.kind, one.seen, now, deleted=deleted), batch_id, now),
                "account_id": account_id,
                "payment_id": one.payment_id,
                "subscription_id": subscription_ids.get(one.seen.subscription_ext_id or ""),
                "variant": one.seen.kind if one.kind is Kind.PAYMENT_SUCCEEDED else "",
            }
        )
    staged = await stage_notices(conn, list({row["id"]: row for row in rows}.values()))
    return staged, sum(row["state"] == NotificationState.VOIDED for row in rows)
