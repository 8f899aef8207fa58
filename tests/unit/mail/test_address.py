"""One mail address, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import ConfigError, UnmailableAddressError
from monitor.mail import address as addresses
from monitor.mail.address import normalise_address, parse_sender


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("Anna.B+x@Customer.Example", "anna.b+x@customer.example"),
        (" anna@customer.example ", "anna@customer.example"),
        ("anna@BÜCHER.example", "anna@xn--bcher-kva.example"),
        ("anna@xn--bcher-kva.example", "anna@xn--bcher-kva.example"),
        ("o'hara@customer.test", "o'hara@customer.test"),
    ],
)
def test_one_mailbox_has_one_spelling(text, address):
    assert normalise_address(text) == address
    assert normalise_address(address) == address


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "malformed"),
        ("anna", "malformed"),
        ("anna@", "malformed"),
        ("@customer.example", "malformed"),
        ("a@x.example,b@y.example", "malformed"),
        ("a,b@x.example", "malformed"),
        ("team: a@x.example, b@y.example;", "malformed"),
        ("Anna <a@x.example>", "malformed"),
        ("a(comment)@x.example", "malformed"),
        ('"a b"@x.example', "malformed"),
        ("a@[127.0.0.1]", "malformed"),
        ("a@localhost", "malformed"),
        ("a@x..example", "malformed"),
        ("a@x.example\r\nBcc: b@y.example", "control_character"),
        ("a\x00@x.example", "control_character"),
        ("a@x.example\u2028", "control_character"),
        ("änna@x.example", "non_ascii_local_part"),
        ("=?utf-8?q?b?=@x.example", "encoded_word"),
        ("a" * 250 + "@x.example", "too_long"),
        ("a" * 65 + "@x.example", "malformed"),
    ],
)
def test_what_is_not_one_plain_mailbox_is_refused_with_its_rule(text, rule):
    with pytest.raises(UnmailableAddressError) as refused:
        normalise_address(text)
    assert refused.value.rule == rule
    assert not text or text not in str(refused.value)


@given(st.text(max_size=80) | st.emails())
def test_whatever_is_accepted_is_plain_ascii_with_one_at(text):
    try:
        address = normalise_address(text)
    except UnmailableAddressError:
        return
    assert address.isascii()
    assert address.isprintable()
    assert address.count("@") == 1
    assert not set(address) & set(' ,;:<>()[]"\\')


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Acme Billing <Billing@acme.example>", ("Acme Billing", "billing@acme.example")),
        ('"Acme, Inc." <billing@acme.example>', ("Acme, Inc.", "billing@acme.example")),
        ("billing@acme.example", ("", "billing@acme.example")),
        ("Bücher GmbH <b@bücher.example>", ("Bücher GmbH", "b@xn--bcher-kva.example")),
    ],
)
def test_a_configured_sender_is_a_name_and_an_address(text, parsed):
    assert parse_sender(text) == parsed


@pytest.mark.parametrize("text", ["", "Acme", "Acme <x>", "A <a@x.example>, B <b@x.example>", "A\r\nB <a@x.example>"])
def test_a_sender_that_is_none_names_the_setting(text):
    with pytest.raises(ConfigError, match="sender or reply_to"):
        parse_sender(text)


@given(
    local=st.from_regex(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~\-]{1,70}", fullmatch=True),
    domain=st.sampled_from(
        [
            "example.com",
            "EXAMPLE.com",
            "bücher.example",
            "a.test",
            "localhost",
            "-x.example",
            "x" * 64 + ".example",
            "[127.0.0.1]",
        ]
    ),
)
def test_the_short_cut_for_plain_addresses_says_what_the_whole_validation_says(local, domain):
    def whole():
        if "=?" in local:
            raise UnmailableAddressError("refused before", rule="encoded_word")
        return addresses._validated(local, domain)

    try:
        expected = whole()
    except UnmailableAddressError:
        with pytest.raises(UnmailableAddressError):
            normalise_address(f"{local}@{domain}")
    else:
        assert normalise_address(f"{local}@{domain}") == expected
