"""Parts, what is finished, and the commit: every sid once, steps with their samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.cells import Cell, ModelSpec
from cluster.commit import MANIFEST_FILE, commit, read_success
from cluster.errors import CommitError
from cluster.manifest import Item, build
from cluster.manifest import write as write_manifest
from cluster.parts import FLUSH_ROWS, PartWriter, finished
from cluster.rows import Place, error_row
from cluster.store import Store
from decoders import make_decoder
from evaluators import Prompt, Sample

MODEL = ModelSpec("m", "/somewhere", "d1", "float32", 8)
PLACE = Place("run-1", "worker", "cpu")


def cell(steps: int) -> Cell:
    return Cell(
        model=MODEL,
        decoder=make_decoder("llada", {"gen_length": 16, "steps": steps}),
        task="gsm8k",
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
    )


CELLS = [cell(4), cell(8)]


@pytest.fixture
def manifest() -> pa.Table:
    def items(_: Cell) -> list[Item]:
        return [
            Item(Sample(str(n), "1", None, {}), Prompt(f"prompt {n}", ()), (1,) * (n + 1))
            for n in range(3)
        ]

    return build(CELLS, items)


def sample_row(row: dict[str, Any], answer: str = "1") -> dict[str, Any]:
    of = {c.cell_id: c for c in CELLS}[row["cell_id"]]
    return {
        **error_row(row, of, PLACE, ""),
        "status": "ok",
        "error": None,
        "answer": answer,
        "correct": 1,
        "score": 1.0,
        "metrics": [("strict", 1.0), ("flexible", 1.0)],
    }


def step_row(row: dict[str, Any], step: int) -> dict[str, Any]:
    return {
        "sid": row["sid"],
        "step": step,
        "nfe": step,
        "committed": [0],
        "tokens": [5],
        "confidence": [0.5],
        "masked_left": 1,
        "elapsed_s": 0.1,
    }


def write(folder: Path, rows: list[dict[str, Any]], answer: str = "1") -> None:
    folder.mkdir(exist_ok=True)
    writer = PartWriter(Store.open(folder))
    for row in rows:
        writer.add(sample_row(row, answer), [step_row(row, 2), step_row(row, 1)])
    writer.flush()


def run_of(folder: Path, manifest: pa.Table) -> Store:
    run = Store.open(folder)
    write_manifest([manifest], run, MANIFEST_FILE)
    return run


def test_the_manifest_keeps_cells_together_and_the_longest_first(manifest: pa.Table) -> None:
    assert manifest.num_rows == 6
    assert len(set(manifest["sid"].to_pylist())) == 6
    of = {c.cell_id: c.decoder.budget for c in CELLS}
    order = [(row["length"], of[row["cell_id"]]) for row in manifest.to_pylist()]
    assert order == [(19, 8), (18, 8), (17, 8), (19, 4), (18, 4), (17, 4)]


def test_a_run_is_committed_once_and_whole(tmp_path: Path, manifest: pa.Table) -> None:
    rows = manifest.to_pylist()
    write(tmp_path / "parts", rows[:4])
    run = Store.open(tmp_path)
    done, statuses = finished(run.child("parts"))
    assert statuses == {"ok": 4}
    assert [row["sid"] in done for row in rows] == [True] * 4 + [False] * 2
    assert read_success(run) is None
    with pytest.raises(CommitError, match="2 of 6 rows are missing"):
        commit(run_of(tmp_path, manifest), "run-1", CELLS, {})
    assert read_success(run) is None

    write(tmp_path / "parts", rows[3:])  # the fourth row again, as after a retried block
    stranger = {**rows[0], "sid": "not of this run"}
    write(tmp_path / "parts", [stranger])
    success = commit(run_of(tmp_path, manifest), "run-1", CELLS, {"config_digest": "c"})

    assert success == read_success(run)
    assert success["rows"] == 6
    assert success["statuses"] == {"ok": 6}
    assert not (tmp_path / "parts").exists()
    tables = {f["table"]: pq.read_table(tmp_path / f["path"]) for f in success["files"]}
    assert tables["samples"]["sid"].to_pylist() == manifest["sid"].to_pylist()
    steps = tables["steps"].select(["sid", "step"]).to_pylist()
    assert steps == [{"sid": row["sid"], "step": n} for row in rows for n in (1, 2)]
    cells = tables["cells"].to_pylist()
    assert [(c["n"], dict(c["statuses"])) for c in cells] == [(3, {"ok": 3})] * 2
    assert dict(cells[0]["metrics"])["flexible"] == 1.0
    assert json.loads(cells[1]["decoder_config"])["steps"] == 8


def test_acceptance_and_early_commits_are_summed_up(tmp_path: Path, manifest: pa.Table) -> None:
    (tmp_path / "parts").mkdir()
    writer = PartWriter(Store.open(tmp_path / "parts"))
    counts = iter([(10, 5), (30, 25), (0, 0)])
    ends = iter([(3, 8.0), (None, 1.0), (None, None)])
    for row in manifest.to_pylist():
        extra: dict[str, Any] = {}
        if row["cell_id"] == CELLS[0].cell_id:
            drafted, accepted = next(counts)
            step, gap = next(ends)
            extra = {"drafted_tokens": drafted, "accepted_tokens": accepted}
            extra |= {"early_commit_step": step, "early_commit_gap": gap}
        writer.add({**sample_row(row), **extra}, [])
    writer.flush()
    commit(run_of(tmp_path, manifest), "run-1", CELLS, {})
    first, second = pq.read_table(tmp_path / "cells").to_pylist()
    assert (first["acceptance"], first["early_commit_share"]) == (0.75, 0.5)
    assert (second["acceptance"], second["early_commit_share"]) == (None, None)
    assert first["partner"] is None


def test_rows_of_one_engine_stand_together() -> None:
    def items(_: Cell) -> list[Item]:
        return [
            Item(Sample(str(n), "1", None, {}), Prompt(f"{n}", ()), (1,) * n) for n in (1, 9, 5)
        ]

    other = replace(CELLS[0], decoder=make_decoder("dream", {"gen_length": 16, "steps": 4}))
    of = {c.cell_id: c.decoder.recipe for c in (*CELLS, other)}
    rows = build([*CELLS, other], items).to_pylist()
    assert [of[row["cell_id"]] for row in rows] == ["dream"] * 3 + ["llada"] * 6
    assert [row["length"] for row in rows] == [25, 21, 17] * 3


def test_length_is_what_the_recipe_takes_on_the_models_blocks() -> None:
    cell = replace(CELLS[0], decoder=make_decoder("llada2", {"gen_length": 16}))
    item = Item(Sample("0", "1", None, {}), Prompt("p", ()), (1,) * 5, block=8)
    (row,) = build([cell], lambda _: [item]).to_pylist()
    assert row["length"] == 24, "a canvas that ends inside a block takes the block"


def test_steps_without_their_samples_are_not_read(tmp_path: Path, manifest: pa.Table) -> None:
    rows = manifest.to_pylist()
    folder = tmp_path / "parts"
    write(folder, rows)
    (lost,) = folder.glob("*.samples.parquet")
    lost.unlink()  # as if the worker had died between the two files
    assert len(finished(Store.open(folder))[0]) == 0
    write(folder, rows)
    commit(run_of(tmp_path, manifest), "run-1", CELLS, {})
    assert pq.read_table(tmp_path / "steps").num_rows == 2 * len(rows)


def test_parts_are_due_by_number(tmp_path: Path, manifest: pa.Table) -> None:
    row = manifest.to_pylist()[0]
    writer = PartWriter(Store.open(tmp_path))
    for n in range(FLUSH_ROWS):
        assert not writer.is_full
        writer.add({**sample_row(row), "sid": str(n)}, [])
    assert writer.is_full
    writer.flush()
    writer.flush()
    assert len(list(tmp_path.iterdir())) == 1
    assert len(finished(Store.open(tmp_path))[0]) == FLUSH_ROWS


def test_equal_cells_in_other_modes_are_other_rows(manifest: pa.Table) -> None:
    both = build(
        [CELLS[0], replace(CELLS[0], mode="latency")],
        lambda _: [Item(Sample("0", "1", None, {}), Prompt("p", ()), (1,))],
    )
    assert len(set(both["sid"].to_pylist())) == 2
