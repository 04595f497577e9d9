"""Speed against a baseline, on the same samples and never across devices or modes.

A sample with repeats counts once, by their means."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.cells import AUTOREGRESSIVE, MIXED, decoded, numbers
from reports.load import Run
from reports.statistics import NOTHING, Interval, paired_rate_ratio, paired_share_ratio

_ALIKE = (("mode", "mode"), ("device", "device"), ("slots", "slot count"))


@dataclass(frozen=True)
class Speedup:
    """A cell's speed as a multiple of its baseline's."""

    cell_id: str
    baseline_id: str | None
    baseline: str | None
    """The baseline's model."""
    samples: Interval
    """Samples/s over samples/s, the same sample ids on both sides."""
    tokens: Interval
    """Generated tokens/s over generated tokens/s, the same sample ids on both sides."""
    why_not: str | None
    """Why there is no comparison; None where there is one."""


def speedups(run: Run, cells: pd.DataFrame, against: str = AUTOREGRESSIVE) -> dict[str, Speedup]:
    """For each cell that is not a baseline itself, by cell_id.

    The baseline is the cell of decoder `against` of the same task, mode, device and slots that
    shares the most decoded sample ids (of several: the same canvas length first). Of several
    autoregressive ones the cell's own second model goes first, then the name says; of others the
    fastest is taken, since whoever uses them would.
    """
    if cells.empty:
        return {}
    rows = {str(cell_id): _means(decoded(run.rows(cell_id))) for cell_id in cells["cell_id"]}
    nothing = pd.DataFrame(columns=["decode_s", "generated_tokens"])
    found = {}
    baselines = cells["decoder"] == against
    kind = "autoregressive" if against == AUTOREGRESSIVE else against
    for _, cell in cells[~baselines & ~cells["is_ar"]].iterrows():
        mine = rows.get(cell["cell_id"], nothing)
        references = cells[baselines & (cells["task"] == cell["task"])]
        found[str(cell["cell_id"])] = _speedup(cell, mine, references, rows, kind)
    return found


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds and tokens of each sample, over its repeats."""
    return rows.groupby("sample_id", sort=False)[["decode_s", "generated_tokens"]].mean()


def _speedup(
    cell: "pd.Series[str]",
    mine: pd.DataFrame,
    references: pd.DataFrame,
    rows: dict[str, pd.DataFrame],
    kind: str,
) -> Speedup:
    cell_id = str(cell["cell_id"])
    if references.empty:
        return _none(cell_id, f"no {kind} cell for this task")
    alike = references
    for column, word in _ALIKE:
        if pd.isna(cell[column]) or cell[column] == MIXED:
            known = "unknown" if pd.isna(cell[column]) else "not the same for all its rows"
            return _none(cell_id, f"its {word} is {known}")
        kept = alike[alike[column] == cell[column]]
        if kept.empty:
            theirs = ", ".join(sorted({str(value) for value in alike[column]}))
            return _none(
                cell_id,
                f"the {kind} baseline differs in {word}: {theirs}, not {cell[column]}",
            )
        alike = kept
    candidates = []
    for _, reference in alike.iterrows():
        theirs_rows = rows.get(reference["cell_id"])
        shared = 0 if theirs_rows is None else len(mine.index.intersection(theirs_rows.index))
        same_length = reference["gen_length"] == cell["gen_length"]
        model, stranger = str(reference["model"]), reference["model"] != cell["partner"]
        pace = 0.0 if reference["is_ar"] else float(reference["samples_per_s"])
        order = (-shared, not same_length, -pace, stranger, model)
        candidates.append((*order, reference["cell_id"]))
    shared, *_, model, baseline_id = min(candidates)
    if shared == 0:
        return _none(cell_id, "no sample was decoded by both")
    both = mine.merge(rows[baseline_id], left_index=True, right_index=True, suffixes=("", "_0"))
    seconds, baseline_seconds = numbers(both["decode_s"]), numbers(both["decode_s_0"])
    ones = np.ones_like(seconds)
    return Speedup(
        cell_id=cell_id,
        baseline_id=baseline_id,
        baseline=model,
        samples=paired_rate_ratio(ones, seconds, ones, baseline_seconds),
        tokens=paired_rate_ratio(
            numbers(both["generated_tokens"]),
            seconds,
            numbers(both["generated_tokens_0"]),
            baseline_seconds,
        ),
        why_not=None,
    )


def _none(cell_id: str, why: str) -> Speedup:
    return Speedup(cell_id, None, None, NOTHING, NOTHING, why)


def kept_accuracy(run: Run, cell_id: str, reference_id: str) -> Interval:
    """Share of the reference cell's accuracy that a cell keeps, on the samples both scored."""
    mine, theirs = (
        rows[rows["correct"].notna()].groupby("sample_id", sort=False)["correct"].mean()
        for rows in map(run.rows, (cell_id, reference_id))
    )
    both = pd.concat([mine, theirs], axis=1, join="inner", keys=["mine", "theirs"])
    return paired_share_ratio(numbers(both["mine"]), numbers(both["theirs"]))
