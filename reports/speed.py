"""Speed against a baseline, on the same samples and never across devices, modes, slots or dtypes.

A sample with repeats counts once, by their means."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.alike import alike
from reports.cells import AUTOREGRESSIVE, decoded, numbers, records
from reports.load import Run
from reports.statistics import NOTHING, Interval, paired_rate_ratio, paired_share_ratio

_COSTS = ["decode_s", "generated_tokens", "nfe", "token_forwards"]


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
    forwards: Interval
    """The baseline's NFE over the cell's: above 1 the cell takes fewer forward passes."""
    token_forwards: Interval
    """The same of positions pushed through the model."""
    why_not: str | None
    """Why there is no comparison; None where there is one."""


def speedups(run: Run, cells: pd.DataFrame, against: str = AUTOREGRESSIVE) -> dict[str, Speedup]:
    """For each cell that is not a baseline itself, by cell_id.

    The baseline is the cell of decoder `against` of the same task, mode, device, slots and dtype,
    of the same run before others, that shares the most decoded sample ids (of several: the same
    canvas length first). Of several
    autoregressive ones the cell's own second model goes first, then the name says; of others the
    fastest is taken, since whoever uses them would.
    """
    if cells.empty:
        return {}
    found = {}
    baselines = cells["decoder"] == against
    needed = cells["cell_id"] if baselines.any() else ()
    rows = {str(cell_id): _means(decoded(run.rows(cell_id))) for cell_id in needed}
    kind = "autoregressive" if against == AUTOREGRESSIVE else against
    for cell in records(cells[~baselines & ~cells["is_ar"]]):
        references = cells[baselines & (cells["benchmark"] == cell["benchmark"])]
        found[str(cell["cell_id"])] = _speedup(cell, references, rows, kind)
    return found


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """_COSTS of each sample, over its repeats."""
    return rows.groupby("sample_id", sort=False)[_COSTS].mean()


def _speedup(
    cell: dict[str, Any],
    references: pd.DataFrame,
    rows: dict[str, pd.DataFrame],
    kind: str,
) -> Speedup:
    cell_id = str(cell["cell_id"])
    if references.empty:
        return _none(cell_id, f"no {kind} cell for this task")
    asked = references[references["task"] == cell["task"]]
    if asked.empty:
        return _none(cell_id, f"the {kind} baseline answered other prompts: {_runs(references)}")
    same, why_not = alike(cell, asked, kind)
    if why_not:
        return _none(cell_id, why_not)
    mine, candidates = rows[cell_id], []
    for reference in records(same):
        shared = len(mine.index.intersection(rows[reference["cell_id"]].index))
        same_length = reference["gen_length"] == cell["gen_length"]
        model, stranger = str(reference["model"]), reference["model"] != cell["partner"]
        pace = 0.0 if reference["is_ar"] else float(reference["samples_per_s"])
        other_run = reference["run"] != cell["run"]
        order = (shared == 0, other_run, -shared, not same_length, -pace, stranger, model)
        candidates.append((*order, reference["cell_id"]))
    nothing_shared, *_, model, baseline_id = min(candidates)
    if nothing_shared:
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
        forwards=paired_share_ratio(numbers(both["nfe_0"]), numbers(both["nfe"])),
        token_forwards=paired_share_ratio(
            numbers(both["token_forwards_0"]), numbers(both["token_forwards"])
        ),
        why_not=None,
    )


def _runs(references: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(references["run"]))


def _none(cell_id: str, why: str) -> Speedup:
    return Speedup(cell_id, None, None, NOTHING, NOTHING, NOTHING, NOTHING, why)


def kept_accuracy(run: Run, cell_id: str, reference_id: str) -> Interval:
    """Share of the reference cell's accuracy that a cell keeps, on the samples both scored."""
    mine, theirs = (
        rows[rows["correct"].notna()].groupby("sample_id", sort=False)["correct"].mean()
        for rows in map(run.rows, (cell_id, reference_id))
    )
    both = pd.concat([mine, theirs], axis=1, join="inner", keys=["mine", "theirs"])
    return paired_share_ratio(numbers(both["mine"]), numbers(both["theirs"]))
