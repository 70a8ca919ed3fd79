"""A table of how the runs of a list stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from umamba.run.job_state import Condition


def show_states(rows: Sequence[tuple[Condition, Mapping[str, str]]], note: str = "") -> None:
    """Print a line per run, and how many there are of each state.

    Args:
        rows: How each stands, and its cells by column; all have the same columns.
        note: Said behind the numbers.
    """
    counts = {state: sum(condition is state for condition, _ in rows) for state in Condition}
    said = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    columns = list(rows[0][1]) if rows else []
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, caption=f"{said}{note}")
    for column in table.columns:
        column.overflow = "fold"  # names are long and are copied: nothing of them is left out
    for _, cells in rows:
        table.add_row(*cells.values())
    Console(markup=False, emoji=False).print(table)  # brackets are the user's, of lists and patterns
