"""An account of the settings in the words of the use cases: its provider, mail server and dialect of webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from monitor.clock import Clock
from monitor.config import Account as AccountSettings
from monitor.config import BillingSettings, Settings, SmtpSettings
from monitor.domain.calendar import SendingWindow
from monitor.domain.guard import GuardLimits
from monitor.domain.letter import Brand
from monitor.domain.model import Kind, Mode
from monitor.errors import ConfigError
from monitor.mail.smtp import SmtpTransport
from monitor.providers.base import Provider
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.billing_platform_hooks import BillingPlatformHooks
from monitor.providers.hooks import HookDialect
from monitor.providers.http import OnRequest
from monitor.providers.qbitflow_hooks import QBitFlowHooks
from monitor.providers.qbitflow_v1 import QBitFlowV1
from monitor.providers.qbitflow_v2 import QBitFlowV2
from monitor.usecases.context import Account

Sleep = Callable[[float], Awaitable[None]]


def build_account(
    settings: Settings, name: str, *, clock: Clock, sleep: Sleep, on_request: OnRequest | None = None
) -> Account:
    """One account's choices in the words of the use cases, with its provider; the caller closes the provider."""
    chosen = settings.account(name)
    if chosen.campaigns is not None:
        raise ConfigError(
            f"accounts.{name}.campaigns: campaigns of your own come in a later version; "
            "leave this setting out to use the shipped ones"
        )
    return Account(
        name=name,
        provider_name=chosen.provider,
        mode=Mode(chosen.mode),
        provider=_provider(chosen, clock, sleep, on_request),
        sender=chosen.sender,
        sender_address=chosen.sender_address,
        reply_to=chosen.reply_to,
        brand=build_brand(chosen),
        zone=chosen.timezone,
        locale=chosen.locale,
        window=SendingWindow(chosen.window.opens_at, chosen.window.closes_at),
        manage_url=chosen.manage_url,
        link_hosts=chosen.allowed_hosts,
        notify_first=chosen.first_run == "notify",
        mail_test_rows=chosen.mail_test_rows,
        guard=GuardLimits(**settings.guard_for(chosen).model_dump()),
        read_at_once=chosen.read_at_once,
        daily_requests=chosen.daily_requests,
        run_time=timedelta(minutes=chosen.run_minutes),
        payments=chosen.payments,
        optional_mails=frozenset(map(Kind, chosen.optional_mails)),
        hooked=bool(chosen.webhook_secret),
    )


def _provider(chosen: AccountSettings, clock: Clock, sleep: Sleep, on_request: OnRequest | None) -> Provider:
    if chosen.billing is not None:
        return _billing_platform(chosen, chosen.billing, clock, sleep, on_request)
    qbitflow = QBitFlowV1 if chosen.provider == "qbitflow-v1" else QBitFlowV2
    return qbitflow(
        base_url=chosen.base_url,
        api_key=chosen.api_key.get_secret_value(),
        account=chosen.name,
        clock=clock,
        sleep=sleep,
        on_behalf_of=chosen.on_behalf_of,
        on_request=on_request,
    )


def _billing_platform(
    chosen: AccountSettings, billing: BillingSettings, clock: Clock, sleep: Sleep, on_request: OnRequest | None
) -> Provider:
    return BillingPlatform(
        base_url=chosen.base_url,
        billing=billing,
        tenant_secret=chosen.api_key.get_secret_value(),
        mode=Mode(chosen.mode),
        account=chosen.name,
        clock=clock,
        sleep=sleep,
        on_request=on_request,
    )


def hook_dialect(chosen: AccountSettings) -> HookDialect:
    """How this account's webhooks are signed and written."""
    secrets = [secret.get_secret_value() for secret in chosen.webhook_secret]
    if chosen.billing is None:
        return QBitFlowHooks(secrets)
    return BillingPlatformHooks(secrets, chosen.billing)


def build_brand(chosen: AccountSettings) -> Brand:
    """The merchant as the customer knows it."""
    brand = chosen.brand
    return Brand(brand.name, brand.url, brand.color, brand.postal_address, brand.phrase)


def build_transport(smtp: SmtpSettings) -> SmtpTransport:
    """A mail server as configured. Raises `ConfigError` for a login in clear."""
    return SmtpTransport(
        smtp.host,
        smtp.port,
        security=smtp.security,
        connections=smtp.connections,
        username=smtp.username,
        password=None if smtp.password is None else smtp.password.get_secret_value(),
    )
