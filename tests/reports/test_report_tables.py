"""The tables beside a page: the page's numbers, whole, and no formula in a spreadsheet."""

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from reports.analysis import analyse
from reports.beside import KINDS, replaced, unformula, write_csv
from reports.frames import TABLES, frames
from reports.load import ReportError, load
from reports.render import render
from reports.statistics import wilson

MakeRun = Callable[..., Path]
SMALL = {"tasks": ("gsm8k-resampled", "lm1b"), "budgets": (4, 16), "n": 6}


def plain(frame: pd.DataFrame) -> list[list[object]]:
    """The values, nothing as None."""
    return frame.astype(object).where(frame.notna(), None).to_numpy().tolist()


def test_tables_stand_beside_the_page_and_are_linked(make_run: MakeRun, tmp_path: Path) -> None:
    out = render(make_run(**SMALL), tmp_path / "new" / "a b.html")
    folder = out.with_name("a b.tables")
    names = {path.name for path in folder.iterdir()}
    made = {name.rpartition(".")[0] for name in names}
    assert {"cells", "speedups", "convergence", "durations", "spreads", "runs"} <= made
    assert made <= set(TABLES) and names == {f"{name}.{kind}" for name in made for kind in KINDS}
    text = out.read_text("utf-8")
    for name in names:
        assert f'href="./a%20b.tables/{name}"' in text
    assert sorted(os.listdir(out.parent)) == ["a b.html", "a b.tables"]


def test_both_kinds_hold_the_numbers_in_full(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(**SMALL, failed_every=3)
    folder = render(run, tmp_path / "out.html").with_name("out.tables")
    for name, frame in frames(analyse(run)).items():
        parquet = pd.read_parquet(folder / f"{name}.parquet")
        assert list(parquet.columns) == list(frame.columns)
        assert plain(parquet) == plain(frame)
        numbers = list(frame.select_dtypes("number").columns)
        assert plain(pd.read_csv(folder / f"{name}.csv")[numbers]) == plain(frame[numbers])
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id")
    row = cells.loc["gsm8k-resampled/tiny-mdlm/llada/16/throughput"]
    assert (row["rows"], row["error"], row["scored"]) == (6, 2, 4)
    assert row["accuracy_high"] == wilson(int(row["right"]), 4).high
    assert not {"numbers", "remarks"} & set(cells.columns)


@pytest.mark.parametrize("settings", [{"tasks": ()}, {"n": 1}, {"failed_every": 1}])
def test_what_there_is_not_has_no_table(
    make_run: MakeRun, tmp_path: Path, settings: dict[str, object]
) -> None:
    out = render(make_run(**{**SMALL, **settings}), tmp_path / "out.html")
    for path in out.with_name("out.tables").glob("*.parquet"):
        assert len(pd.read_parquet(path))


def test_text_is_no_formula() -> None:
    for text in ("=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", " =1", "\r=1"):
        assert unformula(text) == f"'{text}"
    for value in ("a=1", "1-2", "", None, -1.5, "'=1"):
        assert unformula(value) == value


def test_hostile_names_in_a_csv(make_run: MakeRun, tmp_path: Path) -> None:
    run = load(make_run(**SMALL))
    bad = "=cmd|' /C calc'!A0\x00\u202e\n,\""
    cells = run.cells.assign(model=[bad] * len(run.cells))
    frame = frames(analyse(replace(run, cells=cells)))["cells"]
    write_csv(frame, tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(frame)
    shown = "'=cmd|' /C calc'!A0␀\\u202e\n,\""
    assert {row["model"] for row in rows} == {shown}
    assert all(not value.startswith(("=", "+", "@")) for row in rows for value in row.values())


def test_a_page_that_fails_leaves_the_old_tables(tmp_path: Path) -> None:
    folder = tmp_path / "out.tables"
    old, new = pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [2]})
    with replaced(folder, {"a": old, "b": old}):
        pass
    with pytest.raises(OSError, match="disk full"), replaced(folder, {"a": new}):
        raise OSError("disk full")
    assert pd.read_parquet(folder / "a.parquet")["x"].tolist() == [1]
    (folder / "notes.txt").write_text("mine")
    with replaced(folder, {"a": new}):
        pass
    assert sorted(os.listdir(folder)) == ["a.csv", "a.parquet", "notes.txt"]
    assert pd.read_parquet(folder / "a.parquet")["x"].tolist() == [2]
    assert os.listdir(tmp_path) == ["out.tables"]


def test_a_folder_that_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "out.tables").write_text("in the way")
    with pytest.raises(ReportError, match=r"out.html cannot be written"):
        render(make_run(**SMALL), tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
