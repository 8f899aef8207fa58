"""Tables that keep what people copy: an id or address is never broken, a narrow terminal loses lesser columns first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table

_GAP = 3
_READABLE = 12  # a column of words is not squeezed below this while another can be spared


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int,
    *,
    whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> tuple[Table, tuple[str, ...]]:
    """A quiet table for a terminal of `width`, with the names of the columns that found no room.

    Cells are plain text. Columns in `whole` are never broken. Where it is too wide, the columns in `spare` go, the
    first of them first.
    """
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    kept = list(columns)
    left_out: list[str] = []
    for name in spare:
        if _wanted(kept, cells, whole) <= width:
            break
        kept.remove(name)
        left_out.append(name)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in kept:
        table.add_column(name, overflow="fold", no_wrap=name in whole)
    for row in cells:
        table.add_row(*(row[name].replace("[", "\\[") for name in kept))
    return table, tuple(name for name in columns if name in left_out)


def print_whole(out: Console, table: Table) -> None:
    """Print it, wider than the terminal where that cannot be helped: what a terminal breaks is still copied whole."""
    least = measure_renderables(out, out.options.update(max_width=10_000), [table]).minimum
    out.width = max(out.width, least)
    out.print(table)


def _wanted(kept: Sequence[str], cells: Sequence[dict[str, str]], whole: Sequence[str]) -> int:
    widths = []
    for name in kept:
        natural = max(cell_len(text) for text in (name, *(row[name] for row in cells)))
        widths.append(natural if name in whole else min(natural, _READABLE))
    return sum(widths) + _GAP * (len(kept) - 1)
