"""The steps of a run, cell by cell, from any number of files; and what was known after each."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.load import load
from reports.steps import last_known
from tests.report_scale.sweep import cells, write


def _split(run: Path, table: str, pieces: int, shuffled: int | None = None) -> None:
    """Writes a table of a run as several files, its rows in another order."""
    path = run / table / "part-00000.parquet"
    rows = pq.read_table(path)
    if shuffled is not None:
        order = np.random.default_rng(shuffled).permutation(rows.num_rows)
        rows = rows.take(pa.array(order))
    success = json.loads((run / "_SUCCESS.json").read_text())
    success["files"] = [entry for entry in success["files"] if entry["table"] != table]
    size = -(-rows.num_rows // pieces)
    for at in range(pieces):
        name = f"{table}/part-{at:05d}.parquet"
        pq.write_table(rows.slice(at * size, size), run / name, row_group_size=7)
        digest = hashlib.sha256((run / name).read_bytes()).hexdigest()
        success["files"].append({"table": table, "path": name, "sha256": digest})
    (run / "_SUCCESS.json").write_text(json.dumps(success))


def test_steps_are_those_of_the_files(make_run: Callable[..., Path]) -> None:
    path = make_run(tasks=("gsm8k", "mmlu"), budgets=(4, 8), n=9)
    _split(path, "samples", 3, shuffled=1)
    _split(path, "steps", 5, shuffled=2)
    run = load(path)
    every = pq.read_table(path / "steps").to_pandas()
    seen = 0
    for cell_id, rows in run.samples.groupby("cell_id", sort=False):
        assert run.rows(str(cell_id))["sid"].tolist() == rows["sid"].tolist()
        found = run.traces(str(cell_id))
        sids = rows["sid"].to_numpy()[found["row"]]
        expected = every[every["sid"].isin(rows["sid"])]
        left = sorted(zip(sids, found["step"], found["correct"], strict=True))
        columns = (expected["sid"], expected["step"], expected["correct"])
        assert left == sorted(zip(*columns, strict=True))
        seen += len(left)
    assert seen == len(every) > 0


def test_steps_of_samples_that_the_run_does_not_have_are_left_out(
    make_run: Callable[..., Path],
) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    run = load(path)
    (cell_id, *_) = run.cells["cell_id"]
    assert len(run.traces(cell_id)) == 12
    fewer = replace(run, samples=run.samples.drop(index=1))
    assert fewer.traces(cell_id)["row"].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("seed", range(5))
def test_what_was_known_equals_a_filled_pivot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = pd.DataFrame({"row": np.repeat(np.arange(6), 12), "step": np.tile(np.arange(12), 6)})
    known = known.sample(frac=0.4, random_state=seed)
    known["value"] = rng.random(len(known), np.float32)
    pivot = known.pivot_table(index="row", columns="step", values="value", aggfunc="last")
    expected = pivot.reindex(index=range(6), columns=range(1, 9)).ffill(axis=1)
    found = last_known(*(known[name].to_numpy() for name in ("row", "step", "value")), 6, 8)
    assert np.array_equal(found, expected.to_numpy().T, equal_nan=True)


def test_the_made_up_run_of_the_benchmark_is_one_that_reports_read(tmp_path: Path) -> None:
    write(tmp_path / "run", samples=420, steps=900)
    run = load(tmp_path / "run")
    assert len(run.samples) == 420 and len(run.cells) == len(cells())
    assert sum(len(run.traces(cell_id)) for cell_id in run.cells["cell_id"]) == 900
    with pytest.raises(ValueError, match="at most"):
        write(tmp_path / "other", samples=420, steps=10**6)
