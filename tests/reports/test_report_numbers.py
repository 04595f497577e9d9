"""The numbers behind the charts, against values computed by hand."""

import io
from collections.abc import Callable
from dataclasses import replace
from math import exp, isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from reports.cells import cell_table, records
from reports.convergence import convergences, stop_curve
from reports.figures_speed import frontier, frontier_chart
from reports.load import Run, load
from reports.render import page
from reports.speed import kept_accuracy, speedups
from reports.statistics import wilson
from reports.tables import CELL_COLUMNS, cell_rows, without_spare
from reports.terminal import summary
from reports.verdict import verdicts

MakeRun = Callable[..., Path]
Blank = Callable[..., dict[str, Any]]

# Four samples of a 4-step cell: status, correct, tokens, seconds, forwards, oscillated,
# converged step, verdicts at the traced steps (the trace of s2 ends early, s1 skips a step).
DIFFUSION = [
    ("s0", "ok", 1, 10, 2.0, 4, False, 2, {1: 0, 2: 1, 3: 1, 4: 1}),
    ("s1", "ok", 0, 20, 3.0, 4, True, None, {1: 1, 3: None, 4: 0}),
    ("s2", "ok", 1, 30, 1.0, 2, False, 1, {1: 1, 2: 1}),
    ("s3", "error", None, None, None, None, None, None, {}),
]
BASELINE = [
    ("s0", "ok", 1, 12, 0.5, 12, None, None, {}),
    ("s1", "ok", 1, 8, 0.5, 8, None, None, {}),
    ("s2", "ok", 0, 10, 0.5, 10, None, None, {}),
    ("s3", "ok", 1, 90, 9.0, 90, None, None, {}),
]


@pytest.fixture
def by_hand(write_tables: MakeRun, empty_plan: Any, blank_row: Blank) -> Run:
    """Two cells, four samples each, small enough to check on paper."""
    for decoder, steps, rows in (("llada", 4, DIFFUSION), ("ar", 64, BASELINE)):
        names = {"cell_id": decoder, "task": "gsm8k", "model": f"m-{decoder}", "decoder": decoder}
        names |= {"run_id": "r", "steps": steps, "gen_length": 64, "mode": "throughput"}
        empty_plan.cells.append(
            blank_row(
                "cells",
                **names,
                task_version="1",
                model_digest="d",
                decoder_config="{}",
                decoder_fingerprint="f",
                num_fewshot=0,
                n=4,
                statuses=[("ok", 4)],
                metrics=[],
            )
        )
        for sample, status, correct, tokens, seconds, forwards, lost, converged, trace in rows:
            sid = f"{decoder}-{sample}"
            empty_plan.samples.append(
                blank_row(
                    "samples",
                    **names,
                    sid=sid,
                    sample_id=sample,
                    seed=0,
                    status=status,
                    prompt="p",
                    prompt_sha256="0",
                    generated_tokens=tokens,
                    decode_s=seconds,
                    latency_s=seconds,
                    nfe=forwards,
                    token_forwards=forwards and forwards * 100,
                    correct=correct,
                    oscillated=lost,
                    converged_step=converged,
                    device="cpu",
                    dtype="float32",
                    slots=8,
                    created_at=pd.Timestamp("2026-01-01", tz="UTC"),
                )
            )
            for step, verdict in trace.items():
                empty_plan.steps.append(
                    blank_row(
                        "steps",
                        sid=sid,
                        step=step,
                        nfe=step,
                        committed=[],
                        tokens=[],
                        confidence=[],
                        masked_left=0,
                        correct=verdict,
                        elapsed_s=0.0,
                    )
                )
    return load(write_tables(empty_plan))


def test_a_cell_by_hand(by_hand: Run) -> None:
    cell = records(cell_table(by_hand))[0]
    assert (cell["rows"], cell["ok"], cell["error"]) == (4, 3, 1)
    assert (cell["scored"], cell["right"], cell["accuracy"]) == (3, 2, 2 / 3)
    assert cell["accuracy_low"] == wilson(2, 3).low
    assert cell["accuracy_failed_as_wrong"] == 0.5
    assert cell["samples_per_s"] == 3 / 6
    assert cell["tokens_per_s"] == 60 / 6
    assert cell["latency_s"] == 2.0
    assert cell["nfe"] == pytest.approx(10 / 3)
    assert cell["token_forwards"] == pytest.approx(1000 / 3)
    assert cell["tokens_per_forward"] == 6.0
    assert isnan(cell["perplexity"])


def test_speedup_uses_the_shared_samples_only(by_hand: Run) -> None:
    # s3 failed, so the baseline's slow s3 must not count: 3 samples in 6 s against 3 in 1.5 s.
    speedup = speedups(by_hand, cell_table(by_hand))["llada"]
    assert (speedup.baseline, speedup.why_not) == ("m-ar", None)
    assert speedup.samples.value == pytest.approx((3 / 6) / (3 / 1.5))
    assert speedup.tokens.value == pytest.approx((60 / 6) / (30 / 1.5))
    assert speedup.samples.n == 3


def test_convergence_by_hand(by_hand: Run) -> None:
    (found,) = convergences(by_hand, cell_table(by_hand))
    assert (found.steps, found.traced, found.right) == (4, 3, 2)
    assert found.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.curve.tolist() == [0, 0.5, 1, 1, 1]
    assert [found.at[f].value for f in (0.125, 0.25, 0.5)] == [0, 0.5, 1]
    assert (found.oscillated.value, found.oscillated.n) == (1 / 3, 3)
    # Step 1: s1, s2 right. 2: s1 keeps its verdict. 3: s1 was not looked at. 4: s2 keeps its.
    assert found.stops["accuracy"].tolist() == pytest.approx([2 / 3, 1, 1, 2 / 3])
    assert set(found.stops["n"]) == {3}


def test_stops_before_the_first_verdict_are_wrong() -> None:
    trace = pd.DataFrame({"row": [0, 0], "step": [2, 3], "correct": [1, 1]})
    assert stop_curve(trace, 4)["accuracy"].tolist() == [0, 1, 1, 1]


def test_steps_that_nobody_looked_at_are_left_out() -> None:
    trace = pd.DataFrame(
        {
            "row": [0] * 4 + [1] * 3,
            "step": [1, 2, 3, 4, 1, 2, 3],
            "correct": [None, 0, None, 1, None, 1, 1],
        }
    )
    found = stop_curve(trace, 4)
    assert found["step"].tolist() == [2, 3, 4]
    assert found["accuracy"].tolist() == [0.5, 0.5, 1]


def test_what_a_second_model_did_is_summed_up(
    write_tables: MakeRun, empty_plan: Any, blank_row: Blank
) -> None:
    """Acceptance is a ratio of sums; the guider that decodes alone is known and is the baseline."""
    shared = {"run_id": "r", "task": "gsm8k", "gen_length": 8, "mode": "throughput", "steps": 8}
    cells = {
        "g": {"model": "m", "decoder": "guided", "partner": "z"},
        "z": {"model": "z", "decoder": "ar"},
        "a": {"model": "a", "decoder": "ar"},
        "other": {"model": "z", "decoder": "ar", "gen_length": 4},
        "far": {"model": "m", "decoder": "remote"},
    }
    counts: dict[str, list[dict[str, Any]]] = {
        "g": [
            {"drafted_tokens": 10, "accepted_tokens": 9, "early_commit_gap": 8.0},
            {"drafted_tokens": 30, "accepted_tokens": 11, "early_commit_gap": 2.0},
        ],
    }
    counts["g"][0] |= {"early_commit_step": 3, "nfe_draft": 4, "edited_tokens": 1}
    counts["g"][1] |= {"nfe_draft": 2, "edited_tokens": 0}
    for cell_id, fields in cells.items():
        config = {"decoder_config": "{}", "decoder_fingerprint": cell_id, "task_version": "1"}
        stated = {"n": 2, "statuses": [], "metrics": [], "num_fewshot": 0, "model_digest": "d"}
        row = {**shared, **config, **stated, **fields, "cell_id": cell_id}
        empty_plan.cells.append(blank_row("cells", **row))
        for at in range(2):
            known = {} if cell_id == "far" else {"nfe": 2, "token_forwards": 20}
            row = {**shared, **fields, **known, "cell_id": cell_id, "sid": f"{cell_id}{at}"}
            row |= {"sample_id": f"s{at}", "seed": 0, "status": "ok", "correct": 1}
            row |= {"decode_s": 1.0, "latency_s": 1.0, "generated_tokens": 6, "slots": 8}
            row |= {"device": "remote:there" if cell_id == "far" else "cpu", "prompt": "p"}
            row |= {"dtype": "float32"}
            row |= {"prompt_sha256": "0", "created_at": pd.Timestamp("2026-01-01", tz="UTC")}
            row |= counts.get(cell_id, [{}, {}])[at]
            empty_plan.samples.append(blank_row("samples", **row))
    run = load(write_tables(empty_plan))
    table = cell_table(run)
    found = {row["cell_id"]: row for row in records(table)}
    assert found["g"]["acceptance"] == 20 / 40
    assert found["g"]["kept_a_draft"] == 20 / 4
    assert found["g"]["early_commit_share"] == 0.5
    assert found["g"]["steps_saved"] == 1 - 2 / 8
    assert (found["g"]["nfe_draft"], found["g"]["edited_tokens"]) == (3, 0.5)
    assert isnan(found["a"]["acceptance"]) and isnan(found["a"]["early_commit_share"])
    assert [cell for cell, row in found.items() if row["guider"]] == ["z"]
    compared = speedups(run, table)
    assert compared["g"].baseline == "z", "its own guider, before the first by name"
    assert "differs in device: cpu, not remote:there" in str(compared["far"].why_not)
    assert isnan(found["far"]["nfe"]) and isnan(found["far"]["tokens_per_forward"])

    written = io.StringIO()
    Console(width=160, file=written, color_system=None).print(summary(run))
    lines = {" ".join(line.split()[:2]): line for line in written.getvalue().splitlines()}
    assert " accepted " in lines["model decoder"]
    assert " 50% " in lines["m guided"]
    assert written.getvalue().count("ar (guider)") == 1
    columns, rows = without_spare(CELL_COLUMNS, cell_rows(table, compared))
    titles = [column.title for column in columns]
    assert [title for title in titles if title in ("draft NFE", "accepted", "edits")]
    assert "draft token forwards" not in titles, "nobody has any"
    (guided,) = (row for row in rows if "guided" in row[1].text)
    assert guided[1].spread == "with z"
    assert guided[titles.index("accepted")].text == "50%"
    assert "the guider alone" in {row[1].spread for row in rows}


def test_columns_that_nobody_fills_are_left_out(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=3))
    table = cell_table(run)
    columns, rows = without_spare(CELL_COLUMNS, cell_rows(table, speedups(run, table)))
    assert not [column.title for column in columns if column.spare]
    assert all(len(row) == len(columns) for row in rows)
    written = io.StringIO()
    Console(width=160, file=written, color_system=None).print(summary(run))
    assert "accepted" not in written.getvalue()
    assert "NFE" in written.getvalue()


def test_the_end_of_the_stop_curve_is_the_measured_accuracy(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k-resampled",), budgets=(8, 32), n=40))
    cells = cell_table(run)
    (found,) = convergences(run, cells)
    measured = cells[cells["cell_id"] == found.cell_id]["accuracy"].iloc[0]
    assert found.steps == 32 and found.curve[-1] == 1
    assert found.stops["accuracy"].iloc[-1] == pytest.approx(measured)


def test_perplexity_by_hand(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("lm1b",), budgets=(4,), n=12))
    cell = records(cell_table(run))[0]
    rows = [dict(row) for row in run.samples[run.samples["decoder"] == "llada"]["metrics"]]
    expected = exp(sum(r["nll"] for r in rows) / sum(r["scored_tokens"] for r in rows))
    assert cell["perplexity"] == pytest.approx(expected)
    assert cell["perplexity_low"] < expected < cell["perplexity_high"]
    stated = dict(run.cells["metrics"].iloc[0])["perplexity"]
    assert stated == pytest.approx(expected)
    assert cell["entropy"] == pytest.approx(
        sum(r["unigram_entropy_nats"] for r in rows) / len(rows)
    )


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ar": False}, "no autoregressive cell for this task"),
        ({"ar_device": "cuda:H100"}, "differs in device: cuda:H100, not cpu"),
        ({"failed_every": 1}, "no sample was decoded by both"),
    ],
)
def test_what_cannot_be_compared_says_why(
    make_run: MakeRun, settings: dict[str, Any], why: str
) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=4, **settings))
    (found,) = speedups(run, cell_table(run)).values()
    assert found.baseline_id is None and isnan(found.samples.value)
    assert why in str(found.why_not)


def test_rows_of_several_devices_are_not_compared(make_run: MakeRun) -> None:
    whole = load(make_run(tasks=("gsm8k",), budgets=(4,), n=4))
    samples = whole.samples.copy()
    samples.loc[[0, 4], "device"] = "cuda:H100"
    samples.loc[0, "slots"] = 1
    mixed = replace(whole, samples=samples)
    cells = cell_table(mixed)
    assert cells["device"].tolist() == ["mixed", "mixed"]
    assert cells["slots"].tolist() == ["mixed", 8]
    (found,) = speedups(mixed, cells).values()
    assert found.why_not == "its device is not the same for all its rows"
    assert frontier_chart(cells, "throughput").panels == ()
    assert len(frontier_chart(cell_table(whole), "throughput").panels) == 1
    assert "mixed (throughput)" in page(mixed)


def test_modes_are_compared_apart_and_quality_is_shown_once(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=6, modes=("throughput", "latency")))
    cells = cell_table(run)
    assert sorted(cells[cells["shown"]]["mode"].unique()) == ["throughput"]
    for cell_id, found in speedups(run, cells).items():
        assert str(found.baseline_id).endswith(cell_id.rpartition("/")[2])


def test_a_cell_of_one_mode_meets_a_baseline_of_both(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=6, modes=("throughput", "latency")))
    kept = run.cells[(run.cells["decoder"] == "ar") | (run.cells["mode"] == "latency")]
    cells = cell_table(replace(run, cells=kept))
    assert cells[cells["shown"]]["mode"].tolist() == ["throughput", "latency"]
    ((_, (text,)),) = verdicts(run, cells, [], speedups(run, cells))
    assert "as many samples/s (latency)." in text


def test_a_baseline_of_another_mode_is_refused(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=6, modes=("throughput", "latency")))
    cells = cell_table(run)
    cells = cells[~(cells["is_ar"] & (cells["mode"] == "latency"))]
    reasons = [found.why_not for found in speedups(run, cells).values()]
    assert reasons == [None, "the autoregressive baseline differs in mode: throughput, not latency"]


def test_settings_are_named_only_where_they_tell_cells_apart(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4, 8), n=2))
    assert set(cell_table(run)["variant"]) == {""}
    doubled = run.cells[run.cells["steps"] == 4].assign(
        cell_id="other", decoder_config='{"name": "llada", "steps": 4, "block_length": 8}'
    )
    table = cell_table(replace(run, cells=pd.concat([run.cells, doubled])))
    assert table["variant"].tolist()[0] == "block_length=32"
    assert table["series"].tolist()[-1] == "tiny-mdlm · llada (block_length=8)"


def test_kept_accuracy_pairs_by_sample(make_run: MakeRun) -> None:
    def right(task: str, decoder: str, steps: int, at: int) -> bool:
        return at % 2 == 0 if steps == 64 else at % 4 == 0

    run = load(make_run(tasks=("gsm8k",), budgets=(8, 64), n=40, right=right))
    kept = kept_accuracy(
        run, "gsm8k/tiny-mdlm/llada/8/throughput", "gsm8k/tiny-mdlm/llada/64/throughput"
    )
    assert (kept.value, kept.n) == (0.5, 40) and kept.low < 0.5 < kept.high


def test_frontier_keeps_what_nothing_beats() -> None:
    rows = pd.DataFrame(
        {"samples_per_s": [1.0, 2.0, 3.0, 3.0, 4.0], "accuracy": [0.5, 0.9, 0.6, 0.7, 0.2]}
    )
    assert frontier(rows)["accuracy"].tolist() == [0.9, 0.7, 0.2]


def test_verdicts_state_the_numbers(make_run: MakeRun) -> None:
    def right(task: str, decoder: str, steps: int, at: int) -> bool:
        share = {"ar": 36, "llada": {4: 8, 16: 30, 64: 32}.get(steps, 0)}[decoder]
        return task != "gsm8k" and at < share

    run = load(make_run(budgets=(4, 16, 64), n=40, right=right))
    cells = cell_table(run)
    found = verdicts(run, cells, convergences(run, cells), speedups(run, cells))
    lines = {task: " ".join(paragraphs) for task, paragraphs in found}
    assert next(iter(lines)) == "gsm8k-resampled"
    text = lines["gsm8k-resampled"]
    assert "tiny-mdlm · llada gets 80% right [65–90%] at 64 steps (n = 40)." in text
    assert "16 steps give 94% of that [" in text
    assert "were right for good by half the steps" in text
    assert "Autoregressive tiny-ar: 90% right [77–96%]," in text
    assert "as many samples/s (throughput)" in text
    assert "With 0 right, steps cannot be judged here." in lines["gsm8k"]
    assert "40 programs at 64 steps were written and not executed" in lines["humaneval"]
    assert "perplexity" in lines["lm1b"] and "(lower is better)" in lines["lm1b"]
    assert "guessing gives 25%" in lines["mmlu"]
