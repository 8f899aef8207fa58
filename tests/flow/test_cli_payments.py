"""The billing platform and payments at the command line: set up, run, look."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from monitor.sandbox.till import stock
from monitor.sandbox.transitions import cause
from tests.shell import NOW, START, shop_of

LATER = ("--now", (START + timedelta(hours=2)).isoformat())


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("MONITOR_CONFIG", raising=False)
    with shop_of(tmp_path, 3) as opened:
        yield opened


@pytest.fixture
def tenant(shop):
    """The shop's account speaks to the billing platform."""
    till = shop.sandbox.server.platform.till
    shop.configure(
        provider="billing-platform",
        url=shop.sandbox.server.platform_url,
        key=till.tenant_secret,
        more=f'billing = {{ tenant_id = "{till.tenant_id}" }}',
    )
    return till


def test_the_billing_platform_is_pulled_told_and_listed(shop, tenant):
    assert shop.told("payments").stderr.startswith("No payment yet")
    shop.sandbox.call(lambda _world: stock(tenant, 130))
    first = shop.told("run", *NOW)
    assert first.returncode == 0, first.stderr
    assert "Payments   130 payments read\n" in first.stdout

    def act(world):
        world.advance(timedelta(hours=1))
        tenant.move(tenant.pay(1, 4990, "EUR"), "FAILED", "card declined")
        tenant.pay(2, 100, "HUF", status="HIBERNATING")

    shop.sandbox.call(act)
    second = shop.told("run", *LATER)
    assert "132 payments read, 1 event\n" in second.stdout
    assert shop.told("payments", "--limit", "2").stdout.splitlines()[2:4] == [
        '1 Apr 2026 12:00   bp-7132   one-off   "HIBERNATING"   100 HUF    u-2   —            ',
        "1 Apr 2026 12:00   bp-7131   one-off   failed          4990 EUR   u-1   card declined",
    ]
    listed = json.loads(shop.told("payments", "--status", "failed", "--limit", "1", "--format", "json").stdout)
    (item,) = listed["items"]
    assert listed["more"] is True
    assert (item["ext_id"], item["amount"], item["test"]) == ("bp-7131", "4990 EUR", True)
    assert [(event["kind"], event["source"]) for event in item["events"]] == [("payment_failed", "pull")]


def test_a_wrong_secret_names_the_two_settings(shop, tenant):
    shop.sandbox.call(lambda _world: setattr(shop.faults, "revoked", True))
    told = shop.told("check")
    assert told.returncode == 2
    assert "billing.tenant_id" in " ".join((told.stdout + told.stderr).split())


def test_a_platform_that_fails_makes_the_run_partial(shop, tenant):
    from monitor.sandbox import faults

    shop.faults.add(faults.error(400, "bad_request"), route="payments")
    told = shop.told("run", *NOW)
    assert told.returncode == 1
    assert "payments: " in told.stderr + told.stdout


def test_bills_are_listed_with_token_and_usd_and_narrowed(shop):
    for at in (NOW, LATER):  # what is as old as the baseline to the second comes with the second run
        assert shop.told("run", *at).returncode == 0
    listed = json.loads(shop.told("payments", "--kind", "bill", "--format", "json").stdout)["items"]
    assert len(listed) == 3
    one = listed[0]
    assert one["amount"].endswith("USD)")
    assert one["tx_hash"] in one["explorer_url"]
    own = json.loads(shop.told("payments", "-s", one["subscription_ext_id"], "--format", "json").stdout)["items"]
    assert own == [one]
    assert json.loads(shop.told("payments", "--since", "1d", "-a", "acme", "--format", "json").stdout)["items"] == []


def test_a_failed_try_is_told_by_our_word_beside_the_apis(shop, monkeypatch):
    def act(world):
        world.advance(timedelta(hours=1))
        cause(world, {"payment_failed:insufficient_balance": 1})

    assert shop.told("run", *NOW).returncode == 0
    shop.sandbox.call(act)
    assert shop.told("run", *LATER).returncode == 0
    (tried,) = json.loads(shop.told("payments", "--kind", "attempt", "--format", "json").stdout)["items"]
    assert (tried["cause"], tried["reason"]) == ("insufficient_balance", "insufficientBalance")
    monkeypatch.setenv("COLUMNS", "200")
    listed = shop.told("payments", "--kind", "attempt").stdout
    assert "the wallet held too little" in listed
    assert "insufficientBalance" not in listed


def test_no_payments_are_pulled_where_none_are_wanted(shop):
    shop.configure(more="payments = false")
    told = shop.told("run", *NOW)
    assert "Payments" not in told.stdout
    assert shop.faults.requests["payments"] == 0
