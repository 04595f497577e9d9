"""How early answers are right: from the traces of single steps.

Only traced samples can speak here. For each line of a chart (task, model, decoder) the traced
cell with the largest step budget is used: stopping earlier than its budget is what the numbers
are about.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.cells import numbers, records, share_right
from reports.load import Run
from reports.statistics import FloatArray, Interval, share_reached, wilson_of_groups
from reports.steps import last_known

FRACTIONS = (0.125, 0.25, 0.5, 0.75)
"""The shares of the budget that the table names."""


@dataclass(frozen=True)
class Convergence:
    """The traced samples of one cell."""

    task: str
    series: str
    cell_id: str
    steps: int
    traced: int
    right: int
    """Finally correct samples among the traced ones: the n of `curve`."""
    fractions: FloatArray
    """Shares of the step budget, s/steps for s = 0..steps."""
    curve: FloatArray
    """Share of the finally correct that were right from that step on to the end."""
    at: dict[float, Interval]
    """The curve at FRACTIONS, Wilson."""
    oscillated: Interval
    """Of the traced samples: right at some step, wrong at the end. Wilson."""
    stops: pd.DataFrame
    """Accuracy if all had stopped at `step`: step, accuracy, accuracy_low, accuracy_high, n."""


def convergences(run: Run, cells: pd.DataFrame) -> list[Convergence]:
    """One for each (task, series) that has traces and verdicts, in the order of the cells."""
    if cells.empty:
        return []
    judged = {cell_id: _judged(run, cell_id) for cell_id in cells["cell_id"]}
    known = np.array([judged[cell_id].any() for cell_id in cells["cell_id"]], dtype=bool)
    candidates = cells[cells["shown"] & ~cells["is_ar"] & known]
    largest = candidates.sort_values("steps", ascending=False, kind="stable").drop_duplicates(
        ["task", "series"]
    )
    return [
        _convergence(run, cell, judged[cell["cell_id"]]) for cell in records(largest.sort_index())
    ]


def _judged(run: Run, cell_id: str) -> npt.NDArray[np.bool]:
    """Which of a cell's samples have a trace and a verdict."""
    samples = run.rows(cell_id)
    traced = np.zeros(len(samples), dtype=bool)
    traced[run.traces(cell_id)["row"]] = True
    return traced & samples["correct"].notna().to_numpy()


def _convergence(run: Run, cell: dict[str, Any], judged: npt.NDArray[np.bool]) -> Convergence:
    steps, rows, trace = int(cell["steps"]), run.rows(cell["cell_id"]), run.traces(cell["cell_id"])
    samples, trace = rows[judged], trace[judged[trace["row"]]]
    right = samples[(samples["correct"] == 1) & samples["converged_step"].notna()]
    positions = numbers(right["converged_step"]) / steps
    fractions = np.arange(steps + 1, dtype=np.float64) / steps
    at = {
        fraction: share_right(right.assign(reached=positions <= fraction + 1e-9), "reached")
        for fraction in FRACTIONS
    }
    followed = samples[samples["oscillated"].notna()]
    return Convergence(
        task=cell["task"],
        series=cell["series"],
        cell_id=cell["cell_id"],
        steps=steps,
        traced=len(samples),
        right=len(right),
        fractions=fractions,
        curve=share_reached(positions, fractions),
        at=at,
        oscillated=share_right(followed, "oscillated"),
        stops=stop_curve(trace, steps, rows["sample_id"].to_numpy()),
    )


def stop_curve(
    trace: pd.DataFrame, steps: int, sample_ids: npt.NDArray[Any] | None = None
) -> pd.DataFrame:
    """Accuracy at each step 1..steps if every traced sample had stopped there.

    Before a sample's first verdict it is not right. A step without one (the trace ended, or the
    step was not looked at, as scoring was dear) keeps the verdict before it. So each step is over
    the same n samples; steps that were looked at for none of them are left out. `trace` holds
    columns row, step and correct; `sample_ids` says by row which rows are repeats of one sample;
    None: none are.
    """
    judged = trace[trace["correct"].notna()]
    unseen = set(trace["step"].unique()) - set(judged["step"].unique())
    codes, rows = pd.factorize(judged["row"])
    verdicts = last_known(
        codes, judged["step"].to_numpy(), numbers(judged["correct"]), len(rows), steps
    )
    shown = [step for step in range(1, steps + 1) if step not in unseen]
    groups, _ = pd.factorize(rows if sample_ids is None else sample_ids[rows])
    counts = np.bincount(groups).astype(np.float64)
    right = [np.bincount(groups, np.nan_to_num(verdicts[step - 1])) for step in shown]
    intervals = [wilson_of_groups(found.astype(np.float64), counts) for found in right]
    return pd.DataFrame(
        {
            "step": shown,
            "accuracy": [interval.value for interval in intervals],
            "accuracy_low": [interval.low for interval in intervals],
            "accuracy_high": [interval.high for interval in intervals],
            "n": [interval.n for interval in intervals],
        }
    )
