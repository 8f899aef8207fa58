"""Counters and gauges, as Prometheus reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from monitor.metrics import Level, Meter

NOW = datetime(2026, 4, 1, 9, 0, tzinfo=UTC)


def told(meter: Meter) -> dict[str, float]:
    """Each sample as it stands in the text."""
    lines = [line for line in meter.text().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_a_run_adds_what_it_read_and_how_it_ended():
    meter = Meter()
    meter.ran("acme", "complete", {"pages": 2, "rows": 150, "bad": 1, "events": 7})
    meter.ran("acme", "held", {"pages": 1, "rows": 50})
    samples = told(meter)
    assert samples['monitor_pulls_total{account="acme",outcome="complete"}'] == 1
    assert samples['monitor_pages_total{account="acme"}'] == 3
    assert samples['monitor_rows_total{account="acme"}'] == 200
    assert samples['monitor_bad_rows_total{account="acme"}'] == 1
    assert samples['monitor_events_total{account="acme"}'] == 7
    assert samples['monitor_guard_holds_total{account="acme"}'] == 1


def test_mails_are_counted_by_kind_and_outcome():
    meter = Meter()
    meter.delivered("acme", {("paused", "sent"): 2, ("paused", "voided"): 1}, rescued=3)
    samples = told(meter)
    assert samples['monitor_mails_total{account="acme",kind="paused",outcome="sent"}'] == 2
    assert samples['monitor_lease_rescues_total{account="acme"}'] == 3


def test_api_errors_are_those_that_are_no_2xx_and_silence_is_one():
    meter = Meter()
    note = meter.request("acme")
    for status in (200, 204, 503, 503, 404, None):
        note("me", status, 0.1)
    samples = {key: value for key, value in told(meter).items() if key.startswith("monitor_api_errors")}
    prefix = 'monitor_api_errors_total{account="acme",endpoint="me",status='
    assert samples == {f'{prefix}"503"}}': 2, f'{prefix}"404"}}': 1, f'{prefix}"none"}}': 1}


def test_the_age_of_an_empty_queue_is_nothing():
    meter = Meter()
    meter.show([Level("acme", 3, NOW - timedelta(minutes=5), 1, NOW, paused=True, sender_paused=False)], NOW)
    assert told(meter)['monitor_queue_age_seconds{account="acme"}'] == 300
    meter.show([Level("acme", 0, None, 0, NOW, paused=False, sender_paused=False)], NOW)
    assert told(meter)['monitor_queue_age_seconds{account="acme"}'] == 0


def test_an_account_that_is_left_out_of_the_settings_has_no_gauge_any_more():
    meter = Meter()
    levels = [Level(name, 3, NOW, 1, NOW, paused=True, sender_paused=True) for name in ("acme", "beta")]
    meter.show(levels, NOW)
    meter.show(levels[1:], NOW)
    gauges = {key for key in told(meter) if "account=" in key}
    assert len(gauges) == 6
    assert not any("acme" in key for key in gauges)


def test_a_file_for_a_collector_holds_the_same(tmp_path: Path):
    meter = Meter()
    meter.ran("acme", "complete", {"rows": 5})
    meter.write(tmp_path / "monitor.prom")
    assert (tmp_path / "monitor.prom").read_bytes() == meter.text()


def test_two_meters_of_one_process_do_not_meet():
    first, second = Meter(), Meter()
    first.ran("acme", "complete", {"rows": 5})
    assert b"acme" not in second.text()
