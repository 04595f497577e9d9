"""Rows of the `cells` table: counts, shares and the tasks' own aggregates, cell by cell."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.cells import Cell
from cluster.features import Features
from evaluators import Score

_SCORED = ("cell_id", "sample_id", "category", "status", "correct", "score", "answer", "metrics")
_COUNTED = ("drafted_tokens", "accepted_tokens", "early_commit_step", "early_commit_gap")


@dataclass
class _Open:
    """A cell whose rows are still coming."""

    statuses: Counter[str] = field(default_factory=Counter)
    scores: list[Score] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    features: Features = field(default_factory=Features)


class Aggregates:
    """Takes the rows of a run in any order and keeps those of unfinished cells alone.

    Args:
        run_id: goes into every row.
        cells: those of the run.
        rows: how many rows each cell has, by its id.
    """

    def __init__(self, run_id: str, cells: Sequence[Cell], rows: Mapping[str, int]) -> None:
        self._run_id, self._rows = run_id, rows
        self._cells = {cell.cell_id: cell for cell in cells}
        self._open: defaultdict[str, _Open] = defaultdict(_Open)
        self._ended: dict[str, dict[str, Any]] = {}
        self.statuses: Counter[str] = Counter()

    def add(self, samples: pa.Table) -> None:
        for cell_id, of_cell in _by_cell(samples):
            if self._cells[cell_id].kind.compare is not None:
                self._open[cell_id].features.add(of_cell)
        for row in samples.select([*_SCORED, *_COUNTED]).to_pylist():
            cell_id = row["cell_id"]
            cell = self._open[cell_id]
            cell.statuses[row["status"]] += 1
            self.statuses[row["status"]] += 1
            _count(row, cell.counts)
            if row["status"] in ("ok", "not_executed"):
                cell.scores.append(_score(row))
            if cell.statuses.total() == self._rows[cell_id]:
                self._ended[cell_id] = self._row(self._cells[cell_id], self._open.pop(cell_id))

    def rows(self) -> list[dict[str, Any]]:
        """Of every cell, in the run's order."""
        for cell_id, cell in self._cells.items():
            if cell_id not in self._ended:
                self._ended[cell_id] = self._row(cell, self._open.pop(cell_id, _Open()))
        return [self._ended[cell_id] for cell_id in self._cells]

    def _row(self, cell: Cell, found: _Open) -> dict[str, Any]:
        return {
            "run_id": self._run_id,
            "cell_id": cell.cell_id,
            "task": cell.task,
            "task_version": cell.task_version,
            "model": cell.model.name,
            "model_digest": cell.model.digest,
            "decoder": cell.decoder.recipe,
            "decoder_config": json.dumps(cell.decoder.settings()),
            "decoder_fingerprint": cell.decoder.fingerprint,
            "partner": cell.partner.name if cell.partner else None,
            "steps": cell.decoder.budget,
            "gen_length": cell.decoder.gen_length,
            "mode": cell.mode,
            "num_fewshot": cell.num_fewshot,
            "n": found.statuses.total(),
            "statuses": list(found.statuses.items()),
            **_judged(cell, found),
            **_shares(found.counts),
        }


def _judged(cell: Cell, found: _Open) -> dict[str, Any]:
    """The task's numbers of a cell, and what is to be said of them."""
    task = cell.kind
    metrics, remarks = task.aggregate(found.scores), dict(task.remarks)
    if task.compare is not None and found.scores:
        compared, reasons = task.compare(*found.features.arrays())
        metrics, remarks = {**metrics, **compared}, {**remarks, **reasons}
    reader = cell.scorer if task.needs_scorer else cell.model
    if reader is not None and not task.has_answer:
        remarks["tokenizer"] = reader.name
    return {"metrics": list(metrics.items()), "remarks": list(remarks.items())}


def _by_cell(samples: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for cell_id in samples["cell_id"].unique().to_pylist():
        yield cell_id, samples.filter(pc.equal(samples["cell_id"], cell_id))


def _score(row: Mapping[str, Any]) -> Score:
    return Score(
        None if row["correct"] is None else bool(row["correct"]),
        row["score"],
        row["answer"],
        dict(row["metrics"] or ()),
        executed=row["status"] == "ok",
        category=row["category"],
        sample_id=row["sample_id"],
    )


def _count(row: Mapping[str, Any], counts: Counter[str]) -> None:
    counts["drafted"] += row["drafted_tokens"] or 0
    counts["accepted"] += row["accepted_tokens"] or 0
    counts["early"] += row["early_commit_step"] is not None
    counts["measured"] += row["early_commit_gap"] is not None


def _shares(counts: Counter[str]) -> dict[str, float]:
    """The share of drafted tokens that were accepted, and of samples that ended in an early commit;
    absent where the recipe has no such thing."""
    ratios = (("acceptance", "accepted", "drafted"), ("early_commit_share", "early", "measured"))
    return {name: counts[a] / counts[b] for name, a, b in ratios if counts[b]}
