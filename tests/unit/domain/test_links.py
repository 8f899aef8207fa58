"""Which addresses a mail may link to (faults 45)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.domain.links import LONGEST, ascii_host, safe_link

HOSTS = ["qbitflow.app", "bücher.example"]


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://qbitflow.app", "https://qbitflow.app"),
        ("https://pay.qbitflow.app/s/1?x=%20y&z=1#top", "https://pay.qbitflow.app/s/1?x=%20y&z=1#top"),
        ("HTTPS://PAY.QBitFlow.app/S", "https://pay.qbitflow.app/S"),
        ("https://qbitflow.app:8443/x", "https://qbitflow.app:8443/x"),
        ("https://bücher.example/x", "https://xn--bcher-kva.example/x"),
        ("https://xn--bcher-kva.example/x", "https://xn--bcher-kva.example/x"),
    ],
)
def test_an_allowed_link_is_kept_with_its_host_in_ascii(url, link):
    assert safe_link(url, HOSTS) == link


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "data:text/html,x",
        "http://qbitflow.app/",
        "//qbitflow.app/",
        "https:qbitflow.app",
        "https:///qbitflow.app",
        "https://anna@qbitflow.app/",
        "https://qbitflow.app:x@evil.example/",
        "https://qbitflow.app\\@evil.example/",
        "https://evil.example\\.qbitflow.app/",
        "https://evil.example/qbitflow.app",
        "https://evil.example?qbitflow.app",
        "https://evil.example#.qbitflow.app",
        "https://qbitflow.app.evil.example/",
        "https://notqbitflow.app/",
        "https://app/",
        "https://localhost/",
        "https://qbitflоw.app/",  # a Cyrillic o
        "https://qbitflow。app.evil.example/",
        "https://qbitflow%2eapp/",
        "https://.qbitflow.app/",
        "https://qbitflow.app./",
        "https://-x.qbitflow.app/",
        "https://169.254.169.254/",
        "https://[::1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://qbitflow.app:0/",
        "https://qbitflow.app:65536/",
        "https://qbitflow.app:/",
        "https://qbitflow.app/a b",
        "https://qbitflow.app/\r\nBcc: x@y.example",
        "https://qbitflow.app/\x00",
        'https://qbitflow.app/"onclick="x',
        "https://qbitflow.app/<script>",
        "https://qbitflow.app/\u202etxt",
        " https://qbitflow.app/",
        "https://qbitflow.app/" + "a" * LONGEST,
    ],
)
def test_everything_else_is_refused(url):
    assert safe_link(url, HOSTS) is None


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "http://a.example/", "https://u@a.example/"])
def test_the_form_is_checked_also_where_the_host_was_allowed_before(url):
    assert safe_link(url, None) is None
    assert safe_link("https://a.example/x", None) == "https://a.example/x"


def test_an_empty_allow_list_allows_nothing():
    assert safe_link("https://qbitflow.app/", []) is None
    assert safe_link("https://qbitflow.app/", [""]) is None


def test_a_host_is_known_by_its_ascii_name():
    assert ascii_host("Bücher.example") == "xn--bcher-kva.example"
    assert ascii_host("a" * 64 + ".example") is None


@given(st.text(max_size=60))
def test_no_text_ever_makes_a_link_to_another_host(text):
    for url in (text, "https://" + text, "https://qbitflow.app" + text, "https://x" + text + "qbitflow.app/"):
        link = safe_link(url, ["qbitflow.app"])
        if link is not None:
            host = link.removeprefix("https://").split("/")[0].split("?")[0].split("#")[0].split(":")[0]
            assert host == "qbitflow.app" or host.endswith(".qbitflow.app")
            assert link.isascii()
            assert link.isprintable()
            assert " " not in link
