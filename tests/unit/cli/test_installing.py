from __future__ import annotations

import stat

import pytest

from monitor.cli import installing
from monitor.cli.installing import settings_text
from monitor.config import load_settings
from monitor.errors import ConfigError


def test_the_sandbox_settings_load_as_they_are_and_keep_everything_beside_the_file(tmp_path):
    file = tmp_path / "monitor.toml"
    installing._write_new(file, settings_text(sandbox=True))
    settings = load_settings(file, {})
    assert settings.accounts["acme"].mode == "test"
    assert settings.accounts["acme"].base_url.startswith("http://127.0.0.1:")
    assert settings.state_dir == tmp_path / "var"
    assert str(tmp_path / "monitor.db") in settings.database.url.get_secret_value()


def test_the_real_settings_load_once_the_key_is_there(tmp_path):
    file, key = tmp_path / "monitor.toml", tmp_path / "acme-key"
    installing._write_new(file, settings_text(sandbox=False))
    with pytest.raises(ConfigError, match=r"accounts\.acme\.api_key .*acme-key does not exist"):
        load_settings(file, {})
    key.write_text("sk_01980001-0003-7000-8000-000000000000_live_00\n")
    key.chmod(0o600)
    account = load_settings(file, {}).accounts["acme"]
    assert (account.mode, account.base_url) == ("live", "https://api.qbitflow.app/v2")
    assert not account.mail_test_rows
    assert "sandbox" not in settings_text(sandbox=False).split("[guard]")[0]


def test_a_file_that_is_there_stays_as_it_is(tmp_path):
    file = tmp_path / "monitor.toml"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="stays as it is"):
        installing._write_new(file, "ours")
    assert file.read_text() == "mine"


def test_a_new_file_is_for_its_owner_alone(tmp_path):
    installing._write_new(tmp_path / "monitor.toml", "ours")
    assert stat.S_IMODE((tmp_path / "monitor.toml").stat().st_mode) == 0o600


def test_an_example_that_was_changed_is_noticed_and_not_half_rewritten():
    with pytest.raises(ConfigError, match="install the package again"):
        installing._replaced("text", "what is not there", "new")
