"""Which cells' speeds may stand beside each other."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.cells import MIXED, records

CONDITIONS = (("mode", "mode"), ("device", "device"), ("slots", "slot count"), ("dtype", "dtype"))
"""Columns of the table of cells that must agree, and what they are called."""

PLACE = ("device", "slots", "dtype")
"""What is the same for all points of a panel with speeds; its mode is the chart's."""


def unknown(cell: Mapping[str, Any]) -> str | None:
    """Why nothing can be compared with this cell's speed; None where something can."""
    for column, word in CONDITIONS:
        if pd.isna(cell[column]) or cell[column] == MIXED:
            known = "unknown" if pd.isna(cell[column]) else "not the same for all its rows"
            return f"its {word} is {known}"
    return None


def alike(cell: Mapping[str, Any], others: pd.DataFrame, kind: str) -> tuple[pd.DataFrame, str]:
    """Those of the others that were measured as this cell was, or why there are none."""
    why = unknown(cell)
    if why:
        return others.iloc[:0], why
    for column, word in CONDITIONS:
        kept = others[others[column] == cell[column]]
        if kept.empty:
            theirs = ", ".join(sorted({str(value) for value in others[column]}))
            why = f"the {kind} baseline differs in {word}: {theirs}, not {cell[column]}"
            return kept, why
        others = kept
    return others, ""


def place_text(cell: Mapping[str, Any]) -> str:
    """Where a cell ran, in words."""
    slots = f"{cell['slots']} slot{'' if cell['slots'] == 1 else 's'}"
    return f"{cell['device']}, {slots}, {cell['dtype']}"


def by_place(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """Cells whose speeds compare, together; those of which that is unknown are left out."""
    known = cells[[unknown(row) is None for row in records(cells)]]
    return [group for _, group in known.groupby(list(PLACE), sort=False)] if len(known) else []
