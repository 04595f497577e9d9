"""Speed by structure of the text: by category, and against two measures of the text itself.

Rows whose metrics hold `output_bytes` are those of the structure experiment. The unit is the
prompt: its repeats are summed before anything is drawn, since they depend on each other.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.association import spearman
from reports.cells import decoded, metric, numbers, records
from reports.load import Run
from reports.statistics import Interval, rate, unpaired_rate_ratio

BYTES = "output_bytes"
RATIO = "compression_ratio"
ENTROPY = "token_entropy_nats"
AXES = (ENTROPY, RATIO)
UNSTRUCTURED = "prose"
"""The category that the others are compared with."""


@dataclass(frozen=True)
class Group:
    """The prompts of one category in one cell."""

    category: str
    prompts: int
    rows: int
    per_forward: Interval
    """Generated tokens over forwards, bootstrap over prompts."""
    per_forward_ratio: Interval | None
    """Over the unstructured category's; None for that one itself."""
    per_second: Interval
    per_second_ratio: Interval | None
    entropy: float
    """Mean over prompts, nats; NaN without traces."""
    ratio: float
    """Mean compression ratio over the prompts that have one."""
    tokens: float
    """Mean generated tokens a row."""


@dataclass(frozen=True)
class Structured:
    """One cell of the experiment."""

    cell_id: str
    task: str
    series: str
    mode: str
    groups: tuple[Group, ...]
    points: pd.DataFrame
    """A row a prompt: sample_id, category, tokens, forwards, seconds, rows, per_forward, and the
    mean of each of AXES (NaN where no row has it)."""
    correlations: dict[str, Interval]
    """Spearman's of tokens a forward with each of AXES, over the prompts that have it;
    none of an autoregressive cell."""


def structures(run: Run, cells: pd.DataFrame) -> list[Structured]:
    """The cells with rows of the experiment, in the order of the run."""
    if cells.empty:
        return []
    found = [(cell, _measured(run, cell["cell_id"])) for cell in records(cells)]
    return [_structured(cell, rows) for cell, rows in found if len(rows)]


def _measured(run: Run, cell_id: str) -> pd.DataFrame:
    rows = decoded(run.rows(cell_id))
    return rows[np.isfinite(metric(rows, BYTES)) & rows["category"].notna()]


def _structured(cell: dict[str, object], rows: pd.DataFrame) -> Structured:
    points = _points(rows)
    correlations = {}
    # One token a forward by design: what varies is only where texts end.
    for axis in () if cell["is_ar"] else AXES:
        known = points[points[axis].notna() & (points["per_forward"] > 0)]
        correlations[axis] = spearman(numbers(known[axis]), numbers(known["per_forward"]))
    by_category = dict(list(points.groupby("category", sort=False)))
    plain = by_category.get(UNSTRUCTURED, points.iloc[:0])
    return Structured(
        cell_id=str(cell["cell_id"]),
        task=str(cell["task"]),
        series=str(cell["series"]),
        mode=str(cell["mode"]),
        groups=tuple(_group(str(name), mine, plain) for name, mine in by_category.items()),
        points=points,
        correlations=correlations,
    )


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a prompt, its repeats summed; categories by name, the unstructured one last."""
    table = pd.DataFrame(
        {
            "sample_id": rows["sample_id"].to_numpy(),
            "category": rows["category"].to_numpy(),
            "tokens": numbers(rows["generated_tokens"]),
            "forwards": numbers(rows["nfe"]),
            "seconds": numbers(rows["decode_s"]),
            **{axis: metric(rows, axis) for axis in AXES},
        }
    )
    grouped = table.groupby(["category", "sample_id"], sort=True)
    points = grouped[["tokens", "forwards", "seconds"]].sum(min_count=1)
    points["rows"] = grouped.size()
    for axis in AXES:
        points[axis] = grouped[axis].mean()
    points["per_forward"] = points["tokens"] / points["forwards"]
    points = points.reset_index()
    return points.sort_values("category", key=lambda names: names == UNSTRUCTURED, kind="stable")


def _group(category: str, mine: pd.DataFrame, plain: pd.DataFrame) -> Group:
    tokens, forwards, seconds = (numbers(mine[name]) for name in ("tokens", "forwards", "seconds"))
    ratios: list[Interval | None] = [None, None]
    if category != UNSTRUCTURED:
        ratios = [
            unpaired_rate_ratio(
                tokens, numbers(mine[cost]), numbers(plain["tokens"]), numbers(plain[cost])
            )
            for cost in ("forwards", "seconds")
        ]
    return Group(
        category=category,
        prompts=len(mine),
        rows=int(mine["rows"].sum()),
        per_forward=rate(tokens, forwards),
        per_forward_ratio=ratios[0],
        per_second=rate(tokens, seconds),
        per_second_ratio=ratios[1],
        entropy=float(mine[ENTROPY].mean()),
        ratio=float(mine[RATIO].mean()),
        tokens=float(tokens.sum() / mine["rows"].sum()),
    )
