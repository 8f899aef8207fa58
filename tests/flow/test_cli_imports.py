"""`import-ids`, `import-contacts`, and the demo over an API that cannot list: as a user types them."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.shell import NOW, START, shop_of


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with shop_of(tmp_path, size=8, trials=2) as shop:
        shop.configure(provider="qbitflow-v1", url=shop.sandbox.server.v1_url)
        yield shop


def test_ids_of_a_file_are_read_by_the_next_run_and_the_file_again_changes_nothing(shop):
    ids = sorted(shop.world.id_of(sub) for sub in shop.world.living())
    file = shop.folder / "ids.csv"
    file.write_text("subscription\n" + "\n".join([*ids, *"abcdefg"]) + "\n")
    told = shop.told("import-ids", "ids.csv")
    assert told.returncode == 1
    assert "17 lines: 10 new, 0 changed, 0 known already" in told.stdout
    assert "line 12: no subscription id" in told.stderr
    assert "... and 2 more lines" in told.stderr
    database = shop.folder / "monitor.db"
    before = database.read_bytes()
    plan = shop.told("run", "--dry-run", *NOW)
    assert plan.returncode == 0, plan.stderr
    assert database.read_bytes() == before
    assert "a test key of space v1:5/41" in " ".join(shop.told("check").stdout.split())
    run = shop.told("run", *NOW, "--format", "json")
    assert run.returncode == 0, run.stderr
    counts = json.loads(run.stdout)["accounts"][0]["run"]["counts"]
    assert (counts["new"], counts["requests_left"], counts["requests"] > 10) == (10, None, True)
    file.write_text("\n".join(ids))
    again = shop.told("import-ids", "ids.csv", "--account", "acme", "--format", "json")
    assert (again.returncode, json.loads(again.stdout)["new"]) == (0, 0)


def test_contacts_of_a_file_are_told_and_a_wrong_file_ends_with_2(shop):
    shop.told("run", *NOW)
    customer, other = (shop.world.ids.customer(n) for n in range(2))
    (shop.folder / "who.csv").write_text(
        f"customer,address,locale\n{customer},new@customer.example,de\n{other},,fr\nc-9,,en\n"
    )
    told = shop.told("import-contacts", "who.csv")
    assert told.returncode == 0, told.stderr
    assert "3 lines: 1 new, 2 changed" in told.stdout
    assert "1 customers have another address already; it was kept" in told.stdout
    assert "1 customers have no address" in told.stdout
    assert "2 changed" not in shop.told("import-contacts", "who.csv").stdout
    assert "1 changed" in shop.told("import-contacts", "who.csv", "--replace").stdout
    for text in (b"\xff\xfe", b"a,b\n"):
        (shop.folder / "bad.csv").write_bytes(text)
        wrong = shop.told("import-contacts", "bad.csv")
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("error: ")
    assert shop.told("import-ids", "nowhere.csv").returncode == 2
    shop.configure(provider="qbitflow-v2")
    assert "qbitflow-v1 only" in shop.told("import-ids", "who.csv").stderr
    second = (
        '[accounts.zulu]\nprovider = "qbitflow-v1"\nmode = "test"\nbase_url = "https://z.example"\napi_key = "sk_1_x"\n'
    )
    shop.configure(more=f'{second}sender = "a@z.example"\nbrand = {{ name = "Z", url = "https://z.example" }}')
    several = shop.told("import-ids", "who.csv")
    assert (several.returncode, "--account" in several.stderr) == (2, True)


@pytest.mark.no_cover  # traced, it would take twice as long and find nothing new
def test_the_demo_plays_over_api_v1_too(shop):
    told = shop.told("demo", "--provider", "qbitflow-v1")
    assert told.returncode == 0, told.stderr
    assert "0 mails sent: every mail goes once." in " ".join(told.stdout.split())
    assert "The guard holds the whole batch" in told.stdout


def test_usage_of_a_file_is_told_and_the_next_pass_mails_whoever_is_near_a_limit(shop, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # else who runs the tests decides where the plan breaks its sentence
    shop.told("run", *NOW)
    first, second, third = sorted(shop.world.id_of(sub) for sub in shop.world.living())[:3]
    file = shop.folder / "usage.csv"
    file.write_text(
        "subscription,used,limit,period_end,as_of\n"
        f"{first},402.50,500,2026-04-21T00:00:00Z,\n"
        f"{second},10,500,2026-04-21T00:00:00Z,2026-04-01T08:00:00Z\n"
        f"{third},500,500,2026-04-01T00:00:00Z,\n" + "".join(f"sub@{n},1,2,2026-04-21T00:00:00Z,\n" for n in range(6))
    )
    told = shop.told("import-usage", "usage.csv")
    assert told.returncode == 1, told.stderr
    assert "9 lines: 2 new, 0 changed, 0 known already" in told.stdout
    assert "1 are about a period that has ended: nothing is mailed about it" in told.stdout
    assert "line 5: this subscription is not known" in told.stderr
    assert "... and 1 more lines" in told.stderr
    plan = shop.told("run", "--dry-run", "--now", (START + timedelta(minutes=10)).isoformat())
    assert "Spending limit near" in plan.stdout, plan.stdout
    assert "at least 80 percent of their own limit is used" in plan.stdout
    file.write_text(
        f"subscription,used,limit,period_end,as_of\n{second},5,500,2026-04-21T00:00:00Z,2026-04-01T07:00:00Z\n"
    )
    older = shop.told("import-usage", "usage.csv", "--account", "acme")
    assert (older.returncode, "1 were measured before what is known already" in older.stdout) == (0, True)
    known = json.loads(shop.told("import-usage", "usage.csv", "--format", "json").stdout)
    assert known == {
        "account": "acme", "lines": 1, "new": 0, "changed": 0, "unchanged": 0, "older": 1, "over": 0, "bad": []
    }  # fmt: skip
    (shop.folder / "bad.csv").write_text("subscription,used\n")
    assert shop.told("import-usage", "bad.csv").returncode == 2
    assert shop.told("preview", "spending_limit_reached").returncode == 0
