"""Settings: what is read from where, and what is said when it is wrong."""

from __future__ import annotations

import os
from datetime import time
from decimal import Decimal
from pathlib import Path

import pytest

from monitor.config import Settings, default_file, load_settings, secret_key
from monitor.config.load import secret_origins
from monitor.errors import ConfigError

KEY = "sk_6f1c2d3e-0000-4000-8000-000000000001_test_secret"
BASE = """\
[accounts.acme]
provider = "qbitflow-v2"
mode = "test"
base_url = "https://api.example/v2"
api_key_file = "acme.key"
sender = "Acme Billing <billing@acme.example>"
brand = { name = "Acme", url = "https://acme.example" }
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writes the file with its secret; `add` goes before the account, `account` into it."""

    def write(add: str = "", account: str = "", *, without: str = "", base: str = BASE) -> Path:
        secret = tmp_path / "acme.key"
        secret.write_text(KEY + "\n")
        secret.chmod(0o600)
        kept = "\n".join(line for line in base.splitlines() if not (without and line.startswith(without)))
        file = tmp_path / "monitor.toml"
        file.write_text(f"{add}\n{kept}\n{account}\n")
        file.chmod(0o600)
        return file

    return write


def complaint(file: Path | None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ)
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


def test_the_smallest_file_gets_every_default(write, tmp_path):
    settings = load_settings(write(), {})
    account = settings.account("acme")
    assert account.name == "acme"
    assert account.api_key.get_secret_value() == KEY
    assert account.reply_to == account.sender_address == "billing@acme.example"
    assert (account.window.opens_at, account.window.closes_at) == (time(8), time(20))
    assert (account.first_run, account.mail_test_rows, account.schedule) == ("baseline", False, "0 7 * * *")
    assert account.allowed_hosts == {"acme.example"}
    assert account.webhook_secret == ()
    assert account.zone.key == "UTC"
    assert settings.guard_for("acme").share == Decimal("0.20")
    assert settings.smtp_for(account) is settings.smtp
    assert settings.state_dir == tmp_path / "var"
    assert settings.database.sqlalchemy_url == f"sqlite+aiosqlite:///{tmp_path}/monitor.db"


def test_the_shipped_example_loads():
    settings = load_settings(Path("config/monitor.toml"), {})
    assert list(settings.accounts) == ["acme"]
    assert settings.accounts["acme"].timezone == "Europe/Budapest"


def test_the_environment_names_the_file(write):
    assert load_settings(None, {"MONITOR_CONFIG": str(write())}).account("acme")


def test_the_environment_stands_over_the_file_down_to_single_settings(write):
    environ = {
        "MONITOR__SMTP__PORT": "2525",
        "MONITOR__ACCOUNTS__ACME__API_KEY": "sk_1_other",
        "MONITOR__ACCOUNTS__ACME__LINK_HOSTS": '["qbitflow.app"]',
        "MONITOR__ACCOUNTS__ACME__WEBHOOK_SECRET": "whsec_one",
        "MONITOR__GUARD__SHARE": "0.5",
        "HOME": "/nowhere",
    }
    settings = load_settings(write(), environ)
    account = settings.account("acme")
    assert settings.smtp.port == 2525
    assert account.api_key.get_secret_value() == "sk_1_other"
    assert account.link_hosts == ("qbitflow.app",)
    assert [secret.get_secret_value() for secret in account.webhook_secret] == ["whsec_one"]
    assert settings.guard.share == Decimal("0.5")


def test_a_variable_reaches_an_account_with_a_dash_in_its_name(write):
    file = write(base=BASE.replace("accounts.acme", "accounts.acme-eu"))
    settings = load_settings(file, {"MONITOR__ACCOUNTS__ACME_EU__LOCALE": "hu"})
    assert settings.account("acme-eu").locale == "hu"


def test_the_environment_alone_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prefix = "MONITOR__ACCOUNTS__ACME__"
    environ = {
        f"{prefix}PROVIDER": "qbitflow-v2",
        f"{prefix}MODE": "test",
        f"{prefix}BASE_URL": "https://api.example/v2",
        f"{prefix}API_KEY": KEY,
        f"{prefix}SENDER": "billing@acme.example",
        f"{prefix}BRAND": '{"name": "Acme", "url": "https://acme.example"}',
        "MONITOR__STATE_DIR": "state",
    }
    settings = load_settings(None, environ)
    assert settings.state_dir == tmp_path / "state"
    bad = complaint(None, **{**environ, f"{prefix}MODE": "prod"})
    assert bad == f"accounts.acme.mode (environment variable {prefix}MODE): must be 'live' or 'test'"
    del environ[f"{prefix}SENDER"]
    assert complaint(None, **environ).startswith("accounts.acme.sender (environment): is missing")


def test_relative_paths_of_the_file_start_in_its_folder(write, tmp_path):
    add = 'state_dir = "state"\nsecret_key_file = "k"\ntemplates_dir = "../t"\n[database]\nurl = "sqlite:///db/m.db"'
    settings = load_settings(write(add, 'campaigns = "c.toml"'), {})
    assert settings.state_dir == tmp_path / "state"
    assert settings.secret_key_file == tmp_path / "k"
    assert settings.templates_dir == tmp_path.parent / "t"
    assert settings.database.sqlalchemy_url == f"sqlite+aiosqlite:///{tmp_path}/db/m.db"
    assert settings.account("acme").campaigns == tmp_path / "c.toml"


def test_a_postgresql_url_gets_its_driver_and_keeps_its_password_to_itself(write):
    settings = load_settings(write('[database]\nurl = "postgresql://u:pw@host/db"'), {})
    assert settings.database.sqlalchemy_url == "postgresql+psycopg://u:pw@host/db"
    assert not settings.database.is_sqlite
    assert "pw" not in repr(settings.database)


def test_no_secret_stands_in_a_repr(write):
    assert "secret" not in repr(load_settings(write(), {}).account("acme")).replace("webhook_secret", "")


def test_an_account_may_have_its_own_server_and_limits(write):
    add = '[smtp]\nhost = "mail.example"\nsecurity = "tls"\nport = 465\nusername = "u"\n[guard]\nsmall = 3'
    own = "[accounts.acme.smtp]\nport = 466\nconnections = 2\n[accounts.acme.guard]\nshare = 0.5"
    settings = load_settings(write(add, own), {"MONITOR__SMTP__PASSWORD": "pw"})
    smtp = settings.smtp_for("acme")
    assert (smtp.host, smtp.port, smtp.username) == ("mail.example", 466, "u")
    assert (smtp.connections, settings.smtp.connections) == (2, 8)
    assert (settings.guard_for("acme").share, settings.guard_for("acme").small) == (Decimal("0.5"), 3)
    assert settings.guard.share == Decimal("0.20")


def test_a_server_of_another_host_does_not_get_the_common_password(write):
    add = '[smtp]\nhost = "mail.example"\nsecurity = "tls"\nusername = "u"'
    own = '[accounts.acme.smtp]\nhost = "other.example"\nsecurity = "starttls"'
    smtp = load_settings(write(add, own), {"MONITOR__SMTP__PASSWORD": "pw"}).smtp_for("acme")
    assert (smtp.host, smtp.username, smtp.password) == ("other.example", None, None)


def test_a_wish_for_an_unknown_account_lists_the_known_ones(write):
    with pytest.raises(ConfigError, match=r"accounts.acne: .* there is: acme"):
        load_settings(write(), {}).smtp_for("acne")


# --- secrets ------------------------------------------------------------------------------------------------------


def test_a_systemd_credential_fills_a_secret_that_nothing_else_names(write, tmp_path):
    credential = tmp_path / "accounts.acme.api_key"
    credential.write_text("sk_1_credential")
    credential.chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert (
        load_settings(write(without="api_key"), environ).account("acme").api_key.get_secret_value() == "sk_1_credential"
    )
    assert load_settings(write(), environ).account("acme").api_key.get_secret_value() == KEY


def test_a_secret_file_named_in_the_environment_replaces_the_value_of_the_file(write, tmp_path):
    other = tmp_path / "other.key"
    other.write_text("sk_2_other")
    other.chmod(0o600)
    file = write(account='api_key = "sk_3_inline"', without="api_key_file")
    settings = load_settings(file, {"MONITOR__ACCOUNTS__ACME__API_KEY_FILE": str(other)})
    assert settings.account("acme").api_key.get_secret_value() == "sk_2_other"


def test_two_webhook_secrets_are_read_while_they_are_rotated(write, tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).write_text(f"whsec_{name}\n")
        (tmp_path / name).chmod(0o600)
    account = load_settings(write(account='webhook_secret_file = ["new", "old"]'), {}).account("acme")
    assert [secret.get_secret_value() for secret in account.webhook_secret] == ["whsec_new", "whsec_old"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_secret_file_that_others_can_reach_is_refused(write, tmp_path, mode):
    file = write()
    (tmp_path / "acme.key").chmod(mode)
    said = complaint(file)
    assert said.startswith(
        f"accounts.acme.api_key ({file}, line 6): the secret file {tmp_path}/acme.key can be read by others"
    )
    assert said.endswith(f"(mode {mode:04o}); chmod 600 it")


def test_a_missing_secret_file_is_one_complaint_and_not_two(write, tmp_path):
    file = write()
    (tmp_path / "acme.key").unlink()
    assert complaint(file).splitlines() == [
        f"accounts.acme.api_key ({file}, line 6): the secret file {tmp_path}/acme.key does not exist; create it with mode 0600"
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "cannot be read (it is not UTF-8 text)")],
)
def test_a_secret_file_without_a_secret_is_refused(write, tmp_path, content, text):
    file = write()
    (tmp_path / "acme.key").write_bytes(content)
    assert text in complaint(file)


def test_a_folder_instead_of_a_secret_file_is_refused(write, tmp_path):
    file = write()
    (tmp_path / "acme.key").unlink()
    (tmp_path / "acme.key").mkdir(mode=0o700)
    assert "cannot be read" in complaint(file)


def test_a_path_of_the_wrong_type_is_refused(write):
    assert "api_key_file must be a path" in complaint(write(account="api_key_file = 5", without="api_key_file"))
    assert "accounts.acme.webhook_secret" in complaint(write(account="webhook_secret_file = [5]"))


def test_a_database_password_in_a_file_that_others_can_read_is_refused(write):
    file = write('database.url = "postgresql://monitor:letmein@db/monitor"')
    file.chmod(0o644)
    said = complaint(file)
    assert "database.url" in said
    assert "stands in a file that others can read" in said
    assert "letmein" not in said
    file = write('database.url = "postgresql://monitor@db/monitor"')
    file.chmod(0o644)
    assert load_settings(file, {})


def test_it_is_told_where_each_secret_comes_from_and_none_is_read(write, tmp_path):
    file = write('database.url = "postgresql://m:letmein@db/m"\nalerts = {}', 'webhook_secret = "hook-secret"')
    environ = {
        "MONITOR__SMTP__USERNAME": "acme",
        "MONITOR__SMTP__PASSWORD": "x",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    (tmp_path / "alerts.urls").write_text("mailtos://x")
    (tmp_path / "secret_key").write_text("ab" * 32)
    found = {one.setting: (one.file, one.in_settings) for one in secret_origins(file, environ)}
    assert found == {
        "accounts.acme.api_key": (tmp_path / "acme.key", False),
        "alerts.urls": (tmp_path / "alerts.urls", False),
        "accounts.acme.webhook_secret": (file, True),
        "database.url": (file, True),
        "smtp.password": (None, False),
        "secret_key": (tmp_path / "secret_key", False),
    }


def test_a_value_beside_its_file_is_refused(write):
    said = complaint(write(account=f'api_key = "{KEY}"'))
    assert "is given twice, as api_key and as api_key_file; remove one" in said


def test_a_unit_of_systemd_without_its_credential_is_told_which_line_it_lacks(write, tmp_path):
    line = (
        'In a systemd unit: the line "LoadCredential=accounts.acme.api_key:subscription-monitor.accounts.acme.api_key" '
        "and the secret in /etc/credstore/subscription-monitor.accounts.acme.api_key"
    )
    file = write(without="api_key_file")
    assert line in complaint(file, INVOCATION_ID="0123")
    assert line in complaint(file, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert "LoadCredential" not in complaint(file)


def test_a_secret_in_a_file_that_others_can_read_is_refused(write):
    file = write(account=f'api_key = "{KEY}"', without="api_key_file")
    assert load_settings(file, {})
    file.chmod(0o644)
    said = complaint(file)
    assert said.startswith(
        f"accounts.acme.api_key ({file}, line 8): stands in a file that others can read; chmod 600 it"
    )


def test_the_key_of_a_server_on_this_machine_is_no_secret(write):
    base = BASE.replace("https://api.example/v2", "http://127.0.0.1:8000/v2")
    file = write(account='api_key = "sk_0_sandbox"', without="api_key_file", base=base)
    file.chmod(0o644)
    assert load_settings(file, {})


def test_no_complaint_quotes_a_secret(write):
    said = complaint(write(account='api_key = "canary no key"\nwebhook_secret = 5', without="api_key_file"))
    assert "canary" not in said


def test_a_database_url_with_a_password_may_lie_in_a_file(write, tmp_path):
    (tmp_path / "dsn").write_text("postgresql://u:pw@host/db")
    (tmp_path / "dsn").chmod(0o600)
    settings = load_settings(write('[database]\nurl_file = "dsn"'), {})
    assert settings.database.sqlalchemy_url == "postgresql+psycopg://u:pw@host/db"
    assert not settings.database.is_sqlite


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = {
    "an unknown key": ("", 'sendr = "x"', "accounts.acme.sendr", "is no setting; did you mean sender?"),
    "an unknown table": ("[smpt]", "", "smpt", "did you mean smtp?"),
    "an unknown key of a table": ("[guard]\nshares = 1", "", "guard.shares", "did you mean share?"),
    "an unknown key, nothing near": ("[database]\nzzz = 1", "", "database.zzz", "known here: url"),
    "an unknown secret": ("[smtp]\npasword_file = 1", "", "smtp.pasword_file", "did you mean password_file?"),
    "a key of an account's table": (
        "",
        "[accounts.acme.smtp]\nhots = 1",
        "accounts.acme.smtp.hots",
        "did you mean host?",
    ),
    "a name": ("", 'name = "x"', "accounts.acme.name", "is no setting; the account's name is the table's"),
    "text for a number": ('[smtp]\nport = "x"', "", "smtp.port", "must be a whole number"),
    "a broken number": ("[smtp]\nport = 25.5", "", "smtp.port", "must be a whole number"),
    "a number for text": ("[smtp]\nhost = 5", "", "smtp.host", "must be text in quotes"),
    "a port out of range": ("[smtp]\nport = 70000", "", "smtp.port", "65535"),
    "text for a table": ('smtp = "x"', "", "smtp", "must be a table"),
    "text for a switch": ("", 'mail_test_rows = "perhaps"', "accounts.acme.mail_test_rows", "must be true or false"),
    "text for a list": ("", 'link_hosts = "a.example"', "accounts.acme.link_hosts", "must be a list in brackets"),
    "text for a share": ('[guard]\nshare = "x"', "", "guard.share", "must be a number"),
    "no connection": ("[smtp]\nconnections = 0", "", "smtp.connections", "must be at least 1"),
    "too many connections": ("[smtp]\nconnections = 21", "", "smtp.connections", "must be at most 20"),
    "clear text to another machine": ('[smtp]\nhost = "mail.example"', "", "smtp.security", 'security = "starttls"'),
    "clear text to a near address": ('[smtp]\nhost = "10.0.0.1"', "", "smtp.security", "in clear"),
    "a login in clear": ('[smtp]\nusername = "u"\npassword = "p"', "", "smtp.username", "would be sent in clear"),
    "a login without a password": ('[smtp]\nsecurity = "tls"\nusername = "u"', "", "smtp.password", "is missing"),
    "a password without a user": ('[smtp]\nsecurity = "tls"\npassword = "p"', "", "smtp.username", "is missing"),
    "another kind of security": (
        '[smtp]\nsecurity = "ssl"',
        "",
        "smtp.security",
        "must be 'none', 'starttls' or 'tls'",
    ),
    "an unknown zone": ("", 'timezone = "Europe/Budapset"', "accounts.acme.timezone", "is no time zone"),
    "a zone that is a path": ("", 'timezone = "../etc"', "accounts.acme.timezone", "is no time zone"),
    "four cron fields": ("", 'schedule = "0 7 * *"', "accounts.acme.schedule", "has 4 fields instead of five"),
    "a cron nickname": ("", 'schedule = "@daily"', "accounts.acme.schedule", "has 1 field instead of five"),
    "a language's name": ("", 'locale = "English"', "accounts.acme.locale", 'is no language; write it like "en"'),
    "a bad cron minute": ("", 'schedule = "60 7 * * *"', "accounts.acme.schedule", "has a bad minute field '60'"),
    "a bad cron weekday": ("", 'schedule = "0 7 * * 8"', "accounts.acme.schedule", "0 and 7 = Sunday"),
    "a nil member": (
        "",
        'on_behalf_of = "00000000-0000-0000-0000-000000000000"',
        "accounts.acme.on_behalf_of",
        "nil id",
    ),
    "a member of v1 on v2": ("", 'on_behalf_of = "17"', "accounts.acme.on_behalf_of", "is no UUID"),
    "a budget of v1 on v2": ("", "daily_requests = 5000", "accounts.acme.daily_requests", "is for qbitflow-v1"),
    "reads of v1 on v2": ("", "read_at_once = 8", "accounts.acme.read_at_once", "is for qbitflow-v1"),
    "an optional mail that is none": (
        "",
        'optional_mails = ["payment_failed"]',
        "accounts.acme.optional_mails[0]",
        "payment_succeeded",
    ),
    "receipts without payments": (
        "",
        'payments = false\noptional_mails = ["payment_succeeded"]',
        "accounts.acme.optional_mails",
        "payments is false",
    ),
    "a bad reply_to": ("", 'reply_to = "help"', "accounts.acme.reply_to", "is no mail address"),
    "two addresses": ("", 'reply_to = "a@x.example, b@x.example"', "accounts.acme.reply_to", "one address"),
    "a line break in an address": ("", 'reply_to = "A\\u000ab <b@x.example>"', "accounts.acme.reply_to", "address"),
    "a link host with a scheme": (
        "",
        'link_hosts = ["https://a.example"]',
        "accounts.acme.link_hosts[0]",
        "no https://",
    ),
    "a link host with a star": (
        "",
        'link_hosts = ["a.example", "*.x"]',
        "accounts.acme.link_hosts[1]",
        "is no host name",
    ),
    "a link elsewhere": (
        "",
        'manage_url = "https://else.example/"',
        "accounts.acme.manage_url",
        "add the host to link_hosts",
    ),
    "a link in clear": (
        "",
        'manage_url = "http://acme.example/"',
        "accounts.acme.manage_url",
        "must begin with https://",
    ),
    "a window that ends before it begins": ("", 'window = "20:00-08:00"', "accounts.acme.window", "must open before"),
    "a window of no length": ("", 'window = "08:00-08:00"', "accounts.acme.window", "must open before"),
    "a population of none": ("[guard]\nmin_population = 0", "", "guard.min_population", "must be at least 1"),
    "fewer than no rows": ("[guard]\nsmall = -1", "", "guard.small", "must be at least 0"),
    "no mail at all": ("[guard]\nper_address_24h = 0", "", "guard.per_address_24h", "must be at least 1"),
    "a NUL in a name": ("", 'reply_to = "A\\u0000b <b@x.example>"', "accounts.acme.reply_to", "in one line"),
    "a window of words": ("", 'window = "by day"', "accounts.acme.window", '"08:00-20:00"'),
    "a window of a wrong type": ("", "window = 8", "accounts.acme.window", "must be a table"),
    "a bad locale": ("", 'locale = "english!"', "accounts.acme.locale", "is no language"),
    "a bad first run": ("", 'first_run = "all"', "accounts.acme.first_run", "must be 'baseline' or 'notify'"),
    "a share of nothing": ("[guard]\nshare = 0", "", "guard.share", "must be more than 0"),
    "a share above one": ("[guard]\nmissing = 1.5", "", "guard.missing", "must be at most 1"),
    "a factor below one": ("[guard]\nmails_factor = 0", "", "guard.mails_factor", "must be at least 1"),
    "an account's own limit": (
        "",
        "[accounts.acme.guard]\nunknown = 2",
        "accounts.acme.guard.unknown",
        "must be at most 1",
    ),
    "more mails than the urgent ones": (
        "[guard]\nper_address_24h = 5",
        "",
        "guard.per_address_24h",
        "must be at most 4",
    ),
    "another database": (
        '[database]\nurl = "mysql://x"',
        "",
        "database.url",
        "must begin with sqlite:/// or postgresql://",
    ),
    "a database in memory": ('[database]\nurl = "sqlite:///:memory:"', "", "database.url", "must name a file"),
    "a database without a file": ('[database]\nurl = "sqlite://"', "", "database.url", "must name a file"),
    "an account that is none": ("[accounts]\nfoo = 5", "", "accounts.foo", "must be a table"),
    "a path of a wrong type": ("state_dir = 5", "", "state_dir", "must be a path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_setting_is_refused_with_its_name_its_line_and_the_fix(write, case):
    add, account, setting, text = REFUSED[case]
    file = write(add, account)
    said = [line for line in complaint(file).splitlines() if line.startswith(f"{setting} (")]
    assert said, complaint(file)
    assert text in said[0]
    assert f"({file}, " in said[0]


CHANGED = {
    "a provider nobody knows": ("provider", 'provider = "stripe"', "provider", "'qbitflow-v2', 'qbitflow-v1' or"),
    "an API in clear": ("base_url", 'base_url = "http://api.example"', "base_url", "must begin with https://"),
    "an API with a password": (
        "base_url",
        'base_url = "https://u:p@api.example"',
        "base_url",
        "without user, password",
    ),
    "an API that is no address": ("base_url", 'base_url = "api.example"', "base_url", "is no web address"),
    "an API with a broken port": ("base_url", 'base_url = "https://api.example:x"', "base_url", "is no web address"),
    "an API with a line break": (
        "base_url",
        'base_url = "https://api.example/\\u000a"',
        "base_url",
        "is no web address",
    ),
    "a sender that is no address": ("sender", 'sender = "Acme"', "sender", "is no mail address"),
    "a brand without a name": ("brand", 'brand = { url = "https://a.example" }', "brand.name", "is missing; add it"),
    "a brand with a typing error": (
        "brand",
        'brand = { nmae = "A", url = "https://a.example" }',
        "brand.nmae",
        "name?",
    ),
    "a live key on a test account": ("mode", 'mode = "live"', "mode", "is 'live' but the key is a test key"),
    "no key": (
        "api_key",
        "",
        "api_key",
        'is missing; write api_key_file = "path" or set MONITOR__ACCOUNTS__ACME__API_KEY',
    ),
    "a key of something else": ("api_key", 'api_key = "pk_1"', "api_key", "it must start with sk_"),
    "a key with a line break": ("api_key", 'api_key = "sk_1\\u000aX: y"', "api_key", "have no spaces"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_wrong_account_is_refused(write, case):
    without, account, setting, text = CHANGED[case]
    said = complaint(write(account=account, without=without)).splitlines()
    assert [line for line in said if line.startswith(f"accounts.acme.{setting} (") and text in line], said


def test_a_live_key_is_refused_on_a_test_account_and_an_old_key_cannot_tell(write):
    live = "sk_6f1c2d3e-0000-4000-8000-000000000001_live_x"
    said = complaint(write(), MONITOR__ACCOUNTS__ACME__API_KEY=live)
    assert "accounts.acme.mode" in said
    assert live not in said
    assert load_settings(write(), {"MONITOR__ACCOUNTS__ACME__API_KEY": "sk_123_live_x"})


@pytest.mark.parametrize("name", ["Acme", "a__b", "-a", '"a b"', '"a/b"'])
def test_an_account_needs_a_name_that_fits_urls_and_variables(write, name):
    said = complaint(write(base=BASE.replace("accounts.acme", f"accounts.{name}")))
    assert "is no account name; use a-z, 0-9 and single - or _" in said


def test_a_token_of_the_billing_platform_has_no_shape(write):
    file = write(account='provider = "billing-platform"\nbilling = { tenant_id = "t-1" }', without="provider")
    loaded = load_settings(file, {"MONITOR__ACCOUNTS__ACME__API_KEY": "opaque"}).account("acme")
    assert loaded.billing.tenant_id == "t-1"
    assert (loaded.billing.login_path, loaded.billing.token_ttl_s, loaded.billing.token_margin_s) == (
        "/auth/login",
        82_800,
        300,
    )
    assert loaded.billing.field_map.user == "userId"


def test_the_billing_platform_needs_its_table_and_nobody_else_may_have_one(write):
    said = complaint(write(account='provider = "billing-platform"', without="provider"))
    assert "accounts.acme.billing" in said
    assert "tenant_id" in said
    said = complaint(write(account='billing = { tenant_id = "t-1" }'))
    assert "accounts.acme.billing" in said
    assert "remove it" in said


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ('{ tenant_id = "" }', "billing.tenant_id"),
        ('{ tenant_id = "t", payments_path = "payments" }', "billing.payments_path"),
        ('{ tenant_id = "t", payments_path = "/pay?x" }', "billing.payments_path"),
        ('{ tenant_id = "t", payment_path = "/payments" }', "billing.payment_path"),
        ('{ tenant_id = "t", token_ttl_s = 1 }', "billing.token_ttl_s"),
        ('{ tenant_id = "t", field_map = { usr = "x" } }', "did you mean user?"),
        ('{ tenant_id = "t", field_map = { user = "" } }', "billing.field_map.user"),
        ('{ tenant_id = "t", decimals = { EUR = 31 } }', "billing.decimals"),
        ('{ tenant_id = "t", decimals = { euro = 2 } }', "billing.decimals"),
        ('{ tenant_id = "t" }\noptional_mails = ["subscription_created"]', "has no subscriptions"),
    ],
)
def test_a_name_of_the_billing_platform_that_cannot_work_is_refused(write, table, where):
    said = complaint(write(account=f'provider = "billing-platform"\nbilling = {table}', without="provider"))
    assert where in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_clear_text_is_for_this_machine(write, host):
    assert load_settings(write(f'[smtp]\nhost = "{host}"'), {}).smtp.security == "none"


def test_a_bad_colour_is_not_the_concern_of_the_settings(write):
    file = write(account='brand = { name = "A", url = "https://a.example", color = "blue" }', without="brand")
    assert load_settings(file, {}).account("acme").brand.color == "blue"


def test_all_errors_are_told_at_once(write):
    said = complaint(
        write("[smtp]\nport = 0\nhots = 1", 'sendr = "x"'), MONITOR__NOTHING="1", MONITOR__GUARD__SMALL="x"
    )
    assert {line.split(" ")[0] for line in said.splitlines()} == {
        "smtp.port", "smtp.hots", "accounts.acme.sendr", "nothing", "guard.small",
    }  # fmt: skip


def test_an_unknown_variable_is_as_loud_as_an_unknown_key(write):
    assert complaint(write(), MONITOR__SMPT__PORT="25").startswith(
        "smpt (environment variable MONITOR__SMPT__PORT): is no"
    )
    said = complaint(write(), MONITOR__ACCOUNTS__ACME__BASE_ULR="x")
    assert said.startswith(
        "accounts.acme.base_ulr (environment variable MONITOR__ACCOUNTS__ACME__BASE_ULR): is no setting"
    )


def test_no_configuration_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "pass --config FILE or set MONITOR_CONFIG; `monitor init`" in complaint(None)


def test_the_file_in_the_usual_place_is_found(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write()
    (tmp_path / "config").mkdir()
    os.replace(file, tmp_path / "config" / "monitor.toml")
    os.replace(tmp_path / "acme.key", tmp_path / "config" / "acme.key")
    assert load_settings(None, {}).state_dir == tmp_path / "config" / "var"


@pytest.mark.parametrize("bind", ["127.0.0.1:8080", "0.0.0.0:80", "[::1]:0", "localhost:65535"])
def test_an_address_to_listen_on_is_host_and_port(write, bind):
    assert load_settings(write(f'[web]\nbind = "{bind}"'), {}).web.bind == bind


@pytest.mark.parametrize("bind", ["8080", ":8080", "::1:8080", "[::1]", "host:", "host:x", "host:65536", "[host]:1"])
def test_another_address_to_listen_on_is_refused(write, bind):
    assert "web.bind" in complaint(write(f'[web]\nbind = "{bind}"'))


def test_addresses_for_alerts_are_secrets_and_may_lie_in_files(write, tmp_path):
    file = tmp_path / "urls"
    file.write_text("ntfys://token@ntfy.example/topic\n")
    file.chmod(0o600)
    settings = load_settings(write('[alerts]\nurls_file = "urls"'), {})
    assert [url.get_secret_value() for url in settings.alerts.urls] == ["ntfys://token@ntfy.example/topic"]
    assert "token" not in repr(settings)
    two = load_settings(write(), {"MONITOR__ALERTS__URLS": '["json://a", "json://b"]'})
    assert len(two.alerts.urls) == 2


def test_an_alert_address_in_a_file_that_others_can_read_is_refused(write):
    file = write('[alerts]\nurls = ["ntfys://token@ntfy.example/topic"]')
    file.chmod(0o644)
    assert "alerts.urls" in complaint(file)


def test_an_accounts_heartbeat_goes_before_the_common_one(write):
    file = write('heartbeat_url = "https://hc.example/common"')
    assert load_settings(file, {}).heartbeat_for("acme") == "https://hc.example/common"
    own = load_settings(file, {"MONITOR__ACCOUNTS__ACME__HEARTBEAT_URL": "https://hc.example/own"})
    assert own.heartbeat_for("acme") == "https://hc.example/own"
    assert "heartbeat_url" in complaint(write('heartbeat_url = "http://hc.example/clear"'))


def test_a_schedule_that_never_fires_is_refused(write):
    assert "never comes" in complaint(write(account='schedule = "0 7 31 2 *"'))


def test_a_missing_file_is_named(tmp_path):
    assert (
        complaint(tmp_path / "no.toml")
        == f"{tmp_path}/no.toml: there is no such file; `monitor init {tmp_path}/no.toml` writes one"
    )


def test_an_unreadable_file_is_named(tmp_path):
    assert complaint(tmp_path).startswith(f"{tmp_path}: cannot be read (")
    file = tmp_path / "latin"
    file.write_bytes(b"# \xe9")
    assert complaint(file).endswith("cannot be read (it is not UTF-8)")


def test_broken_toml_is_named_with_its_line(write):
    assert "is not valid TOML" in complaint(write("[smtp"))
    assert "line 1" in complaint(write("[smtp"))


def test_no_account_is_no_configuration(tmp_path):
    file = tmp_path / "monitor.toml"
    file.write_text("[smtp]\nport = 25\n")
    assert complaint(file) == f"accounts ({file}): there is no account; add a table [accounts.yourname]"
    file.write_text("[accounts]\n")
    assert complaint(file).startswith(f"accounts ({file}, line 1): ")
    file.write_text("accounts = 5\n")
    assert complaint(file).startswith(f"accounts ({file}, line 1): must be a table")


# --- the key this product makes for itself ------------------------------------------------------------------------


@pytest.fixture
def settings(write) -> Settings:
    return load_settings(write(), {})


def test_the_secret_key_is_made_once_for_this_user_only(settings):
    key = secret_key(settings)
    file = settings.state_dir / "secret_key"
    assert len(key) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700
    assert secret_key(settings) == key
    assert list(settings.state_dir.iterdir()) == [file]


def test_two_processes_that_make_the_key_at_once_agree(settings, monkeypatch):
    from monitor.config import secrets

    real = Path.hardlink_to

    def slower(self, target):  # somebody else is faster between our look and our link
        self.write_text("ab" * 32)
        self.chmod(0o600)
        real(self, target)

    monkeypatch.setattr(secrets.Path, "hardlink_to", slower)
    assert secret_key(settings) == bytes.fromhex("ab" * 32)
    assert [file.name for file in settings.state_dir.iterdir()] == ["secret_key"]


def test_a_key_file_that_is_named_is_never_made(settings, tmp_path):
    named = settings.model_copy(update={"secret_key_file": tmp_path / "key"})
    with pytest.raises(ConfigError, match="secret_key_file: .*does not exist"):
        secret_key(named)


@pytest.mark.parametrize(("content", "text"), [("zz", "damaged"), ("ab", "shorter than 32 bytes")])
def test_a_damaged_key_is_refused(settings, content, text):
    settings.state_dir.mkdir()
    (settings.state_dir / "secret_key").write_text(content)
    (settings.state_dir / "secret_key").chmod(0o600)
    with pytest.raises(ConfigError, match=text):
        secret_key(settings)


def test_a_key_that_others_can_read_is_refused(settings):
    secret_key(settings)
    (settings.state_dir / "secret_key").chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        secret_key(settings)


def test_a_state_folder_that_cannot_be_made_is_named(settings):
    settings.state_dir.write_text("a file")
    with pytest.raises(ConfigError, match="state_dir .*make it writable"):
        secret_key(settings)


def test_a_systemd_credential_may_show_its_access_list_as_group_bits(tmp_path, monkeypatch):
    from monitor.config import secrets

    monkeypatch.setattr(secrets, "_SYSTEMD_CREDENTIALS", tmp_path)
    credential = tmp_path / "key"
    credential.write_text("x")
    credential.chmod(0o440)
    assert secrets.read_secret(credential) == "x"
    credential.chmod(0o444)
    with pytest.raises(ConfigError, match="can be read by others"):
        secrets.read_secret(credential)


def test_the_settings_file_of_the_working_directory_is_found_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_file() is None
    (tmp_path / "config").mkdir()
    (tmp_path / "config/monitor.toml").touch(mode=0o600)
    assert default_file() == Path("config/monitor.toml")
    (tmp_path / "monitor.toml").touch(mode=0o600)
    assert default_file() == Path("monitor.toml")
