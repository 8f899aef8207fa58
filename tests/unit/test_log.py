from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
import structlog

from monitor.domain.model import Status
from monitor.log import REDACTED, Redaction, configure_logging

KEY = "sk_6f1c2d3e-0000-4000-8000-000000000001_live_canarykey"
SMTP_PASSWORD = "canary-smtp-password"


@pytest.fixture(autouse=True)
def logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@dataclass
class Customer:
    name: str = "Canary Ann"


CANARIES = {
    "an address in the text": lambda log: log.info("sent", detail="to canary.ann@customer.example now"),
    "an address in the event": lambda log: log.info("refused canary.ann@customer.example"),
    "an address without a dot": lambda log: log.info("x", detail="<canary@localhost>"),
    "a name": lambda log: log.info("x", customer_name="Canary Ann"),
    "a sender": lambda log: log.info("x", sender="Canary"),
    "a key by its form": lambda log: log.info("x", detail=f"used {KEY}"),
    "a key by its key": lambda log: log.info("x", api_key="canary"),
    "a webhook secret": lambda log: log.info("x", detail="whsec_canary"),
    "a header": lambda log: log.info("x", headers={"X-Api-Key": "v", "authorization": "canary"}),
    "a bearer in a text": lambda log: log.info("x", detail="Authorization: Bearer canarycanary"),
    "a connection string": lambda log: log.info("x", detail="at postgresql://u:canary@db/x failed"),
    "a password in a user part with @": lambda log: log.info("x", database_dsn="postgresql://u:canary@db"),
    "a signed link": lambda log: log.info("x", detail="GET https://a.example/u?t=canary&x=canary HTTP/1.1"),
    "a link": lambda log: log.info("x", manage_link="https://a.example/canary"),
    "a loaded secret": lambda log: log.info("x", detail=f"AUTH {SMTP_PASSWORD}"),
    "something nested": lambda log: log.info("x", rows=[{"email": "canary"}, ["canary@customer.example"]]),
    "an object": lambda log: log.info("x", row=Customer()),
    "bytes": lambda log: log.info("x", page=b"canary"),
    "an exception as a value": lambda log: log.info("x", error=ValueError("canary@customer.example")),
    "a bound value": lambda log: log.bind(recipient="canary").info("x"),
    "an SQL error": lambda log: log.info("x", error=ValueError("no\n[SQL: INSERT]\n[parameters: ('Canary', \n 1)]")),
    "a PostgreSQL detail": lambda log: log.info("x", error=ValueError("no\nDETAIL:  Failing row contains (Canary).")),
}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
@pytest.mark.parametrize("case", CANARIES)
def test_no_canary_reaches_a_log_line(case, as_json):
    stream = io.StringIO()
    configure_logging(stream=stream, as_json=as_json, secrets=[SMTP_PASSWORD])
    CANARIES[case](structlog.get_logger())
    written = stream.getvalue().lower()
    assert written
    assert "canary" not in written


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "console"])
def test_a_traceback_is_kept_and_its_canaries_are_not(as_json):
    stream = io.StringIO()
    configure_logging(stream=stream, as_json=as_json, secrets=[SMTP_PASSWORD])
    who = "ann@canary.example"
    try:
        try:
            raise KeyError(who)
        except KeyError as error:
            raise ValueError(f"{KEY} {SMTP_PASSWORD}") from error
    except ValueError:
        structlog.get_logger().exception("failed")
    written = stream.getvalue()
    assert "ValueError" in written
    assert "test_a_traceback_is_kept" in written
    assert not {who, KEY, SMTP_PASSWORD} & set(written.replace("'", " ").split())
    assert KEY not in written
    assert SMTP_PASSWORD not in written


def test_what_libraries_log_is_redacted_too():
    stream = io.StringIO()
    configure_logging(stream=stream, as_json=True)
    try:
        raise ValueError("ann@canary.example")
    except ValueError:
        logging.getLogger("some.package").exception("for %s", "ann@canary.example")
    (line,) = lines(stream)
    assert line["event"] == f"for {REDACTED}"
    assert "canary" not in line["exception"]
    assert line["level"] == "error"


def test_libraries_that_log_every_request_are_quiet_below_warnings():
    stream = io.StringIO()
    configure_logging(stream=stream, as_json=True, level="debug")
    logging.getLogger("httpx").info("GET https://api.example/customers")
    assert stream.getvalue() == ""


def test_plain_values_stay_readable():
    event = {
        "event": "run_ended",
        "token": 7,
        "share": Decimal("0.2"),
        "status": Status.ACTIVE,
        "took": timedelta(seconds=2),
        "at": datetime(2026, 4, 9, 11, tzinfo=UTC),
        "id": UUID(int=1),
        "file": Path("a/b"),
        "address_mac": "abc",
        "ok": True,
        "none": None,
        "pair": (1, "two"),
    }
    assert Redaction()(None, "info", event) == {
        "event": "run_ended",
        "token": 7,
        "share": "0.2",
        "status": "active",
        "took": "0:00:02",
        "at": "2026-04-09T11:00:00+00:00",
        "id": "00000000-0000-0000-0000-000000000001",
        "file": "a/b",
        "address_mac": "abc",
        "ok": True,
        "none": None,
        "pair": [1, "two"],
    }


def test_the_host_of_a_connection_string_stays_to_find_the_fault():
    assert Redaction().text("postgresql://u:pw@db.internal/x") == f"postgresql://{REDACTED}@db.internal/x"


def test_a_secret_too_short_to_be_one_is_not_cut_out_of_words():
    assert Redaction(["a"]).text("a banana") == "a banana"


def test_lines_below_the_level_are_not_written():
    stream = io.StringIO()
    configure_logging(stream=stream, level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud", run_id=3)
    (line,) = lines(stream)
    assert (line["event"], line["run_id"], line["level"]) == ("loud", 3, "warning")
    assert line["timestamp"].endswith("Z")


def test_a_terminal_gets_lines_for_people_and_stderr_is_the_default(capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    configure_logging(stream=terminal)
    structlog.get_logger().info("hello")
    assert not terminal.getvalue().startswith("{")
    configure_logging()
    structlog.get_logger().info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "hello"
