"""The billing platform's settings: its contract is known in part, so every assumed name can be changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from monitor.config.tables import Table


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or set(text) & set(" ?#"):
        raise ValueError('is no path; write it like "/payments", without ?, # or spaces')
    return text.rstrip("/")


def _path_of_one(text: str) -> str:
    if text.count("{id}") != 1:
        raise ValueError('must have {id} where the payment\'s id stands; write it like "/payments/{id}"')
    return _path(text)


Path = Annotated[str, AfterValidator(_path)]
PaymentPath = Annotated[str, AfterValidator(_path_of_one)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3,10}$")]
Places = Annotated[int, Field(ge=0, le=30)]


class PaymentFields(Table):
    """What the platform calls each field of a payment."""

    id: Name = "id"
    user: Name = "userId"
    amount: Name = "amount"
    currency: Name = "currency"
    status: Name = "status"
    created_at: Name = "createdAt"
    updated_at: Name = "updatedAt"
    order: Name = "orderId"
    reason: Name = "failureReason"


class BillingSettings(Table):
    """`[accounts.<name>.billing]`; the tenant's secret is the account's `api_key`."""

    tenant_id: str = Field(min_length=1)
    login_path: Path = "/auth/login"
    login_id_field: Name = "tenantId"
    login_secret_field: Name = "tenantSecret"  # noqa: S105  # the name of a field
    token_field: Name = "accessToken"  # noqa: S105  # likewise
    token_ttl_s: int = Field(23 * 3600, ge=60, le=366 * 86_400)
    token_margin_s: int = Field(300, ge=0, le=86_400)
    payments_path: Path = "/payments"
    payment_path: PaymentPath = "/payments/{id}"
    list_all_users: bool = True
    """False: the platform lists one user's payments only."""
    field_map: PaymentFields = PaymentFields()
    decimals: dict[Currency, Places] = Field(default_factory=dict)
    """How many decimals the whole number of an amount has, by currency; of others no amount is printed in mails."""
    webhook_header: Name = "X-Webhook-Signature"
    webhook_prefix: str = ""
    """What stands before the hexadecimal digits, such as `sha256=`."""
    webhook_algorithm: Literal["sha256", "sha384", "sha512"] = "sha256"
    webhook_timestamp_header: Name | None = None
    """Where there is one, its text and a dot are signed before the body."""
    webhook_tolerance_s: int = Field(300, ge=1, le=86_400)
    event_map: dict[str, str] = Field(
        default_factory=lambda: {
            "payment.succeeded": "SUCCEEDED",
            "payment.failed": "FAILED",
            "payment.expired": "EXPIRED",
            "payment.cancelled": "CANCELLED",
        }
    )
    """The event types that are known, each with the status that it announces; the payment itself is read again.

    Only the first is known for certain; others that come are kept and counted.
    """
