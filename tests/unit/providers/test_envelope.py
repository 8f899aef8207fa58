"""A page is taken apart into the bytes of its rows; one bad token costs its row, a broken page costs the page."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.providers.envelope import MAX_CURSOR_BYTES, PageFaultError, read_list, read_page

NAN = b'{"x":NaN}'


@pytest.mark.parametrize(
    ("body", "rows", "cursor"),
    [
        (b'{"items":[{"a":1}, {"a":2}],"nextCursor":"c"}', [b'{"a":1}', b'{"a":2}'], "c"),
        (b'{"items":[]}', [], None),
        (b'{"items":null,"nextCursor":null}', [], None),
        (b"{}", [], None),
        (b" null\n", [], None),
        (b'{"items":[1],"nextCursor":""}', [b"1"], None),
        (b'{"total":5,"items":[null],"more":{"items":[7]}}', [b"null"], None),
    ],
)
def test_a_page_gives_its_rows_and_the_next_cursor(body, rows, cursor):
    assert read_page(body) == (rows, cursor)


@pytest.mark.parametrize(
    "bad",
    [NAN, b'{"x":-Infinity}', rb'{"x":"\ud800"}', rb'{"x":"\udfff tail"}', b'{"x":"\x01"}', b'{"x":NaN,"y":"\xff"}'],
)
def test_one_bad_token_costs_one_row(bad):
    good = b'{"x": "fine \xc3\xa9", "y": 1e999}'
    body = b'{ "total" : 3 , "items" : [ ' + good + b" , " + bad + b" ," + good + b' ] , "nextCursor" : "c" } \n'
    assert read_page(body) == ([good, bad, good], "c")
    assert read_list(b"[" + bad + b"," + good + b"]") == [bad, good]


def test_a_number_of_5000_digits_beside_a_bad_token_is_its_rows_affair():
    number = b'{"x":' + b"7" * 5000 + b"}"
    assert read_page(b'{"items":[' + number + b"," + NAN + b"]}") == ([number, NAN], None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"items":[{"x":NaN}]}',
        b'{"items":[{"x":NaN}],"nextCursor":null}',
        b'{"items":[7],"items":[{"x":NaN}],"nextCursor":"a","nextCursor":""}',
    ],
)
def test_a_salvaged_page_without_a_cursor_is_the_last(body):
    assert read_page(body) == ([NAN], None)


def test_salvaged_empty_shapes_are_empty():
    assert read_page(b'{"novel":NaN,"items":[]}') == ([], None)
    assert read_page(b'{"novel":NaN,"items":null}') == ([], None)


PAGE_FAULTS = {
    "empty": b"",
    "blank": b" \r\n",
    "HTML": b"<html><body>502 Bad Gateway</body></html>",
    "a list": b"[]",
    "a text": b'"x"',
    "truncated in a row": b'{"items":[{"a":1},{"a"',
    "truncated after a row": b'{"items":[{"a":1}',
    "truncated after a comma": b'{"items":[{"a":1},',
    "truncated behind the rows": b'{"items":[{"a":1}]',
    "truncated behind a bad token": b'{"items":[{"a":NaN}]',
    "two values": b'{"items":[{"a":NaN}]}{"items":[]}',
    "rows that are an object": b'{"items":{}}',
    "rows that are an object, beside a bad token": b'{"novel":NaN,"items":{}}',
    "a cursor that is a number": b'{"items":[],"nextCursor":7}',
    "a cursor that is a number, beside a bad token": b'{"items":[{"a":NaN}],"nextCursor":7}',
    "a cursor that is a lone surrogate": b'{"items":[],"nextCursor":"\\ud800"}',
    "a cursor with NUL": b'{"items":[],"nextCursor":"a\\u0000"}',
    "a cursor too long": b'{"items":[],"nextCursor":"' + b"c" * (MAX_CURSOR_BYTES + 1) + b'"}',
    "a cursor of too many bytes": ('{"items":[],"nextCursor":"' + "é" * 1001 + '"}').encode(),
    "deep nesting": b'{"items":' + b"[" * 100_000,
    "deep nesting, closed": b'{"items":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    "deep nesting beside a bad token": b'{"a":NaN,"items":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    "no colon": b'{"items" [NaN]}',
    "a byte order mark": b'\xef\xbb\xbf{"items":[]}',
}


@pytest.mark.parametrize("body", PAGE_FAULTS.values(), ids=PAGE_FAULTS.keys())
def test_a_body_that_is_no_page_is_a_fault_of_the_page(body):
    with pytest.raises(PageFaultError):
        read_page(body)


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"[1", b"[1,", b"[NaN]x", b"[" * 100_000])
def test_a_body_that_is_no_list_is_a_fault_of_the_list(body):
    with pytest.raises(PageFaultError):
        read_list(body)


def test_a_list_may_be_null():
    assert read_list(b"null") == []


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_a_page_cut_anywhere_is_never_taken_for_a_shorter_one(cut):
    body = b'{"items":[{"a":1},{"a":NaN},{"a":"\\ud800"}],"nextCursor":"abc"}'
    with pytest.raises(PageFaultError):
        read_page(body[:cut])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_gives_rows_or_a_page_fault(data):
    body = bytearray(json.dumps({"items": [{"a": 1, "b": "x\ud800"}, {"c": float("nan")}], "nextCursor": "c"}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        body[start : start + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    try:
        rows, cursor = read_page(bytes(body))
    except PageFaultError:
        return
    assert all(isinstance(row, bytes) for row in rows)
    assert cursor is None or cursor
