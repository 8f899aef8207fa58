"""`import-ids`, `import-contacts`, and the demo over an API that cannot list: as a user types them."""

from __future__ import annotations

import json

import pytest

from tests.shell import NOW, shop_of


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


def test_the_demo_plays_over_api_v1_too(shop):
    told = shop.told("demo", "--provider", "qbitflow-v1")
    assert told.returncode == 0, told.stderr
    assert "0 mails sent: every mail goes once." in " ".join(told.stdout.split())
    assert "The guard holds the whole batch" in told.stdout
