"""Which run directories a report trusts, and what it says of the others."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reports.load import ReportError, load
from reports.render import page
from reports.schema import SCHEMA_VERSION, TABLES

MakeRun = Callable[..., Path]


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_synthetic_runs_obey_the_schema(make_run: MakeRun) -> None:
    run = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    for table, schema in TABLES.items():
        assert pq.read_schema(run / table / "part-00000.parquet").equals(schema)


def test_reads_what_the_success_file_lists_and_nothing_else(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    stray = path / "samples" / "part-00009.parquet"
    stray.write_bytes((path / "samples" / "part-00000.parquet").read_bytes())
    run = load(path)
    assert run.run_id == "run-synthetic"
    assert len(run.samples) == 6 and len(run.cells) == 2
    assert "output_text" not in run.samples and "sid" in run.samples
    sids = list(run.samples["sid"])
    diffusion, baseline = run.cells["cell_id"]
    assert run.rows(diffusion)["sid"].tolist() == sids[:3] and run.rows("no such cell").empty
    assert run.traces(diffusion)["row"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert run.traces(diffusion)["step"].tolist() == [1, 2, 3, 4] * 3
    assert run.traces(baseline).empty and run.traces("no such cell").empty


def test_a_run_without_traces_has_none(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=3, traces=False))
    assert all(run.traces(cell_id).empty for cell_id in run.cells["cell_id"])


def test_unfinished_run_says_what_to_do(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    (path / "_SUCCESS.json").unlink()
    with pytest.raises(ReportError, match=r"no finished run.*run the same command again"):
        load(path)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="is not a directory"):
        load(tmp_path / "nowhere")


def test_missing_run_json(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    (path / "run.json").unlink()
    with pytest.raises(ReportError, match=r"no run\.json"):
        load(path)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_broken_success_file(make_run: MakeRun, content: str) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    (path / "_SUCCESS.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReportError, match=r"_SUCCESS\.json"):
        load(path)


def test_a_success_file_without_files(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    edit(path / "_SUCCESS.json", files=[{"path": "samples/x.parquet"}])
    with pytest.raises(ReportError, match="does not list the files"):
        load(path)


def test_other_schema_version(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    edit(path / "_SUCCESS.json", schema_version=99)
    with pytest.raises(ReportError, match="schema version 99"):
        load(path)


def test_a_run_of_the_version_before_is_read(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    listed = json.loads((path / "_SUCCESS.json").read_text())["files"]
    older = [entry for entry in listed if entry["table"] != "vocabulary"]
    edit(path / "_SUCCESS.json", schema_version=3, files=older)
    run = load(path)
    assert len(run.samples) == 6 and run.files["vocabulary"] == ()


def test_a_changed_file_is_not_trusted(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    part = path / "samples" / "part-00000.parquet"
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(ReportError, match=r"part-00000.parquet is not the file"):
        load(path)


def test_a_lost_file_is_named(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    (path / "steps" / "part-00000.parquet").unlink()
    with pytest.raises(ReportError, match=r"steps/part-00000.parquet is listed"):
        load(path)


@pytest.mark.parametrize("name", ["../other/part.parquet", "/etc/passwd"])
def test_files_outside_of_the_run_are_refused(make_run: MakeRun, name: str) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    entry = {"table": "samples", "path": name, "bytes": 1, "sha256": "0", "rows": 1}
    edit(path / "_SUCCESS.json", files=[entry])
    with pytest.raises(ReportError, match="outside of"):
        load(path)


def test_missing_columns_are_named(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    part = path / "steps" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["correct", "entropy"]), part)
    listed = json.loads((path / "_SUCCESS.json").read_text())["files"]
    for entry in listed:
        if entry["table"] == "steps":
            entry["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
    edit(path / "_SUCCESS.json", files=listed)
    with pytest.raises(ReportError, match="lacks the columns correct, entropy of steps"):
        load(path)


LATER = {
    "samples": ["repeat", "truncated_tokens", "detail", "sandbox", "top1_share_eighth"],
    "steps": ["top1_share"],
    "cells": ["remarks"],
}
"""Columns that came after version 2."""


def without(path: Path, version: int, columns: dict[str, list[str]]) -> None:
    listed = json.loads((path / "_SUCCESS.json").read_text())["files"]
    kept = [entry for entry in listed if entry["table"] in columns]
    for entry in kept:
        part = path / entry["path"]
        pq.write_table(pq.read_table(part).drop_columns(columns[entry["table"]]), part)
        entry["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
    edit(path / "_SUCCESS.json", schema_version=version, files=kept)


def test_a_run_of_version_2_has_nulls_for_what_came_later(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k", "lm1b"), budgets=(4,), n=3)
    without(path, 2, LATER)
    run = load(path)
    for name in LATER["samples"]:
        assert run.samples[name].isna().all()
    assert set(run.traces("gsm8k/tiny-mdlm/llada/4/throughput")["step"]) == {1, 2, 3, 4}
    assert "All cells" in page(run)


def test_an_older_run_must_have_what_is_never_null(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    without(path, 3, {**LATER, "samples": ["prompt"]})
    with pytest.raises(ReportError, match="lacks the columns prompt of samples"):
        load(path)


def test_a_run_of_this_version_has_every_column(make_run: MakeRun) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    without(path, SCHEMA_VERSION, LATER)
    with pytest.raises(ReportError, match="lacks the columns"):
        load(path)


@pytest.mark.parametrize("version", [1, None, "4", 99])
def test_versions_that_count_otherwise_are_refused(make_run: MakeRun, version: object) -> None:
    path = make_run(tasks=("gsm8k",), budgets=(4,), n=3)
    edit(path / "_SUCCESS.json", schema_version=version)
    with pytest.raises(ReportError, match=r"schema version .*, this report reads 2, 3, 4"):
        load(path)
