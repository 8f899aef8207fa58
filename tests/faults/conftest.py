"""What the fault tests share: one warm parent of workers a test process, and a certificate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig.scene import Forge


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    """Forks workers that have everything imported."""
    parent = Forge()
    yield parent
    parent.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A certificate of 127.0.0.1 with its key, signed by itself."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "these tests make a certificate with the openssl command: install openssl"
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=sink",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder
