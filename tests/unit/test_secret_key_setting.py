"""The key by value: for machines whose state folder does not last."""

from __future__ import annotations

import pytest

from monitor.config import load_settings, secret_key
from monitor.errors import ConfigError
from monitor.wiring.keys import loaded_secrets
from monitor.wiring.place import Schema
from monitor.wiring.process import wired

KEY = "ab" * 32
FILE = """
state_dir = "state"
[accounts.acme]
provider = "qbitflow-v2"
mode = "test"
base_url = "http://127.0.0.1:8787/v2"
api_key = "sk_1_sandbox"
sender = "Acme <billing@acme.example>"
brand = { name = "Acme", url = "https://acme.example" }
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "monitor.toml"

    def loaded(top: str = "", mode: int = 0o600, **environ: str):
        file.write_text(top + FILE)
        file.chmod(mode)
        return load_settings(file, environ)

    return loaded


def test_the_environment_gives_the_key_and_no_file_is_made(load, tmp_path):
    settings = load(MONITOR__SECRET_KEY=KEY)
    assert secret_key(settings) == bytes.fromhex(KEY)
    assert not (tmp_path / "state").exists()


def test_a_systemd_credential_is_the_keys_file(load, tmp_path):
    (tmp_path / "secret_key").write_text(KEY)
    (tmp_path / "secret_key").chmod(0o400)
    assert secret_key(load(CREDENTIALS_DIRECTORY=str(tmp_path))) == bytes.fromhex(KEY)


def test_the_environment_stands_over_the_file_the_file_names(load):
    assert secret_key(load('secret_key_file = "elsewhere"\n', MONITOR__SECRET_KEY=KEY)) == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("value", "text"), [("zz" * 32, "secret_key: is damaged"), ("ab" * 31, "shorter than 32 bytes")]
)
def test_a_key_that_is_none_is_refused_without_being_quoted(load, value, text):
    with pytest.raises(ConfigError, match=text) as refused:
        secret_key(load(MONITOR__SECRET_KEY=value))
    assert value not in str(refused.value)


def test_the_key_and_its_file_together_are_refused(load):
    with pytest.raises(ConfigError, match="given twice, as secret_key and as secret_key_file"):
        load(f'secret_key = "{KEY}"\nsecret_key_file = "k"\n')


def test_a_key_in_a_file_that_others_can_read_is_refused(load):
    with pytest.raises(ConfigError, match=r"secret_key .*line 1.*chmod 600"):
        load(f'secret_key = "{KEY}"\n', mode=0o644)


def test_the_key_never_reaches_a_log(load):
    settings = load(MONITOR__SECRET_KEY=KEY)
    assert KEY in loaded_secrets(settings)
    assert KEY not in repr(settings)


async def test_a_dry_run_in_a_new_container_hashes_addresses_as_the_last_one_did(load):
    settings = load(MONITOR__SECRET_KEY=KEY)
    macs = set()
    for _ in range(2):
        async with wired(settings, schema=Schema.UNTOUCHED) as wiring:
            macs.add(wiring.tools.address_mac("a@b.example"))
    assert len(macs) == 1
