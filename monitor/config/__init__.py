"""The settings: what an operator may write (`settings`, `account`, `tables`), and how it is read (`load`)."""

from monitor.config.account import Account
from monitor.config.billing import BillingSettings, PaymentFields
from monitor.config.load import DEFAULT_FILES, default_file, load_settings
from monitor.config.secrets import secret_key
from monitor.config.settings import Settings
from monitor.config.tables import (
    AlertSettings,
    BrandSettings,
    DatabaseSettings,
    GuardSettings,
    SendWindow,
    SmtpSettings,
    WebSettings,
)

__all__ = [
    "DEFAULT_FILES",
    "Account",
    "AlertSettings",
    "BillingSettings",
    "BrandSettings",
    "DatabaseSettings",
    "GuardSettings",
    "PaymentFields",
    "SendWindow",
    "Settings",
    "SmtpSettings",
    "WebSettings",
    "default_file",
    "load_settings",
    "secret_key",
]
