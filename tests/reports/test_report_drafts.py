"""Runs with drafters: what is compared with what, and what a sweep's cells are called."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from reports.cells import SPECULATIVE, cell_table, records
from reports.figures_forwards import drafts_chart, forwards_chart
from reports.load import Run, load
from reports.render import page
from reports.speed import speedups
from reports.tables import CELL_COLUMNS, cell_rows, without_spare
from reports.terminal import summary
from reports.verdict import verdicts

MakeRun = Callable[..., Path]
Blank = Callable[..., dict[str, Any]]

# Decoder, its settings, seconds a sample, accepted of drafted tokens.
CELLS: dict[str, tuple[str, dict[str, Any], float, int, int]] = {
    "ar": ("ar", {}, 4.0, 0, 0),
    "slow": ("speculative", {"gamma": 5}, 3.0, 10, 25),
    "fast": ("speculative", {"gamma": 2}, 2.0, 8, 10),
    "g4t1": ("specdiff", {"gamma": 4, "steps": 1}, 1.0, 12, 20),
    "g8t1": ("specdiff", {"gamma": 8, "steps": 1}, 0.5, 16, 40),
    "g8t2": ("specdiff", {"gamma": 8, "steps": 2}, 0.5, 20, 40),
}


@pytest.fixture
def drafting(write_tables: MakeRun, empty_plan: Any, blank_row: Blank) -> Run:
    """One task, three samples a cell, 5 forwards and 20 tokens each."""
    for cell_id, (decoder, settings, seconds, accepted, drafted) in CELLS.items():
        names = {"run_id": "r", "cell_id": cell_id, "task": "lm1b", "model": "m", "steps": 64}
        names |= {"decoder": decoder, "gen_length": 64, "mode": "latency"}
        names |= {"partner": None if decoder == "ar" else "d"}
        config = {"decoder_config": json.dumps(settings), "decoder_fingerprint": cell_id}
        stated = {"n": 3, "statuses": [], "metrics": [], "num_fewshot": 0, "model_digest": "d"}
        empty_plan.cells.append(blank_row("cells", **names, **config, **stated, task_version="1"))
        for at in range(3):
            row = {**names, "sid": f"{cell_id}{at}", "sample_id": f"s{at}", "seed": 0}
            row |= {"status": "ok", "prompt": "p", "prompt_sha256": "0", "slots": 1}
            row |= {"decode_s": seconds, "latency_s": seconds, "nfe": 5, "token_forwards": 50}
            row |= {"generated_tokens": 20, "device": "cpu", "dtype": "float32"}
            row |= {"created_at": pd.Timestamp("2026-01-01", tz="UTC")}
            row |= {"metrics": [("nll", 20.0 + at), ("scored_tokens", 20.0)]}
            if drafted:
                row |= {"drafted_tokens": drafted, "accepted_tokens": accepted}
            empty_plan.samples.append(blank_row("samples", **row))
    return load(write_tables(empty_plan))


def test_drafts_are_set_against_the_fastest_speculative_cell(drafting: Run) -> None:
    table = cell_table(drafting)
    found = speedups(drafting, table, SPECULATIVE)
    assert set(found) == {"g4t1", "g8t1", "g8t2"}
    assert {speedup.baseline_id for speedup in found.values()} == {"fast"}
    assert found["g8t1"].tokens.value == pytest.approx(4.0)
    assert speedups(drafting, table)["g8t1"].tokens.value == pytest.approx(8.0)

    columns, rows = without_spare(CELL_COLUMNS, cell_rows(table, speedups(drafting, table), found))
    at = [column.title for column in columns].index("tokens/s vs speculative")
    assert [row[at].text for row in rows] == ["–", "–", "–", "2.00×", "4.00×", "4.00×"]
    written = io.StringIO()
    Console(width=160, file=written, color_system=None).print(summary(drafting))
    assert "vs spec" in written.getvalue()


def test_a_drafters_steps_tell_cells_apart(drafting: Run) -> None:
    names = cell_table(drafting).set_index("cell_id")["variant"]
    assert names["g8t2"] == "steps=2"
    assert names["g4t1"] == "gamma=4"
    assert names["g8t1"] == "", "what most of its kind have"
    assert (names["slow"], names["fast"]) == ("gamma=5", "gamma=2"), "a single setting is named"


def test_the_fastest_drafts_are_put_into_words(drafting: Run) -> None:
    table = cell_table(drafting)
    compared, drafted = speedups(drafting, table), speedups(drafting, table, SPECULATIVE)
    ((task, parts),) = verdicts(drafting, table, [], compared, drafted)
    assert (task, parts[0][:25]) == ("lm1b", "Fastest of 3 that draft: ")
    assert "40% [40–40%] are accepted, 3.20 tokens of each" in parts[0]
    assert "4.00× [4.00–4.00×] the tokens/s of speculative decoding and 8.00×" in parts[0]
    assert verdicts(drafting, table, [], compared)[0][1] == parts[1:]


def test_a_long_sweep_is_not_put_into_words_whole(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), budgets=(4,), n=3))
    sweep = [
        run.cells[run.cells["decoder"] == "llada"].assign(
            cell_id=f"c{at}", decoder_config=json.dumps({"threshold": at})
        )
        for at in range(8)
    ]
    wide = replace(run, cells=pd.concat([*sweep, run.cells[run.cells["decoder"] == "ar"]]))
    table = cell_table(wide)
    ((_, parts),) = verdicts(wide, table, [], speedups(wide, table))
    assert "2 more: see the table of all cells." in parts
    assert sum("llada" in part for part in parts) == 6


def test_drafts_by_hand(drafting: Run) -> None:
    cells = {cell["cell_id"]: cell for cell in records(cell_table(drafting))}
    assert (cells["g8t1"]["acceptance"], cells["g8t1"]["kept_a_draft"]) == (0.4, 3.2)
    chart = drafts_chart(cell_table(drafting))
    assert [panel.title for panel in chart.panels] == ["lm1b: accepted", "lm1b: kept a draft"]
    assert [key.label for key in chart.keys] == [
        "m with d, token by token",
        "m with d, T = 1",
        "m with d, T = 2",
    ]
    lines = chart.panels[0].figure["data"]
    assert [trace["y"] for trace in lines] == [[0.8, 0.4], [0.6, 0.4], [0.5]]
    assert lines[1]["x"] == pytest.approx([4 * 1.04, 8 * 1.04])
    text = page(drafting)
    assert "Drafts</h3>" in text and "Quality against tokens a forward" in text


def test_quality_stands_over_tokens_a_forward(drafting: Run, make_run: MakeRun) -> None:
    chart = forwards_chart(cell_table(drafting))
    (panel,) = chart.panels
    assert panel.title == "lm1b"
    assert {tuple(trace["x"]) for trace in panel.figure["data"]} == {(4.0,)}
    assert chart.keys[-1].label == "m, autoregressive"

    run = load(make_run("other", tasks=("gsm8k",), budgets=(4, 16), n=4))
    (panel,) = forwards_chart(cell_table(run)).panels
    assert "accuracy" in str(panel.figure["layout"]["yaxis"])


def test_a_run_without_drafts_has_no_chart_of_them(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("lm1b",), budgets=(4,), n=3))
    assert drafts_chart(cell_table(run)).panels == ()
    assert "Drafts</h3>" not in page(run)
    assert forwards_chart(cell_table(run).iloc[:0]).panels == ()
