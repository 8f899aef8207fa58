"""Messages: parsed back by the standard library, whatever a customer, a merchant or an API put into them (faults 41)."""

import binascii
import email
import email.policy
import re
from dataclasses import replace
from email.headerregistry import Address
from html import unescape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.domain.model import Kind
from monitor.errors import ConfigError, MailError, UnmailableAddressError
from monitor.mail.compose import LONGEST_LINE, _quoted_printable, compose
from monitor.mail.render import Renderer
from monitor.mail.samples import all_samples, sample
from tests.scale import sized

RENDERER = Renderer()
ONCE = {"From", "To", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Feedback-ID", "Content-Language",
        "MIME-Version", "Content-Type"}  # fmt: skip
SOMETIMES = {"In-Reply-To", "References", "List-Unsubscribe", "List-Unsubscribe-Post"}


def made(letter):
    return compose(letter, RENDERER.render(letter))


def parsed(composed):
    """The message as the standard library reads it; asserts what holds for every message."""
    raw = composed.message
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert all(len(line) <= LONGEST_LINE for line in raw.split(b"\r\n"))
    assert b"\0" not in raw
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    names = message.keys()
    assert len(names) == len(set(names))
    assert set(names) >= ONCE
    assert set(names) <= ONCE | SOMETIMES
    assert message["To"].addresses == (Address(addr_spec=composed.recipient_addr),)
    assert len(message["From"].addresses) == 1
    assert message["From"].addresses[0].addr_spec == composed.sender_addr
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    return message


@pytest.mark.parametrize(
    "letter", list(all_samples()), ids=lambda letter: f"{letter.kind}-{letter.variant}-{letter.step}"
)
def test_every_sample_parses_back_to_what_was_rendered(letter):
    rendered = RENDERER.render(letter)
    message = parsed(compose(letter, rendered))
    assert message["Subject"] == rendered.subject
    assert message.get_body(("plain",)).get_content().replace("\r\n", "\n") == rendered.text
    assert message.get_body(("html",)).get_content().replace("\r\n", "\n").rstrip("\n") == rendered.html.rstrip("\n")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == letter.message_id
    assert str(message["Date"].datetime) == "2026-04-02 09:30:00+00:00"
    assert message["Reply-To"] == "help@acme.example"
    assert message["Content-Language"] == "en"


def test_the_same_letter_gives_the_same_bytes_and_another_id_another_boundary():
    letter = sample(Kind.PAYMENT_FAILED)
    assert made(letter).message == compose(replace(letter), Renderer().render(replace(letter))).message
    other = replace(letter, notification_id="0b6f7c52-aaaa-5c1e-9b52-3f9a1c277b10")
    boundaries = [parsed(made(each)).get_boundary() for each in (letter, other)]
    assert len(set(boundaries)) == 2


def test_a_later_step_points_to_the_first_mail():
    message = parsed(made(replace(sample(Kind.PAYMENT_FAILED), in_reply_to="<first@acme.example>")))
    assert message["In-Reply-To"] == message["References"] == "<first@acme.example>"


@pytest.mark.parametrize("length", [10, 70, 400, 850])
def test_one_click_unsubscribe_stays_literal_on_one_line(length):
    url = "https://mail.acme.example/u/" + "t" * length
    raw = made(replace(sample(Kind.TRIAL_ENDING), unsubscribe_url=url)).message
    assert f"\r\nList-Unsubscribe: <{url}>\r\n".encode() in raw
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in raw


@pytest.mark.parametrize(
    "url", [None, "", "http://mail.acme.example/u", "https://x.example/>\r\nBcc: a@b.example", "https://10.0.0.1/u",
            "https://mail.acme.example/" + "t" * 1000],
)  # fmt: skip
def test_without_a_safe_link_refusing_is_an_answer_by_mail(url):
    message = parsed(made(replace(sample(Kind.TRIAL_ENDING), unsubscribe_url=url)))
    assert re.fullmatch(
        r"<mailto:help@acme\.example\?subject=stop%20[0-9A-F]{5}-[0-9A-F]{5}>", message["List-Unsubscribe"]
    )
    assert "List-Unsubscribe-Post" not in message


def test_a_failed_bill_cannot_be_refused():
    letter = replace(sample(Kind.PAYMENT_FAILED), unsubscribe_url="https://mail.acme.example/u")
    message = parsed(made(letter))
    assert "List-Unsubscribe" not in message
    assert "mail.acme.example" not in message.get_body(("html",)).get_content()


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("Acme Billing <billing@acme.example>", "Acme Billing"),
        ('"Acme, Inc." <billing@acme.example>', "Acme, Inc."),
        ("Bücher & Söhne Größe Straße München Österreich GmbH <billing@acme.example>",
         "Bücher & Söhne Größe Straße München Österreich GmbH"),
        ("株式会社 <billing@acme.example>", "株式会社"),
        ("=?utf-8?q?x?= <billing@acme.example>", "=?utf-8?q?x?="),
        ("billing@acme.example", ""),
    ],
)  # fmt: skip
def test_the_senders_name_survives(sender, name):
    message = parsed(made(replace(sample(Kind.PAUSED), sender=sender)))
    # The standard library reads two encoded-words in a name with one space too many (RFC 2047, 6.2 says none).
    assert " ".join(message["From"].addresses[0].display_name.split()) == name


def test_an_international_domain_is_punycoded_everywhere():
    letter = replace(sample(Kind.PAUSED), recipient="anna@bücher.example", sender="Acme <b@größe.example>")
    composed = made(letter)
    assert composed.recipient_addr == "anna@xn--bcher-kva.example"
    assert composed.sender_addr == "b@xn--gre-6ka8i.example"
    parsed(composed)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("recipient", "ä@x.example", UnmailableAddressError),
        ("recipient", "a@x.example, b@y.example", UnmailableAddressError),
        ("recipient", "a@x.example\r\nBcc: b@y.example", UnmailableAddressError),
        ("sender", "Acme\r\nBcc: b@y.example <a@x.example>", ConfigError),
        ("sender", "Acme\x00 <a@x.example>", ConfigError),
        ("reply_to", "nobody", ConfigError),
        ("message_id", "<a@b>\r\nBcc: b@y.example", MailError),
        ("message_id", "a@b", MailError),
        ("message_id", "", MailError),
        ("in_reply_to", "<a b>", MailError),
        ("date_header", "yesterday", MailError),
    ],
)
def test_an_unsafe_header_is_refused_not_mended(field, value, error):
    with pytest.raises(error):
        made(replace(sample(Kind.PAUSED), **{field: value}))


@pytest.mark.parametrize("locale", ["hu\r\nBcc: x@y.example", "", "x" * 200, "🙂"])
def test_a_locale_cannot_carry_a_header(locale):
    letter = sample(Kind.PAUSED)
    rendered = RENDERER.render(letter)
    assert parsed(compose(replace(letter, locale=locale), rendered))["Content-Language"] == "en"


NASTY = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="\r\n\0\t \u2028\u2029\u202e\u2066\ufeff,;:<>\"\\(){}%&'=?.", max_size=40),
    st.sampled_from(
        ["{{ 7*7 }}", "<script>alert(1)</script>", "=?utf-8?b?QmNj?=", "\r\nBcc: evil@evil.example", "محمد", "🙂👨‍👩‍👧", "%(product)s %s",
         "x" * 10_000, "\ud800", "--=_0\r\n\r\nx", ".\r\n.", "From me", "&amp;<bdi>"]
    ),
)  # fmt: skip
ADDRESSES = st.one_of(
    st.emails(),
    NASTY,
    st.builds(
        "{}@{}".format, NASTY, st.sampled_from(["x.example", "bücher.example", "x.example,b@y.example", "[::1]"])
    ),
)


@settings(max_examples=sized(800, 120), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(list(all_samples())),
    ADDRESSES,
    NASTY,
    NASTY,
    NASTY,
    NASTY,
    NASTY,
    st.text(max_size=80),
    st.booleans(),
)
def test_a_generated_customer_gets_a_valid_mail_or_none(
    base, recipient, name, product, reference, phrase, token, link, isolate
):
    letter = replace(
        base, recipient=recipient, customer_name=name, product=product or "P", reference=reference, token=token or None,
        brand=replace(base.brand, phrase=phrase), manage_link="https://qbitflow.app/" + link, link_hosts=("qbitflow.app",),
        locale="en-GB" if isolate else "en",
    )  # fmt: skip
    rendered = RENDERER.render(letter) if product.strip() and visible(product) else None
    if rendered is None:
        return
    try:
        composed = compose(letter, rendered)
    except UnmailableAddressError:
        return
    message = parsed(composed)
    assert composed.recipient_addr.count("@") == 1
    assert message["From"].addresses[0].display_name == "Acme Billing"
    text, html = message.get_body(("plain",)).get_content(), message.get_body(("html",)).get_content()
    assert text.replace("\r\n", "\n") == rendered.text
    assert message["Subject"] == rendered.subject
    assert "<script" not in html
    for href in re.findall(r'href="([^"]*)"', html):
        assert re.match(
            r"mailto:help@acme\.example$|https://((pay\.|explorer\.)?qbitflow\.app|acme\.example|mail\.acme\.example)(/|$)",
            unescape(href),
        ), href
    assert set(re.findall(r"\d+\.\d\d", text)) <= set(re.findall(r"\d+\.\d\d", unescape(html)))


def visible(text: str) -> bool:
    from monitor.mail.clean import one_line

    return bool(one_line(text, 60))


@given(st.text(st.sampled_from("ab =.\t\né日\x00😀") | st.characters(), max_size=400))
@settings(max_examples=sized(20_000, 300))
def test_every_text_is_quoted_in_short_lines_and_read_back_to_the_letter(text):
    text = text.replace("\r", "")
    quoted = _quoted_printable(text)
    assert binascii.a2b_qp(quoted) == text.replace("\n", "\r\n").encode("utf-8", "replace")
    assert quoted.isascii()
    for line in quoted.split(b"\r\n"):
        assert len(line) <= 76
        assert line != b"."
        assert not line.endswith((b" ", b"\t"))


def test_lines_are_as_long_as_they_may_be_and_no_escape_is_broken():
    assert _quoted_printable("x" * 76) == b"x" * 75 + b"=\r\nx"
    assert _quoted_printable("x" * 73 + "==") == b"x" * 73 + b"=\r\n=3D=3D"
    assert _quoted_printable("x" * 72 + "==") == b"x" * 72 + b"=3D=\r\n=3D"
