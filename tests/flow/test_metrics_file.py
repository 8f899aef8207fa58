"""What cron leaves for a collector: the same figures as the served ones, in a text file."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.shell import NOW, shop_of


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONITOR_CONFIG", raising=False)
    with ExitStack() as stack:
        yield stack.enter_context(shop_of(tmp_path, 60))


def test_a_run_leaves_its_pages_mails_and_levels_in_the_metrics_file(shop, tmp_path):
    shop.told("run", *NOW)
    shop.cause(paused=2)
    done = shop.told("run", *NOW, "--metrics-file", "monitor.prom")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "monitor.prom").read_text()
    assert 'monitor_mails_total{account="acme",kind="paused",outcome="sent"} 2.0' in text
    assert 'monitor_rows_total{account="acme"} 60.0' in text
    assert 'outcome="complete"} 1.0' in text
    assert 'monitor_held_batches{account="acme"} 0.0' in text


def test_a_metrics_file_that_cannot_be_written_is_named_and_costs_no_mail(shop):
    shop.told("run", *NOW)
    shop.cause(paused=1)
    done = shop.told("run", *NOW, "--metrics-file", "/nowhere/monitor.prom")
    assert done.returncode == 2
    assert "--metrics-file: /nowhere/monitor.prom" in done.stderr
    assert len(shop.mails) == 1
