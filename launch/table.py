"""A table that grows by a row at a time: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol


class Table(Protocol):
    """Where rows go."""

    def add(self, cells: Sequence[str], is_good: bool) -> None:
        """Show one more row."""


class PlainTable:
    """Lines of aligned columns."""

    def __init__(self, headings: Sequence[str], widths: Sequence[int]) -> None:
        """Print the headings."""
        self.widths = widths
        self.add(headings, True)

    def add(self, cells: Sequence[str], is_good: bool) -> None:
        """Print a row."""
        padded = [cell.ljust(width) for cell, width in zip(cells, self.widths, strict=True)]
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
        sys.stdout.flush()


@contextmanager
def growing_table(headings: Sequence[str], widths: Sequence[int]) -> Iterator[Table]:
    """A table on standard output, as it suits.

    Args:
        headings: of the columns.
        widths: the columns' least widths, in characters.
    """
    if not sys.stdout.isatty():
        yield PlainTable(headings, widths)
        return
    from rich import box  # here, since it takes long to load
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE)
    for heading, width in zip(headings, widths, strict=True):
        table.add_column(heading, min_width=width, overflow="fold")
    with Live(table, console=Console()):

        class Rows:
            def add(self, cells: Sequence[str], is_good: bool) -> None:
                table.add_row(*cells, style=None if is_good else "red")

        yield Rows()
