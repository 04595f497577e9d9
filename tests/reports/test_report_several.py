"""Several runs in one report: each stays its own, and what cannot be compared stays apart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reports.analysis import Analysis, analyse
from reports.load import ReportError
from reports.render import page
from reports.several import labels, load_all

MakeRun = Callable[..., Path]
SMALL = {"tasks": ("gsm8k",), "budgets": (4,), "n": 6}


def together(*folders: Path) -> Analysis:
    return analyse(load_all(folders))


def test_a_cell_of_two_runs_stays_two(make_run: MakeRun) -> None:
    first = make_run("first", **SMALL, right=lambda task, decoder, steps, at: at < 2)
    second = make_run("second", **SMALL, right=lambda task, decoder, steps, at: at < 5)
    found = together(first, second)
    cells = found.cells
    assert cells["cell_id"].is_unique and len(cells) == 4
    assert cells["right"].tolist() == [2, 2, 5, 5]
    assert cells["series"].tolist() == [
        "tiny-mdlm · llada @ first",
        "tiny-ar @ first",
        "tiny-mdlm · llada @ second",
        "tiny-ar @ second",
    ]
    assert found.tasks == ["gsm8k"]
    assert [(trace.series, trace.right) for trace in found.traces] == [
        ("tiny-mdlm · llada @ first", 2),
        ("tiny-mdlm · llada @ second", 5),
    ]
    assert [found.compared[cell].baseline_id for cell in cells["cell_id"] if "ar/" not in cell] == [
        "0:gsm8k/tiny-ar/ar/64/throughput",
        "1:gsm8k/tiny-ar/ar/64/throughput",
    ], "each its own run's"


def test_rows_are_read_from_the_run_that_they_are_of(make_run: MakeRun) -> None:
    first = make_run("first", **SMALL, output=lambda task, at: "one")
    second = make_run("second", **SMALL, output=lambda task, at: "two")
    run = load_all([first, second])
    sids = run.samples["sid"]
    assert sids.is_unique and len(sids) == 24
    digests = run.digests().loc[[sids.iloc[0], sids.iloc[12]], "output_digest"]
    assert digests.nunique() == 2, "one wrote other words than the other"
    traced = [cell for cell in run.cells["cell_id"] if len(run.traces(cell))]
    assert len(traced) == 2 and all("llada" in cell for cell in traced)
    assert [run.traces(cell)["row"].nunique() for cell in traced] == [6, 6]
    assert len(run.digests()) == 24


@pytest.mark.parametrize("other", [{"n": 5}, {"task_version": "2"}])
def test_other_questions_are_other_tasks(make_run: MakeRun, other: dict[str, object]) -> None:
    first = make_run("first", **SMALL)
    second = make_run("second", **{**SMALL, "ar": False, **other})
    found = together(first, second)
    assert found.tasks == ["gsm8k (first)", "gsm8k (second)"]
    (refused,) = (speedup for speedup in found.compared.values() if speedup.why_not)
    assert refused.why_not == "the autoregressive baseline answered other prompts: first"
    assert "accuracy-1" in page(found)


def test_a_baseline_of_another_run_serves_only_where_it_ran_alike(make_run: MakeRun) -> None:
    base = make_run("base", **SMALL)
    here = make_run("here", **SMALL, ar=False, model="other")
    far = make_run("far", **SMALL, ar=False, model="other", device="H100")
    served, refused = together(base, here), together(base, far)
    assert served.compared["1:gsm8k/other/llada/4/throughput"].baseline_id == (
        "0:gsm8k/tiny-ar/ar/64/throughput"
    )
    why = refused.compared["1:gsm8k/other/llada/4/throughput"].why_not
    assert why == "the autoregressive baseline differs in device: cpu, not H100"


def test_a_reference_line_of_another_device_is_refused(make_run: MakeRun) -> None:
    base = make_run("base", **SMALL)
    apart = make_run("apart", **SMALL, ar_device="H100")
    assert "no line for" not in page(base)
    refused = page(analyse(apart))
    assert "; no line for tiny-ar: the autoregressive baseline differs in device" in refused


def test_a_run_given_twice_is_refused(make_run: MakeRun) -> None:
    run = make_run("run", **SMALL)
    with pytest.raises(ReportError, match="is given twice"):
        load_all([run, run / ".." / "run"])


def test_runs_are_called_by_what_tells_them_apart() -> None:
    assert labels([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert labels([Path("/a/n/x"), Path("/a/m/x")]) == ["n/x", "m/x"]
