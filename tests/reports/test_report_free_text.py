"""Texts without a right answer in the report: bounds, variety, settled tokens."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from reports.cells import cell_table
from reports.free_text import GIVEN_COLUMNS, WRITTEN_COLUMNS, given_rows, remarks, written_rows
from reports.load import Run, load
from reports.render import page
from reports.settling import settling_chart, settling_rows, settlings
from reports.terminal import summary
from reports.verdict import verdicts

Blank = Callable[..., dict[str, Any]]
# Two texts: nats, tokens; top-1 shares at the traced steps (the second ends early).
TEXTS = [(10.0, 5.0, {1: 0.2, 2: 0.4, 3: 0.6, 4: 1.0}), (14.0, 5.0, {1: 0.6, 2: 1.0})]


@pytest.fixture
def run(write_tables: Callable[..., Path], empty_plan: Any, blank_row: Blank) -> Run:
    """A cell that writes, one that bounds given texts and one that scores them exactly."""
    cells = (
        ("llada", "lm1b", "nll", 4, {"reference_perplexity": 20.0, "mauve_texts": 2.0}),
        (
            "likelihood",
            "lm1b-perplexity",
            "nll_bound",
            1,
            {
                "perplexity_bound_per_token": 11.0,
                "perplexity_bound_per_word": 400.0,
                "tokens": 10.0,
                "texts": 2.0,
                "mc_num": 64.0,
                "mc_stderr_nats_per_token": 0.02,
            },
        ),
        ("likelihood", "lm1b-perplexity", "nll", 1, {"perplexity_per_word": 300.0, "tokens": 10.0}),
    )
    for at, (decoder, task, nll, steps, numbers) in enumerate(cells):
        names = {"cell_id": str(at), "task": task, "model": f"net{at}", "decoder": decoder}
        names |= {"run_id": "r", "steps": steps, "gen_length": 8, "mode": "throughput"}
        said = {"tokenizer": f"net{at}", "mauve": "not given: 2 texts", "context": "alone"}
        empty_plan.cells.append(
            blank_row(
                "cells",
                **names,
                task_version="1",
                model_digest="d",
                decoder_config="{}",
                decoder_fingerprint="f",
                num_fewshot=0,
                n=2,
                statuses=[("ok", 2)],
                metrics=list(numbers.items()),
                remarks=list(said.items()),
            )
        )
        for text, (nats, tokens, shares) in enumerate(TEXTS):
            sid = f"{at}-{text}"
            empty_plan.samples.append(
                blank_row(
                    "samples",
                    **names,
                    sid=sid,
                    sample_id=str(text),
                    seed=0,
                    status="ok",
                    prompt="p",
                    prompt_sha256="0",
                    metrics=[(nll, nats), ("scored_tokens", tokens)],
                    generated_tokens=5 if decoder == "llada" else None,
                    nfe=4,
                    decode_s=1.0,
                    latency_s=1.0,
                    device="cpu",
                    dtype="float32",
                    slots=2,
                    created_at=pd.Timestamp("2026-01-01", tz="UTC"),
                )
            )
            for step, share in shares.items() if decoder == "llada" else ():
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
                        top1_share=share,
                        elapsed_s=0.0,
                    )
                )
    return load(write_tables(empty_plan))


def test_settled_tokens_by_hand(run: Run) -> None:
    cells = cell_table(run)
    (found,) = settlings(run, cells)
    assert (found.task, found.steps, found.texts) == ("lm1b", 4, 2)
    assert found.curve.tolist() == pytest.approx([0.0, 0.4, 0.7, 0.8, 1.0])
    assert [found.at[part].value for part in (0.125, 0.25, 0.5, 0.75)] == pytest.approx(
        [0.0, 0.4, 0.7, 0.8]
    )
    (row,) = settling_rows([found])
    assert [entry.text for entry in row] == ["lm1b", "2", "0%", "40%", "70%", "80%"]
    chart = settling_chart([found], cells)
    assert chart.panels[0].figure["data"][0]["y"] == pytest.approx(found.curve.tolist())
    assert settlings(run, cells.iloc[:0]) == []


def test_a_bound_is_called_one_wherever_it_stands(run: Run) -> None:
    cells = cell_table(run)
    screen = Console(width=160, file=io.StringIO(), record=True)
    screen.print(summary(run))
    lines = screen.export_text().splitlines()
    bound, exact = (next(line for line in lines if name in line) for name in ("net1", "net2"))
    assert "ppl <= 11.0" in bound and "ppl 11.0" in exact
    assert " 0 " not in bound, "nothing is written, so there are no tokens a forward"
    names = [column.title for column in GIVEN_COLUMNS]
    first, second = (dict(zip(names, row, strict=True)) for row in given_rows(cells))
    assert (first["value"].text, second["value"].text) == ("upper bound", "exact")
    assert (first["per token"].text, second["per token"].text) == ("≤ 11.0", "11.0")
    assert (first["per word"].text, second["per word"].text) == ("≤ 400", "300")
    assert (first["draws a text"].text, first["tokens a text"].text) == ("64", "5.00")
    assert first["per token"].flag == "of net1's" and second["draws a text"].text == "–"
    assert remarks(cells) == ["lm1b-perplexity: alone."]
    said = dict(verdicts(run, cells, [], {"0": _none()}))["lm1b-perplexity"]
    assert "net1: perplexity at most 11.0" in said[0] and "a bound, from 64 draws" in said[0]
    assert "net2: perplexity exactly 11.0" in said[1]


def test_free_text_stands_beside_peoples(run: Run) -> None:
    (row,) = written_rows(cell_table(run))
    entries = dict(zip([column.title for column in WRITTEN_COLUMNS], row, strict=True))
    assert entries["perplexity"].text == "11.0"
    assert entries["perplexity"].flag == "under net0"
    assert entries["of people"].text == "20.0"
    assert (entries["MAUVE"].text, entries["MAUVE"].spread) == ("–", "not given: 2 texts")


def test_the_page_has_all_three(run: Run) -> None:
    html = page(run)
    for title in ("Given texts", "Texts without a right answer", "variety and MAUVE"):
        assert title in html


def _none() -> Any:
    from reports.speed import NOTHING, Speedup

    return Speedup("0", None, None, *[NOTHING] * 4, "no autoregressive cell for this task")
