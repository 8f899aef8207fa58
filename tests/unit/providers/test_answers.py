"""The table of errors (contract v2, section 6) and what a 429 asks for."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from monitor.errors import (
    ProviderAuthError,
    ProviderRefusedError,
    ProviderUnavailableError,
    RateLimitedError,
)
from monitor.providers.answers import LONGEST_ASKED, Answer, failure, http_date, retry_after

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answer(status=429, body=b"{}", date=NOON, **headers) -> Answer:
    return Answer(
        status=status,
        body=body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        request_id="req-1",
        received_at=NOON + timedelta(hours=3),
        date=date,
    )


def error_body(code: str) -> bytes:
    return json.dumps({"error": "no", "code": code, "details": {}, "requestId": "req-1"}).encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "validation_failed", ProviderRefusedError),
        (400, "bad_request", ProviderRefusedError),
        (401, "unauthorized", ProviderAuthError),
        (403, "forbidden", ProviderAuthError),
        (403, "policy_disabled", ProviderAuthError),
        (403, "plan_required", ProviderAuthError),
        (404, "not_found", ProviderRefusedError),
        (409, "conflict", ProviderRefusedError),
        (410, "merchant_closed", ProviderAuthError),
        (413, "request_too_large", ProviderRefusedError),
        (422, "idempotency_key_reused", ProviderRefusedError),
        (429, "rate_limit_exceeded", RateLimitedError),
        (500, "internal", ProviderUnavailableError),
        (503, "network_unavailable", ProviderUnavailableError),
        (504, "timeout", ProviderUnavailableError),
        (302, "", ProviderUnavailableError),
        (304, "", ProviderUnavailableError),
    ],
)
def test_each_answer_becomes_our_error_and_tells_status_code_and_request_id(status, code, kind):
    error = failure(answer(status, error_body(code)), account="acme", endpoint="me")
    assert type(error) is kind
    assert f"{status} {code}".strip() in str(error)
    assert "request id req-1" in str(error)
    assert str(error).startswith("me: ")


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "accounts.acme.api_key"), (403, "accounts.acme.api_key"), (302, "accounts.acme.base_url")],
)
def test_a_message_names_the_setting_to_mend(status, setting):
    assert str(failure(answer(status), account="acme", endpoint="me")).endswith(f": check {setting}")


def test_a_refusal_keeps_status_and_code():
    error = failure(answer(400, error_body("bad_request")), account="acme", endpoint="me")
    assert isinstance(error, ProviderRefusedError)
    assert (error.status, error.code) == (400, "bad_request")


@pytest.mark.parametrize("body", [b"", b"<html>404</html>", b"[]", b"null"])
def test_a_gateways_404_is_not_the_apis_404(body):
    error = failure(answer(404, body), account="acme", endpoint="me")
    assert type(error) is ProviderUnavailableError


@pytest.mark.parametrize("code", ["5", "null", '"with space"', '"' + "x" * 200 + '"', '"\\ud800"', "[]"])
def test_a_malformed_code_is_left_out(code):
    error = failure(answer(404, b'{"code":' + code.encode() + b"}"), account="acme", endpoint="me")
    assert "404, request id" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("1", 1),
        ("61", 61),
        ("10800", 10800),
        ("0", 0),
        (" 7 ", 7),
        ("1" + "0" * 400, LONGEST_ASKED),
        ("0" * 400 + "8", 8),
        ("99999999999", LONGEST_ASKED),
        ("Sun, 01 Mar 2026 12:00:05 GMT", 5),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_ASKED),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("", None),
    ],
)
def test_a_wait_is_read_from_the_header(header, seconds):
    assert retry_after(answer(retry_after=header)) == seconds


def test_a_date_counts_from_the_answers_own_date_else_from_our_clock():
    until = "Sun, 01 Mar 2026 15:00:09 GMT"
    assert retry_after(answer(retry_after=until)) == 3 * 3600 + 9
    assert retry_after(answer(retry_after=until, date=None)) == 9


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ('{"retryAfterSeconds":12}', 12),
        ('{"retryAfterSeconds":1.5}', 1.5),
        ('{"retryAfterSeconds":-3}', 0),
        ('{"retryAfterSeconds":1e300}', LONGEST_ASKED),
        ('{"retryAfterSeconds":1e400}', None),
        ('{"retryAfterSeconds":"12"}', None),
        ('{"retryAfterSeconds":NaN}', None),
        ("{}", None),
        ("[]", None),
        ("null", None),
    ],
)
def test_a_wait_is_read_from_the_details_where_the_header_has_none(details, seconds):
    body = b'{"details":' + details.encode() + b"}"
    assert retry_after(answer(body=body)) == seconds
    assert retry_after(answer(body=body, retry_after="garbage")) == seconds
    assert retry_after(answer(body=body, retry_after="2")) == 2


def test_the_error_carries_the_wait_it_was_asked():
    error = failure(answer(retry_after="10800"), account="acme", endpoint="me")
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == timedelta(hours=3)
    silent = failure(answer(), account="acme", endpoint="me")
    assert isinstance(silent, RateLimitedError)
    assert silent.retry_after is None


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("Sun, 01 Mar 2026 12:00:00 GMT", NOON),
        ("Sunday, 01-Mar-26 12:00:00 GMT", NOON),
        ("Sun, 01 Mar 2026 14:00:00 +0200", NOON),
        ("Sun, 01 Mar 2026 12:00:00 -0000", NOON),
        ("Fri, 31 Dec 9999 23:59:59 -0500", None),
        ("", None),
        (None, None),
        ("x" * 10_000, None),
    ],
)
def test_an_http_date_is_aware_utc(text, ours):
    assert http_date(text) == ours
