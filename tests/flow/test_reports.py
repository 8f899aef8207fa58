"""Listings and the commands around the ledger: stable JSON, masked addresses, exit codes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from monitor.cli import decisions
from monitor.cli.main import main
from monitor.domain.guard import GuardLimits
from monitor.domain.model import BadRow
from monitor.errors import NotFoundError
from monitor.sandbox.seeding import healthy
from monitor.sandbox.transitions import cause
from monitor.store.catalog import suppress
from monitor.store.facts import put_in_quarantine
from monitor.store.schema import locks, notifications, runs
from monitor.store.views import Filter
from monitor.usecases.report import Reports
from tests.harness import staged

START = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).replace(hour=9, minute=0, second=0, microsecond=0)
"""For the commands, which go by the machine's own clock."""
SECRET = "never shown"
SETTINGS = """
state_dir = "{folder}/var"
[database]
url = "sqlite:///{folder}/monitor.db"
[accounts.acme]
provider = "qbitflow-v2"
mode = "live"
base_url = "http://127.0.0.1:9/v2"
api_key = "{key}"
sender = "Acme Billing <billing@acme.example>"
reply_to = "help@acme.example"
brand = {{ name = "Acme", url = "https://acme.example", color = "#3456d1" }}
timezone = "Europe/Budapest"
"""


@asynccontextmanager
async def played(url, folder, start=START):
    """A baseline with two old problems, a day with two mails sent, and a held batch of three."""
    world = healthy(30, trials=3, start=start)
    cause(world, {"payment_failed:insufficient_balance": 2})
    async with staged(world, url, folder) as stage:
        await stage.run()
        world.advance(timedelta(hours=1))
        cause(world, {"payment_failed:approval_revoked": 2})
        await stage.run()
        await stage.deliver()
        world.advance(timedelta(hours=1))
        stage.change(guard=GuardLimits(small=0, min_population=1_000))
        cause(world, {"trial_ending": 3})
        await stage.run()
        row = await stage.row()
        async with stage.db.write() as conn:
            await put_in_quarantine(conn, row.id, [BadRow(SECRET.encode(), "status: missing", "sub_bad")], world.now)
            await suppress(
                conn, row.id, stage.tools.address_mac("x@y.org"), scope="all", reason="5.1.1", by="delivery", at=START
            )
        yield stage


@pytest.fixture
async def stage(database_url, tmp_path):
    async with played(database_url, tmp_path / "var") as made:
        yield made


async def test_every_listing_has_stable_keys_and_tells_when_there_is_more(stage):
    reports, few = Reports(stage.db), Filter(limit=2)
    for read, keys in (
        (
            reports.events,
            {
                "id",
                "account",
                "subscription",
                "seq",
                "at",
                "kind",
                "old",
                "new",
                "cause",
                "source",
                "run_id",
                "symbol",
                "decimals",
            },
        ),
        (
            reports.episodes,
            {
                "id",
                "account",
                "subscription",
                "kind",
                "opened_at",
                "deadline_at",
                "next_step_at",
                "muted",
                "closed_at",
                "close_reason",
            },
        ),
        (
            reports.runs,
            {
                "id",
                "account",
                "trigger",
                "slot",
                "state",
                "baseline",
                "now_at",
                "started_at",
                "ended_at",
                "counts",
                "problems",
            },
        ),
    ):
        listing = await read(few)
        assert listing.more and len(listing.items) == 2 and set(listing.items[0]) == keys
        assert set(listing.as_json()) == {"items", "more"}
    mails = await reports.outbox(Filter())
    assert not mails.more and len(mails.items) == 7
    assert {mail["address"] for mail in mails.items} == {"c***@customer.example"}
    whole = await Reports(stage.db, show_addresses=True).outbox(Filter())
    assert all(mail["address"].startswith("customer") for mail in whole.items)


async def test_listings_are_narrowed_by_every_filter(stage):
    reports = Reports(stage.db)
    sub = (await reports.outbox(Filter(state="sent"))).items[0]["subscription"]

    async def count(read, **narrowed):
        return len((await read(Filter(**narrowed))).items)

    assert await count(reports.outbox, state="sent") == 2
    assert await count(reports.outbox, kind="trial_ending") == 3
    assert await count(reports.outbox, batch=3, state="held") == 3
    assert await count(reports.outbox, subscription=sub) == 1
    assert await count(reports.outbox, since=stage.world.now, state="held") == 3
    assert await count(reports.outbox, account="other") == 0
    assert await count(reports.events, kind="trial_ending") == 3
    assert await count(reports.events, subscription=sub) == 1
    assert await count(reports.episodes, kind="payment_failed") == 4
    assert await count(reports.episodes, state="muted") == 2
    assert await count(reports.episodes, state="open") == 7
    assert await count(reports.episodes, state="closed") == 0
    assert await count(reports.runs, state="held") == 1
    assert await count(reports.runs, account="acme", since=stage.world.now) == 1
    assert await count(reports.suppressions, account="acme") == 1
    assert await count(reports.suppressions, since=START + timedelta(seconds=1)) == 0
    assert await count(reports.batches, account="acme") == 1
    assert await count(reports.batches, state="open") == 2


async def test_a_mail_is_shown_with_its_batch_its_attempts_and_what_it_printed(stage):
    reports = Reports(stage.db)
    listed = (await reports.outbox(Filter(state="sent"))).items[0]

    mail = await reports.mail(listed["id"][:12])

    assert mail["id"] == listed["id"] and mail["batch"]["state"] == "open" and mail["batch"]["reasons"] == []
    assert [one["outcome"] for one in mail["attempts"]] == ["started", "sent"]
    assert mail["facts"]["recipient"] == "c***@customer.example" and "customer_name" not in mail["facts"]
    whole = await Reports(stage.db, show_addresses=True).mail(listed["id"])
    assert whole["facts"]["recipient"].startswith("customer") and "customer_name" in whole["facts"]
    held = await reports.mail((await reports.outbox(Filter(state="held"))).items[0]["id"])
    assert held["facts"] is None and held["batch"]["reasons"][0]["rule"] == "a_mass_change"
    assert held["because"].startswith("the mass-change guard held the whole batch")


async def test_a_mails_detail_is_part_of_its_reason(stage):
    async with stage.db.write() as conn:
        await conn.execute(update(notifications).values(reason="by_hand", why="anna"))
    assert (await Reports(stage.db).outbox(Filter(limit=1))).items[0]["because"] == "held by hand: anna"


async def test_a_run_is_shown_with_its_windows_its_problems_and_rows_that_could_not_be_read(stage):
    async with stage.db.write() as conn:
        await conn.execute(update(runs).where(runs.c.id == 3).values(problems="one\ntwo"))
    run = await Reports(stage.db).run(3)
    assert run["problems"] == ["one", "two"] and run["counts"]["rows"] == 33
    assert [(one["win"], one["pages"], one["rows"]) for one in run["windows"]] == [(0, 1, 33)]
    assert [(one["ext_id"], one["reason"]) for one in run["quarantine"]] == [("sub_bad", "status: missing")]
    assert SECRET not in str(run)
    assert (await Reports(stage.db).run(2))["quarantine"] == []


async def test_a_run_is_running_while_somebody_beats_for_it_and_interrupted_after(database_url, tmp_path):
    """Told from the lock, nothing is written; who is killed is known at once on its machine, elsewhere by its lease."""
    world = healthy(120, start=START)  # two pages: it stops between them
    async with staged(world, database_url, tmp_path / "var") as stage:
        alive, killed = Reports(stage.db), Reports(stage.db, is_dead=lambda owner: owner == stage.tools.owner)

        async def shown(reports, state=None):
            found = [row["state"] for row in (await reports.runs(Filter(state=state))).items]
            assert state or found == [(await reports.run(1))["state"]]
            return found

        seen = []

        async def look():
            if not seen:
                seen.extend([await shown(alive), await shown(killed), await shown(alive, "interrupted")])
                async with stage.db.write() as conn:
                    lease = (await conn.execute(select(locks.c.until_at))).scalar_one()
                    await conn.execute(update(locks).values(until_at=lease - timedelta(minutes=2)))
                seen.append(await shown(alive))
                async with stage.db.read() as conn:
                    seen.append(list((await conn.execute(select(runs.c.state))).scalars()))

        stage.faults.add(route="subscriptions", wait=look)
        stopping = stage.tools
        stage.tools = replace(stopping, stopping=lambda: bool(seen))
        assert (await stage.run()).outcome == "interrupted"
        assert seen == [["running"], ["interrupted"], [], ["interrupted"], ["running"]]
        assert [await shown(alive, "interrupted"), await shown(alive, "running")] == [["interrupted"], []]
        stage.tools = stopping
        assert (await stage.run()).outcome == "complete"
        assert await shown(killed) == ["complete"]


async def test_a_batch_is_shown_with_its_mails_counted(stage):
    batch = await Reports(stage.db).batch(3)
    assert {"kind": "trial_ending", "state": "held", "reason": "guard", "count": 3} in batch["mails"]
    assert batch["waiting"] == 3


async def test_suppressions_are_shown_by_hash_and_by_the_masked_address_of_a_customer_who_has_it(stage):
    row = await stage.row()
    async with stage.db.write() as conn:
        await suppress(
            conn,
            row.id,
            stage.tools.address_mac("customer1@customer.example"),
            scope="reminders",
            reason="asked",
            by="anna",
            at=START,
        )
    known, stranger = (await Reports(stage.db).suppressions(Filter())).items
    assert known["address"] == "c***@customer.example" and known["scope"] == "reminders"
    assert stranger["address"] is None and stranger["address_hash"] == stage.tools.address_mac("x@y.org")


async def test_what_does_not_exist_is_named_with_the_command_that_lists(stage):
    reports = Reports(stage.db)
    for read, said in (
        (reports.run(99), "no run 99: `monitor runs list`"),
        (reports.batch(99), "no batch 99: `monitor outbox batches`"),
        (reports.mail("zzz"), "no mail 'zzz'; `monitor outbox list`"),
        (reports.mail(""), "no mail ''; "),
    ):
        with pytest.raises(NotFoundError, match=said):
            await read
    async with stage.db.write() as conn:
        ids = [one["id"] for one in (await reports.outbox(Filter())).items]
        shared = {one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1}
        assert conn is not None
    for beginning in shared:
        with pytest.raises(NotFoundError, match="several mails begin with"):
            await reports.mail(beginning)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A settings file and its database, as an operator has them; returns the held batch's plan hash."""

    async def prepare():
        async with played(f"sqlite:///{tmp_path}/monitor.db", tmp_path / "var", YESTERDAY) as made:
            (tmp_path / "monitor.toml").write_text(SETTINGS.format(folder=tmp_path, key=made.world.ids.api_key))
            return (await Reports(made.db).batch(3))["plan_hash"], made.world.id_of(next(made.world.living()))

    made = asyncio.run(prepare())
    (tmp_path / "monitor.toml").chmod(0o600)
    monkeypatch.setenv("MONITOR_CONFIG", str(tmp_path / "monitor.toml"))
    monkeypatch.setenv("USER", "anna")
    return made


@pytest.fixture
def monitor(installed, capsys):
    def run(*arguments):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    "command",
    [
        "events",
        "episodes",
        "outbox list",
        "outbox batches",
        "runs list",
        "suppressions list",
        "events --since 7d",
        "runs show 3",
    ],
)
def test_every_listing_prints_a_table_and_a_json_document(monitor, command):
    code, table, _ = monitor(*command.split())
    assert code == 0 and table.strip() and "customer1@" not in table
    code, out, _ = monitor(*command.split(), "--format", "json")
    assert code == 0 and json.loads(out)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_ids_are_printed_whole_and_what_found_no_room_is_named(monitor, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for command in (("events",), ("episodes",)):
        asked = json.loads(monitor(*command, "--format", "json")[1])["items"]
        code, table, told = monitor(*command)
        assert code == 0 and all(row["subscription"] in table for row in asked)
        assert ("No room here for: " in told) == (columns == "80")
    _, table, _ = monitor("outbox", "list", "--show-addresses")
    items = json.loads(monitor("outbox", "list", "--show-addresses", "--format", "json")[1])["items"]
    assert all(row["address"] in table and row["id"][:13] in table for row in items)


def test_an_empty_listing_says_why_and_a_narrow_one_that_nothing_matches(monitor):
    code, out, err = monitor("outbox", "list", "--state", "failed")
    assert (code, out) == (0, "") and "No match." in err
    assert monitor("suppressions", "remove", "x@y.org")[0] == 0
    assert monitor("events", "--limit", "1")[2].strip().endswith("There are more; --limit 2 shows further ones.")


def test_a_wrong_filter_is_a_usage_error(monitor):
    assert monitor("events", "--kind", "odd")[0] == 2
    code, _, told = monitor("events", "--since", "yesterday")
    assert code == 2 and "--since: 'yesterday' is no instant" in told and "36h" in told
    assert monitor("events", "--account", "nobody")[0] == 2
    assert monitor("outbox", "list", "--state", "odd")[0] == 2


def test_explain_prints_a_story_and_a_json_document_and_fails_for_strangers(monitor, installed):
    asked = installed[1]
    code, out, _ = monitor("explain", asked)
    assert code == 0 and "Next: " in out and "First seen at the first contact" in out
    then = (YESTERDAY + timedelta(minutes=30)).isoformat()
    code, out, _ = monitor("explain", asked, "--format", "json", "--at", then)
    told = json.loads(out)
    assert datetime.fromisoformat(told["known_at"]) == datetime.fromisoformat(then)
    assert f"As it was known on {YESTERDAY.day} " in monitor("explain", asked, "--at", then)[1]
    assert set(told["subscriptions"][0]) >= {"subscription", "summary", "next", "episodes", "lines", "address"}
    code, out, err = monitor("explain", "nobody")
    assert (code, out) == (1, "") and "no subscription or payment nobody is known" in err


def test_every_mail_that_was_sent_or_not_is_explained_for_people(monitor):
    _, out, _ = monitor("outbox", "list", "--format", "json")
    for mail in json.loads(out)["items"]:
        code, told, _ = monitor("explain", mail["id"])
        assert code == 0 and "because: " in told
        code, shown, _ = monitor("outbox", "show", mail["id"][:13])
        assert code == 0 and mail["id"] in shown


def test_a_plan_is_reviewed_approved_once_and_told_to_the_second(monitor, installed, monkeypatch):
    code, out, _ = monitor("outbox", "review", "3")
    assert code == 0 and "3  trial ending, held" in out and "One by one:  monitor outbox list --batch 3\n" in out
    monkeypatch.setattr(decisions, "LISTED", 2)
    listed = next(line for line in monitor("outbox", "review", "3")[1].splitlines() if "One by one" in line)
    code, out, _ = monitor(*listed.split("monitor ")[1].split(), "--format", "json")
    assert code == 0 and [len(json.loads(out)["items"]), json.loads(out)["more"]] == [4, False]
    shown = json.loads(monitor("outbox", "review", "3", "--format", "json")[1])
    code, _, err = monitor("outbox", "approve", "3", "--plan-hash", "abc")
    assert code == 1 and "is not the plan that was shown" in err and "monitor outbox review 3" in err
    code, out, _ = monitor("outbox", "approve", "3", "--plan-hash", shown["plan_hash"])
    assert code == 0 and "3 mails may leave now" in out and "monitor deliver" in out
    code, out, _ = monitor("outbox", "approve", "3", "--format", "json")
    assert code == 0 and json.loads(out)["outcome"] == "already_decided" and "by anna on" in json.loads(out)["sentence"]
    assert monitor("outbox", "reject", "3")[0] == 1
    assert monitor("outbox", "approve", "99")[0] == 1


def test_single_mails_are_held_released_and_retried(monitor):
    held = json.loads(monitor("outbox", "list", "--state", "held", "--format", "json")[1])["items"][0]["id"]
    assert monitor("outbox", "hold", held, "--by", "ben")[0] == 0
    assert monitor("outbox", "release", held)[0] == 0
    assert monitor("outbox", "hold", "--account", "acme")[0] == 0
    assert monitor("outbox", "retry", held)[0] == 1
    assert monitor("outbox", "hold")[0] == monitor("outbox", "hold", held, "--account", "acme")[0] == 2


def test_addresses_are_suppressed_and_lifted(monitor):
    code, out, _ = monitor("suppressions", "add", "anna@example.org", "--reason", "asked")
    assert code == 0 and "gets no mail of acme any more" in out
    code, out, _ = monitor("suppressions", "add", "Anna@example.org", "--format", "json")
    assert json.loads(out)["accounts"][0]["outcome"] == "nothing"
    assert "gets no reminders" in monitor("suppressions", "add", "anna@example.org", "--scope", "reminders")[1]
    assert "may be mailed by acme again" in monitor("suppressions", "remove", "anna@example.org")[1]
    assert "was not suppressed" in monitor("suppressions", "remove", "anna@example.org")[1]
    assert monitor("suppressions", "add", "anna")[0] == 2


def test_an_adoption_is_tried_on_paper_first_and_changes_nothing_there(monitor, tmp_path):
    before = (tmp_path / "monitor.db").read_bytes()
    code, out, _ = monitor("adopt", "--dry-run")
    assert code == 0 and "2 episodes would be unmuted, 2 mails would be planned (2 payment failed)" in out
    assert (tmp_path / "monitor.db").read_bytes() == before and "approve" not in out
    code, out, _ = monitor("adopt", "--situation", "low_on_funds")
    assert (code, out.strip()) == (0, "acme: nothing is muted.")
    code, out, _ = monitor("adopt", "--format", "json")
    assert json.loads(out)["accounts"][0]["mails"] == 2
    assert "nothing is muted" in monitor("adopt")[1]
