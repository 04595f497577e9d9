"""How early texts are settled, where no answer is right or wrong: the share of the finally written
tokens that were written, or the model's best guess, at each step. From the traces."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.cells import numbers, records
from reports.convergence import FRACTIONS
from reports.load import Run
from reports.plot import (
    Chart,
    Figure,
    Key,
    Panel,
    counted,
    labelled,
    layout,
    line,
    percent_axis,
    series_styles,
    whiskers,
)
from reports.statistics import SMALL_N, FloatArray, Interval, mean
from reports.steps import last_known
from reports.tables import Column, Entry, share_entry
from reports.text import between, percent, plot_text

SETTLING_COLUMNS = (
    Column("task", "benchmark", number=False),
    Column("texts", "traced samples that wrote a token"),
    *(
        Column(f"by {name}", f"of the final tokens: the best guess already by {name} of the budget")
        for name in ("⅛", "¼", "½", "¾")
    ),
)


@dataclass(frozen=True)
class Settling:
    """The traced samples of one cell."""

    task: str
    series: str
    cell_id: str
    steps: int
    texts: int
    fractions: FloatArray
    """Shares of the step budget, s/steps for s = 0..steps."""
    curve: FloatArray
    """Mean share of a text's final tokens that were settled after each of them."""
    at: dict[float, Interval]
    """The curve at FRACTIONS, bootstrap over samples. A share that no whole step fills has the
    step before it."""


def settlings(run: Run, cells: pd.DataFrame) -> list[Settling]:
    """One for each (task, series) that has traces and no verdicts: its largest budget."""
    if cells.empty:
        return []
    chosen = cells[cells["shown"] & ~cells["is_ar"] & (cells["scored"] == 0)]
    largest = chosen.sort_values("steps", ascending=False, kind="stable").drop_duplicates(
        ["task", "series"]
    )
    found = [_settling(run, cell) for cell in records(largest.sort_index())]
    return [settling for settling in found if settling is not None]


def _settling(run: Run, cell: dict[str, Any]) -> Settling | None:
    steps = int(cell["steps"])
    trace = run.traces(cell["cell_id"])
    trace = trace[trace["top1_share"].notna()]
    if trace.empty:
        return None
    # By sid, so that what the bootstrap draws does not hang on the order of the run.
    sids = run.rows(cell["cell_id"])["sid"].to_numpy()[trace["row"]]
    codes, rows = pd.factorize(sids, sort=True)
    # A sample that ended before its budget has all its tokens from there on.
    shares = last_known(
        codes, trace["step"].to_numpy(), numbers(trace["top1_share"]), len(rows), steps
    )
    columns = [np.zeros(len(rows)), *shares.astype(np.float64)]
    return Settling(
        task=cell["task"],
        series=cell["series"],
        cell_id=cell["cell_id"],
        steps=steps,
        texts=len(rows),
        fractions=np.arange(steps + 1, dtype=np.float64) / steps,
        curve=np.array([column.mean() for column in columns]),
        at={part: mean(columns[int(part * steps)]) for part in FRACTIONS},
    )


def settling_rows(found: list[Settling]) -> list[list[Entry]]:
    """One row a traced line, in the order of SETTLING_COLUMNS."""
    several = len({settling.series for settling in found}) > 1
    return [
        [
            Entry(settling.task, settling.series if several else "", settling.task),
            Entry(
                str(settling.texts),
                "",
                settling.texts,
                "small n" if settling.texts < SMALL_N else "",
            ),
            *(share_entry(settling.at[part]) for part in FRACTIONS),
        ]
        for settling in found
    ]


def settling_chart(found: list[Settling], cells: pd.DataFrame) -> Chart:
    """Settled tokens against the share of the budget, a panel a task."""
    styles = series_styles(cells)
    names = dict.fromkeys(settling.series for settling in found)
    by_task = {
        task: [settling for settling in found if settling.task == task]
        for task in dict.fromkeys(settling.task for settling in found)
    }
    keys = [labelled(styles[name], name) for name in names]
    return Chart(
        "settling", tuple(keys), tuple(_panel(*entry, styles) for entry in by_task.items())
    )


def _panel(task: str, found: list[Settling], styles: dict[str, Key]) -> Panel:
    x = {
        "range": [-0.02, 1.02],
        "tickvals": [0, 0.125, 0.25, 0.5, 0.75, 1],
        "ticktext": ["0", "⅛", "¼", "½", "¾", "1"],
        "title": {"text": "share of the step budget used", "standoff": 8},
    }
    figure: Figure = {"data": [], "layout": layout(x, percent_axis("final tokens"), height=330)}
    for settling in found:
        key, name = styles[settling.series], plot_text(settling.series)
        hover = [
            f"{name}<br>by step {step} of {settling.steps}: {percent(share)} of the final tokens"
            for step, share in enumerate(settling.curve.tolist())
        ]
        plain = labelled(key, settling.series, marker=None)
        figure["data"].append(
            line(plain, settling.fractions.tolist(), settling.curve.tolist(), hover)
        )
        at = [settling.at[part] for part in FRACTIONS]
        ends = [
            f"{name}<br>by {part:g} of the budget: {percent(interval.value)} "
            f"{between(interval.low, interval.high, percent)}<br>{counted(interval.n, 'texts')}"
            for part, interval in zip(FRACTIONS, at, strict=True)
        ]
        values = [interval.value for interval in at]
        bars = whiskers(
            key, values, [interval.low for interval in at], [interval.high for interval in at]
        )
        points = labelled(key, settling.series)
        figure["data"].append(
            line(points, list(FRACTIONS), values, ends, mode="markers", error_y=bars)
        )
    budgets = ", ".join(str(steps) for steps in sorted({settling.steps for settling in found}))
    texts = ", ".join(str(n) for n in sorted({settling.texts for settling in found}))
    return Panel(task, f"budget: {budgets} steps; {texts} texts", figure)
