"""The report's numbers as plain tables in full precision, so that any chart can be drawn again.

Ends of 95% intervals stand beside their number as `<name>_low` and `<name>_high`, its count as `n`
or as the column that the table's description names. `cell_id` joins the tables; of several runs it
begins with the run's place in the command."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from reports.analysis import Analysis
from reports.beside import is_text
from reports.cells import records
from reports.convergence import FRACTIONS
from reports.figures_rows import LEVELS, SPREADS, spreads
from reports.history import judged
from reports.statistics import Interval
from reports.text import visible

RATIOS = ("samples", "tokens", "forwards", "token_forwards")
MAPS = ("numbers", "remarks")
"""Columns of the table of cells that hold maps; `aggregates` has the numbers."""


def frames(found: Analysis) -> dict[str, pd.DataFrame]:
    """The tables by name; those without a row are left out."""
    made = {name: make(found) for name, (make, _) in TABLES.items()}
    return {name: _plain(frame) for name, frame in made.items() if len(frame)}


def _cells(found: Analysis) -> pd.DataFrame:
    return found.cells.drop(columns=list(MAPS), errors="ignore")


def _aggregates(found: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {"cell_id": cell["cell_id"], "task": cell["task"], "name": name, "value": value}
        for cell in records(found.cells)
        for name, value in cell["numbers"].items()
    )


def _speedups(found: Analysis) -> pd.DataFrame:
    rows = []
    for kind, compared in (("ar", found.compared), ("speculative", found.drafted)):
        for cell_id, speedup in compared.items():
            row: dict[str, Any] = {"cell_id": cell_id, "against": kind}
            row |= {"baseline_id": speedup.baseline_id, "why_not": speedup.why_not}
            for name in RATIOS:
                row |= _spread(name, getattr(speedup, name))
            rows.append(row | {"n": speedup.samples.n})
    return pd.DataFrame(rows)


def _convergence(found: Analysis) -> pd.DataFrame:
    rows = []
    for trace in found.traces:
        row: dict[str, Any] = {"cell_id": trace.cell_id, "task": trace.task}
        row |= {"series": trace.series, "steps": trace.steps, "traced": trace.traced}
        row["right"] = trace.right
        for fraction in FRACTIONS:
            row |= _spread(f"right_for_good_by_{fraction:g}", trace.at[fraction])
        rows.append(row | _spread("lost", trace.oscillated) | {"n": trace.oscillated.n})
    return pd.DataFrame(rows)


def _convergence_curve(found: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell_id": trace.cell_id,
            "step": step,
            "budget_share": share,
            "right_for_good": reached,
            "n": trace.right,
        }
        for trace in found.traces
        for step, (share, reached) in enumerate(zip(trace.fractions, trace.curve, strict=True))
    )


def _stops(found: Analysis) -> pd.DataFrame:
    parts = [trace.stops.assign(cell_id=trace.cell_id) for trace in found.traces]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _durations(found: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell_id": duration.cell_id,
            "step": step,
            "right_for_good": share,
            "right_for_good_low": low,
            "right_for_good_high": high,
            "n": duration.reached.n,
            "censored": duration.reached.n - duration.reached.events,
        }
        for duration in found.durations
        for step, share, low, high in zip(
            duration.reached.times,
            duration.reached.share,
            duration.reached.low,
            duration.reached.high,
            strict=True,
        )
    )


def _settled(found: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell_id": settling.cell_id,
            "task": settling.task,
            "budget_share": fraction,
            **_spread("settled", settling.at[fraction]),
            "n": settling.at[fraction].n,
        }
        for settling in found.settled
        for fraction in FRACTIONS
    )


def _structure(found: Analysis) -> pd.DataFrame:
    rows = []
    for cell in found.structured:
        for group in cell.groups:
            row: dict[str, Any] = {"cell_id": cell.cell_id, "category": group.category}
            row |= _spread("tokens_per_forward", group.per_forward)
            row |= _spread("tokens_per_s", group.per_second)
            for name, ratio in (
                ("tokens_per_forward_ratio", group.per_forward_ratio),
                ("tokens_per_s_ratio", group.per_second_ratio),
            ):
                row |= _spread(name, ratio) if ratio is not None else {}
            row |= {"token_entropy_nats": group.entropy, "compression_ratio": group.ratio}
            rows.append(row | {"rows": group.rows, "n": group.prompts})
    return pd.DataFrame(rows)


def _spreads(found: Analysis) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell_id": spread.cell_id,
            "quantity": quantity,
            **{
                f"q{100 * level:02.0f}": value
                for level, value in zip(LEVELS, spread.quantiles.tolist(), strict=True)
            },
            "n": spread.n,
        }
        for quantity in SPREADS
        for spread in spreads(found.costs, quantity).values()
    )


def _runs(found: Analysis) -> pd.DataFrame:
    runs = dict(found.members)
    return pd.DataFrame(
        {
            "run": entry.label,
            "run_id": runs[entry.label].run_id,
            "created_at": str(runs[entry.label].success.get("created_at") or ""),
            "rows": len(runs[entry.label].samples),
            "verdict": entry.verdict or None,
            "why": entry.why or None,
        }
        for entry in judged(found.run)
    )


TABLES: dict[str, tuple[Callable[[Analysis], pd.DataFrame], str]] = {
    "cells": (_cells, "every cell: settings, counts, quality, speed; n: scored, texts, timed"),
    "speedups": (_speedups, "times the baseline's speed and times fewer passes; n: pairs"),
    "convergence": (_convergence, "right for good by parts of the budget (of `right`), lost"),
    "convergence_curve": (_convergence_curve, "right for good by every step"),
    "stops": (_stops, "accuracy if decoding had stopped at each step"),
    "durations": (_durations, "steps until right for good, the never right censored"),
    "settling": (_settled, "final tokens settled by parts of the budget"),
    "spreads": (_spreads, "quantiles of NFE and decode_s over outputs"),
    "structure": (_structure, "speed by category of prompts; n: prompts"),
    "aggregates": (_aggregates, "the tasks' own aggregates"),
    "runs": (_runs, "the runs and the gate's verdicts"),
}
"""How each table is made, and what it holds."""


def _spread(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of one type each, with text as the page shows it. A column of numbers in which one
    is a word is text."""
    made = frame.copy()
    for name, column in frame.items():
        if is_text(column):
            made[name] = pd.Series([_text(value) for value in column], frame.index, object)
    return made


def _text(value: Any) -> str | None:
    if value is None or value is pd.NA or value != value:
        return None
    return visible(str(value))
