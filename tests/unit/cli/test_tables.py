"""What people copy out of a table is whole, however narrow their window is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monitor.cli.tables import print_whole, table_of

SUB = "sub@01980001-000a-7000-8000-00000000009c"
COLUMNS = ("When", "Subscription", "What", "From")
ROWS = [("3 Apr 2026 10:00", SUB, "Payment failed: the wallet held too little (before: healthy)", "pull")]


def printed(width: int, spare=("From", "When")) -> tuple[str, tuple[str, ...]]:
    out = Console(file=io.StringIO(), width=width)
    table, left_out = table_of(COLUMNS, ROWS, width, whole=("When", "Subscription"), spare=spare)
    print_whole(out, table)
    return out.file.getvalue(), left_out


@pytest.mark.parametrize(
    ("width", "left_out"), [(120, ()), (82, ()), (80, ("From",)), (60, ("When", "From")), (20, ("When", "From"))]
)
def test_an_id_is_never_broken_and_lesser_columns_give_way_in_their_order(width, left_out):
    text, gone = printed(width)
    assert (SUB in text, gone) == (True, left_out)
    for column in COLUMNS:
        assert (column in text) == (column not in left_out)


def test_words_are_folded_within_the_window_and_ids_pass_it_only_where_nothing_can_be_spared():
    assert max(map(len, printed(80)[0].splitlines())) <= 80
    assert "[bold]" in "".join(printed_cell("[bold]"))
    assert printed(30, spare=())[1] == ()


def printed_cell(text: str) -> str:
    out = Console(file=io.StringIO(), width=80)
    print_whole(out, table_of(("A",), [(text,)], 80)[0])
    return out.file.getvalue()
