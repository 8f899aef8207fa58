"""The audit of the libraries: real pip-audit, asking a service on this machine."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)


@pytest.fixture
def lock(tmp_path):
    """A lock of two libraries."""
    path = tmp_path / "run.lock"
    path.write_text(f"idna==3.20 --hash=sha256:{'0' * 64}\nrich==15.0.0 --hash=sha256:{'1' * 64}\n")
    return path


@contextmanager
def service(vulnerable: str):
    """Speaks as osv.dev does, and knows something about one library; yields its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = {
                "vulns": [
                    {
                        "id": "GHSA-1",
                        "aliases": ["CVE-1"],
                        "details": "it breaks",
                        "published": "2026-01-01T00:00:00Z",
                        "affected": [
                            {
                                "package": {"name": vulnerable, "ecosystem": "PyPI"},
                                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
                            }
                        ],
                    }
                ]
            }
            body = json.dumps(known if asked["package"]["name"] == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(lock, url, capsys) -> tuple[int, str]:
    code = audit.main(["--vulnerability-service", "osv", "--osv-url", url], lock)
    return code, capsys.readouterr().out


def test_a_known_vulnerability_fails_and_names_library_and_remedy(lock, capsys):
    with service("rich") as url:
        code, told = asked(lock, url, capsys)
    assert code == 1
    assert "AUDIT: rich 15.0.0: CVE-1 (GHSA-1), mended in 99" in told


def test_a_service_that_is_away_fails_nothing_but_is_said(lock, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, told = asked(lock, f"http://127.0.0.1:{closed.getsockname()[1]}", capsys)
    assert code == 0
    assert "NOT DONE" in told
    assert "2 libraries unaudited" in told


def test_a_library_that_the_service_skips_does_not_pass_as_audited():
    skipped = {"name": "rich", "skip_reason": "not found"}
    clean = {"name": "idna", "version": "3.20", "vulns": []}
    assert audit.verdict({"dependencies": [skipped, skipped]}, 2) == (
        0,
        "AUDIT: NOT DONE, the vulnerability service knows none of the 2 libraries",
    )
    assert "1 NOT AUDITED" in audit.verdict({"dependencies": [skipped, clean]}, 2)[1]
    whole = audit.verdict({"dependencies": [clean, clean]}, 2)
    assert whole == (0, "AUDIT: 2 libraries without a known vulnerability")


def test_the_continuous_integration_audits():
    assert "make audit" in (ROOT / ".ci" / "run").read_text()
