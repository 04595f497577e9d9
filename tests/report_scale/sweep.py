"""A made-up run of any size, written fast: a sweep of models, decoders, budgets and modes."""

import hashlib
import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reports.schema import SCHEMA_VERSION, TABLES
from tests.report_scale.rows import RUN_ID, SKILL, Cell, samples_of, steps_of

MODELS = ("base-8b", "tuned-8b")
DECODERS = ("llada", "fast-dllm")
BUDGETS = (4, 8, 16, 32, 64)
MODES = ("throughput", "latency")
LENGTH = 64
GROUP_ROWS = {"samples": 4096, "steps": 65536, "cells": 4096}
"""Rows of a row group, about as a run's commit writes them."""

FILES = {"samples": 4, "steps": 8, "cells": 1}


def cells() -> list[Cell]:
    """Every cell of the sweep."""
    found = []
    for task, mode in product(SKILL, MODES):
        for model, decoder, steps in product(MODELS, DECODERS, BUDGETS):
            found.append(Cell(task, model, decoder, steps, LENGTH, mode))
        found.append(Cell(task, "causal-8b", "ar", LENGTH, LENGTH, mode))
    return found


def write(folder: Path, samples: int, steps: int) -> None:
    """Writes a finished run of so many rows of either table, as a reader checks it.

    Raises:
        ValueError: there cannot be so few samples, or so many steps of them.
    """
    sweep = cells()
    share, rest = divmod(samples, len(sweep))
    if share < 1:
        raise ValueError(f"samples must be at least {len(sweep)}, one a cell, got {samples}")
    counts = {cell: share + (at < rest) for at, cell in enumerate(sweep)}
    most = sum(count * cell.steps for cell, count in counts.items() if cell.traced)
    if steps > most:
        raise ValueError(f"{samples} samples have at most {most} traced steps, got {steps}")
    of_samples = Writer(folder, "samples", samples)
    of_steps = Writer(folder, "steps", steps)
    of_cells = Writer(folder, "cells", len(sweep))
    statuses: Counter[str] = Counter()
    for cell, count in counts.items():
        rows = samples_of(cell, count)
        of_samples.write(rows)
        if cell.traced:
            # Of every cell the same share; rounded up, so the last cell has what is left.
            for part in steps_of(cell, rows.slice(0, -(-steps * count // most))):
                of_steps.write(part.slice(0, steps - of_steps.rows))
        found = Counter(rows["status"].to_pylist())
        statuses += found
        of_cells.write(pa.Table.from_pylist([_cell_row(cell, count, found)], TABLES["cells"]))
    files = [entry for table in (of_samples, of_steps, of_cells) for entry in table.close()]
    _finish(folder, samples, dict(statuses), files)


class Writer:
    """A table as FILES of its name, each of about the same number of rows."""

    def __init__(self, folder: Path, name: str, expected: int) -> None:
        self.rows = 0
        self._folder, self._name = folder, name
        self._rows_a_file = max(1, -(-expected // FILES[name]))
        self._held = TABLES[name].empty_table()
        self._entries: list[dict[str, Any]] = []
        (folder / name).mkdir(parents=True)

    def write(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        self._held = pa.concat_tables([self._held, table])
        while self._held.num_rows >= self._rows_a_file:
            self._file(self._held.slice(0, self._rows_a_file))
            self._held = self._held.slice(self._rows_a_file)

    def close(self) -> list[dict[str, Any]]:
        """What `_SUCCESS.json` says of the files."""
        if self._held.num_rows:
            self._file(self._held)
        return self._entries

    def _file(self, table: pa.Table) -> None:
        name = f"{self._name}/part-{len(self._entries):05d}.parquet"
        path = self._folder / name
        groups = GROUP_ROWS[self._name]
        pq.write_table(table, path, row_group_size=groups, compression="zstd")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._entries.append(
            {
                "table": self._name,
                "path": name,
                "bytes": path.stat().st_size,
                "sha256": digest,
                "rows": table.num_rows,
            }
        )


def _cell_row(cell: Cell, count: int, statuses: Counter[str]) -> dict[str, Any]:
    config = {"recipe": cell.decoder, "steps": cell.steps, "block_length": 32, "gen_length": LENGTH}
    metrics = {"pass@1": 0.3, "pass@5": 0.5} if cell.repeats > 1 else {}
    return {
        "run_id": RUN_ID,
        "cell_id": cell.cell_id,
        "task": cell.task,
        "task_version": "1",
        "model": cell.model,
        "model_digest": hashlib.sha256(cell.model.encode()).hexdigest(),
        "decoder": cell.decoder,
        "decoder_config": json.dumps(config),
        "decoder_fingerprint": hashlib.sha256(cell.cell_id.encode()).hexdigest()[:16],
        "steps": cell.steps,
        "gen_length": LENGTH,
        "mode": cell.mode,
        "num_fewshot": 0,
        "n": count,
        "statuses": list(statuses.items()),
        "metrics": list(metrics.items()),
        "remarks": [],
    }


def _finish(
    folder: Path, samples: int, statuses: dict[str, int], files: list[dict[str, Any]]
) -> None:
    facts = {"digest": "0" * 16, "parameters": 8_000_000_000, "dtype": "bfloat16", "slots": 32}
    about = {
        "run_id": RUN_ID,
        "created_at": "2026-11-21T09:30:00+00:00",
        "config": {"name": "made-up", "tasks": list(SKILL)},
        "models": {name: facts for name in (*MODELS, "causal-8b")},
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "made up", "cores": 2, "gpus": [], "device": "cpu", "pool": 8},
    }
    success = {
        "schema_version": SCHEMA_VERSION,
        "run_id": RUN_ID,
        "created_at": "2026-11-21T09:30:00+00:00",
        "finished_at": "2026-11-21T21:30:00+00:00",
        "wall_s": 43_200.0,
        "rows": samples,
        "statuses": statuses,
        "files": files,
    }
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "_SUCCESS.json").write_text(json.dumps(success), encoding="utf-8")
