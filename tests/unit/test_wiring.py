from __future__ import annotations

import asyncio
import gc
import hmac
import re
import stat
import tomllib
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from monitor.clock import SystemClock
from monitor.config import BillingSettings, PaymentFields, Settings, load_settings
from monitor.config.tables import DatabaseSettings
from monitor.domain.model import Kind, Mode
from monitor.errors import ConfigError
from monitor.providers.billing_platform import BillingPlatform
from monitor.providers.hooks import Refusal, Told
from monitor.wiring.accounts import build_account, hook_dialect
from monitor.wiring.keys import address_mac, loaded_secrets
from monitor.wiring.place import Schema, prepare_state_dir
from monitor.wiring.process import wired

ROOT = Path(__file__).parents[2]
KEY = "sk_01980001-0003-7000-8000-000000000000_test_00"


def settings(tmp_path, **account) -> Settings:
    return Settings(
        state_dir=tmp_path / "var",
        database={"url": "postgresql://monitor:canary-db@db/monitor"},
        smtp={"host": "mx.example", "port": 465, "security": "tls", "username": "a", "password": "canary-smtp"},
        guard={
            "share": "0.3",
            "small": 7,
            "missing": "0.2",
            "mails_factor": "3",
            "unknown": "0.05",
            "per_address_24h": 3,
        },
        accounts={
            "acme": {
                "provider": "qbitflow-v2",
                "mode": "test",
                "base_url": "http://127.0.0.1:1/v2",
                "api_key": KEY,
                "sender": "Acme <billing@acme.example>",
                "brand": {"name": "Acme", "url": "https://acme.example", "phrase": "blue heron"},
                "timezone": "Europe/Budapest",
                "window": "09:00-17:00",
                "first_run": "notify",
                "link_hosts": ["qbitflow.app"],
                "webhook_secret": "canary-hook",
                **account,
            }
        },
    )


def account(chosen: Settings):
    built = build_account(chosen, "acme", clock=SystemClock(), sleep=asyncio.sleep)
    asyncio.run(built.provider.aclose())
    return built


def test_every_choice_of_an_account_reaches_the_use_cases(tmp_path):
    built = account(settings(tmp_path))
    assert (built.name, built.mode, built.zone, built.notify_first) == ("acme", Mode.TEST, "Europe/Budapest", True)
    assert (built.sender_address, built.reply_to) == ("billing@acme.example", "billing@acme.example")
    assert (built.window.opens, built.window.closes) == (time(9), time(17))
    assert built.link_hosts == {"qbitflow.app", "acme.example"}
    assert (built.brand.phrase, built.brand.color) == ("blue heron", "#3456d1")
    limits = built.guard
    assert (limits.share, limits.small, limits.missing) == (Decimal("0.3"), 7, Decimal("0.2"))
    assert (limits.mails_factor, limits.unknown, limits.per_address_24h) == (3, Decimal("0.05"), 3)


def test_every_name_of_the_billing_platform_reaches_its_provider(tmp_path):
    changed = {
        "login_path": "/a",
        "login_id_field": "b",
        "login_secret_field": "c",
        "token_field": "d",
        "token_ttl_s": 61,
        "token_margin_s": 1,
        "payments_path": "/e",
        "payment_path": "/f/{id}",
        "list_all_users": False,
        "decimals": {"EUR": 2},
    }
    fields = dict(zip(PaymentFields.model_fields, "ghijklmno", strict=True))
    billing = {"tenant_id": "t-1", "field_map": fields, **changed}
    built = account(settings(tmp_path, provider="billing-platform", api_key="hush", billing=billing))
    assert isinstance(built.provider, BillingPlatform)
    assert built.provider.billing == BillingSettings(**billing)


def test_an_account_has_the_optional_mails_that_it_names(tmp_path):
    assert account(settings(tmp_path)).optional_mails == frozenset()
    wanted = ["payment_succeeded", "subscription_created"]
    assert account(settings(tmp_path, optional_mails=wanted)).optional_mails == frozenset(map(Kind, wanted))


def test_an_account_of_api_v1_reads_known_ids_as_configured(tmp_path):
    built = account(
        settings(tmp_path, provider="qbitflow-v1", read_at_once=3, daily_requests=500, on_behalf_of="7", run_minutes=30)
    )
    assert (built.provider.name, built.provider_name) == ("qbitflow-v1", "qbitflow-v1")
    assert (built.read_at_once, built.daily_requests, built.run_time) == (3, 500, timedelta(minutes=30))


def test_campaigns_of_ones_own_are_refused_and_never_silently_ignored(tmp_path):
    with pytest.raises(ConfigError, match=r"accounts\.acme\.campaigns: .* later version"):
        account(settings(tmp_path, campaigns=tmp_path / "c.toml"))


def test_a_mailbox_has_one_hash_however_it_is_spelled_and_another_under_another_key():
    mac, other = address_mac(b"k" * 32), address_mac(b"x" * 32)
    assert mac("Anna@Customer.example") == mac(" anna@customer.EXAMPLE ") != mac("ann@customer.example")
    assert mac("anna@bücher.example") == mac("anna@xn--bcher-kva.example")
    assert mac("anna@customer.example") != other("anna@customer.example")
    assert len(mac("anna@customer.example")) == 32


@pytest.mark.parametrize("text", ["", "no address", "a@@b", "a@x.example, b@x.example", "\ud800@x.example", "x" * 999])
def test_what_is_no_address_has_a_hash_all_the_same(text):
    mac = address_mac(b"k" * 32)
    assert mac(text) == mac(f" {text.upper()} ")


def test_the_state_folder_is_made_for_its_owner_alone(tmp_path):
    folder = prepare_state_dir(settings(tmp_path))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "var").write_text("")
    with pytest.raises(ConfigError, match="state_dir"):
        prepare_state_dir(settings(tmp_path))


def test_every_secret_is_known_to_the_log(tmp_path):
    told = " ".join(loaded_secrets(settings(tmp_path)))
    assert all(secret in told for secret in (KEY, "canary-db", "canary-smtp", "canary-hook"))


def test_every_part_of_how_the_billing_platform_signs_reaches_its_verifier(tmp_path):
    billing = {
        "tenant_id": "t-1",
        "webhook_header": "X-Sig",
        "webhook_prefix": "hmac=",
        "webhook_algorithm": "sha512",
        "webhook_timestamp_header": "X-Time",
        "webhook_tolerance_s": 10,
        "event_map": {"payment.done": "SUCCEEDED"},
    }
    chosen = settings(
        tmp_path, provider="billing-platform", api_key="hush", billing=billing, webhook_secret="bp"
    ).account("acme")
    dialect = hook_dialect(chosen)
    now, body = (
        datetime(2026, 4, 2, 9, tzinfo=UTC),
        b'{"eventId":"1","eventType":"payment.done","data":{"paymentId":"bp-1"}}',
    )
    stamp = str(int(now.timestamp()) - 10)
    made = hmac.new(b"bp", stamp.encode() + b"." + body, "sha512").hexdigest()
    assert dialect.refusal({"x-sig": f"hmac={made}", "x-time": stamp}, body, now) is None
    assert (
        dialect.refusal({"x-sig": f"hmac={made}", "x-time": stamp}, body, now + timedelta(seconds=1)) is Refusal.STALE
    )
    assert dialect.read({}, body).told is Told.FACT


async def test_a_process_looks_for_garbage_cycles_seldom_while_it_works_and_as_before_afterwards(tmp_path):
    usual, before = gc.get_threshold(), (700, 10, 10)  # Python's own; the tests themselves look seldom too
    gc.set_threshold(*before)
    chosen = settings(tmp_path).model_copy(update={"database": DatabaseSettings(url=f"sqlite:///{tmp_path}/m.db")})
    try:
        async with wired(chosen, schema=Schema.UNTOUCHED):
            assert gc.get_threshold()[0] > 20 * before[0]
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*usual)


def shown_in_the_guide() -> dict[str, str]:
    """Each account of docs/providers.md, by its provider."""
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "providers.md").read_text(), flags=re.DOTALL)
    whole = [block for block in blocks if "provider = " in block]
    return {tomllib.loads(block)["accounts"].popitem()[1]["provider"]: block for block in whole}


def test_the_guide_shows_an_account_of_each_provider():
    assert sorted(shown_in_the_guide()) == ["billing-platform", "qbitflow-v1", "qbitflow-v2"]


@pytest.mark.parametrize("provider", shown_in_the_guide())
async def test_an_account_as_the_guide_shows_it_is_built(tmp_path, provider):
    secret = tmp_path / "secret"
    secret.write_text("sk_1_live_0123456789abcdef\n")
    secret.chmod(0o600)
    block = re.sub(r"/run/credentials/[\w-]+", str(secret), shown_in_the_guide()[provider])
    file = tmp_path / "monitor.toml"
    file.write_text(f'state_dir = "{tmp_path}"\n[smtp]\nhost = "127.0.0.1"\nport = 1025\nsecurity = "none"\n{block}')
    file.chmod(0o600)
    async with wired(load_settings(file, {"PATH": ""})) as wiring:
        (name,) = wiring.settings.accounts
        built = wiring.account(name)
        assert (built.provider_name, built.provider.name) == (provider, provider)
        assert built.mode is Mode.LIVE
