"""Speed by structure: the numbers, and that page and terminal show them."""

import io
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from reports.association import exponential_fit, spearman
from reports.cells import cell_table
from reports.figures_structure import structure_chart
from reports.load import load
from reports.render import page
from reports.statistics import rate, unpaired_rate_ratio
from reports.structure import ENTROPY, RATIO, structures
from reports.tables_structure import STRUCTURE_COLUMNS, structure_rows
from reports.terminal_structure import summaries
from tests.reports.conftest import CREATED, Plan

TOKENS = 60
FORWARDS = {"code": 30, "data": 20, "prose": 60}
"""Means: code is written twice and data three times as fast as prose."""


def row(decoder: str, category: str, at: int, repeat: int) -> dict[str, Any]:
    rng = np.random.default_rng([at, len(category), len(decoder)])
    forwards = TOKENS if decoder == "ar" else FORWARDS[category] + int(rng.integers(-3, 4))
    metrics = {"output_bytes": 200.0, RATIO: 1.0 + TOKENS / forwards}
    if decoder != "ar":
        metrics[ENTROPY] = forwards / 40
    return {
        "run_id": "run-synthetic",
        "cell_id": decoder,
        "sid": f"{decoder}/{category}/{at}/{repeat}",
        "task": "structure",
        "sample_id": f"{category}-{at}",
        "repeat": repeat,
        "category": category,
        "model": "tiny-ar" if decoder == "ar" else "tiny-mdlm",
        "decoder": decoder,
        "steps": 64,
        "gen_length": 64,
        "mode": "latency",
        "seed": 0,
        "status": "ok",
        "prompt": "Write.",
        "prompt_sha256": "0",
        "output_text": "a text",
        "generated_tokens": TOKENS,
        "nfe": forwards,
        "token_forwards": forwards,
        "decode_s": forwards * 0.01 * (1 + 0.1 * repeat),
        "latency_s": forwards * 0.01,
        "tokens_per_forward": TOKENS / forwards,
        "metrics": list(metrics.items()),
        "device": "cpu",
        "dtype": "float32",
        "slots": 1,
        "created_at": CREATED,
    }


@pytest.fixture
def experiment(
    write_tables: Callable[[Plan], Path], blank_row: Callable[..., dict[str, Any]]
) -> Callable[..., Path]:
    def make(repeats: int = 1, prompts: int = 9) -> Path:
        plan = Plan(tasks=())
        for decoder in ("fast-dllm", "ar"):
            for category in FORWARDS:
                for at in range(prompts):
                    for repeat in range(repeats):
                        values = row(decoder, category, at, repeat)
                        plan.samples.append(blank_row("samples", **values))
            cell = {key: plan.samples[-1][key] for key in ("cell_id", "model", "decoder", "mode")}
            plan.cells.append(
                {
                    **cell,
                    "run_id": "run-synthetic",
                    "task": "structure",
                    "task_version": "1",
                    "model_digest": "0",
                    "decoder_config": "{}",
                    "decoder_fingerprint": "0",
                    "steps": 64,
                    "gen_length": 64,
                    "num_fewshot": 0,
                    "n": len(FORWARDS) * prompts * repeats,
                    "statuses": [],
                    "metrics": [],
                }
            )
        return write_tables(plan)

    return make


def test_categories_are_told_against_prose(experiment: Callable[..., Path]) -> None:
    run = load(experiment())
    fast, causal = structures(run, cell_table(run))
    assert [group.category for group in fast.groups] == ["code", "data", "prose"]
    ratios = {group.category: group.per_forward_ratio for group in fast.groups}
    assert ratios["prose"] is None
    for category, times in (("code", 2.0), ("data", 3.0)):
        found = ratios[category]
        assert found is not None
        assert found.value == pytest.approx(times, rel=0.05)
        assert found.low < times < found.high and found.high / found.low < 1.3
    for group in causal.groups:
        assert group.per_forward.value == 1.0
        assert isnan(group.entropy) and group.ratio == 2.0
        speed = group.per_second_ratio
        assert speed is None or speed.value == pytest.approx(1.0)


def test_repeats_are_no_larger_n(experiment: Callable[..., Path]) -> None:
    run = load(experiment(repeats=4))
    group = structures(run, cell_table(run))[0].groups[0]
    assert (group.prompts, group.rows, group.per_forward.n) == (9, 36, 9)
    once = [row("fast-dllm", "code", at, 0) for at in range(9)]
    tokens, forwards = (np.array([float(r[k]) for r in once]) for k in ("generated_tokens", "nfe"))
    alone = rate(tokens, forwards)
    assert (group.per_forward.low, group.per_forward.high) == (alone.low, alone.high)


def test_speed_goes_with_structure(experiment: Callable[..., Path]) -> None:
    run = load(experiment())
    fast, causal = structures(run, cell_table(run))
    assert fast.correlations[ENTROPY].value == pytest.approx(-1.0)
    assert fast.correlations[RATIO].value == pytest.approx(1.0)
    assert all(isnan(value.value) for value in causal.correlations.values())
    chart = structure_chart([fast, causal])
    assert [key.label for key in chart.keys[:3]] == ["code", "data", "prose"]
    assert len({key.marker for key in chart.keys[:3]}) == 3, "told apart without colour"
    assert len(chart.panels) == 2, "one decoder, two measures; nothing for the causal model"
    for panel in chart.panels:
        *clouds, fit = panel.figure["data"]
        assert sum(len(cloud["x"]) for cloud in clouds) == 27 and len(fit["x"]) > 10
        assert "27 prompts" in panel.note and "Spearman" in panel.note
    assert structure_chart([causal]).panels == ()


def test_page_and_terminal_show_it(experiment: Callable[..., Path]) -> None:
    path = experiment(repeats=2)
    run = load(path)
    rows = structure_rows(structures(run, cell_table(run)))
    assert len(rows) == 6 and all(len(entries) == len(STRUCTURE_COLUMNS) for entries in rows)
    text = page(run)
    assert "Speed by structure of the text" in text
    assert "tokens a forward of prose" in text
    for width in (70, 160):
        written = io.StringIO()
        for shown in summaries(path):
            Console(width=width, file=written, color_system=None).print(shown)
        shown_text = written.getvalue()
        assert shown_text.isascii()
        assert "structure: tiny-mdlm - fast-dllm (latency)" in shown_text
        data = next(line for line in shown_text.splitlines() if line.startswith("  data "))
        assert "2.9" in data or "3.0" in data
        assert "  with token entropy: -1.00 [-1.00, -1.00]\n" in shown_text


def test_other_runs_have_no_such_section(make_run: Callable[..., Path]) -> None:
    path = make_run(tasks=("lm1b",), budgets=(4,), n=4)
    assert len(summaries(path)) == 1
    assert "Speed by structure" not in page(load(path))


@pytest.mark.parametrize("seed", range(4))
def test_spearman_equals_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 8, 25).astype(float)  # with ties
    y = x + rng.normal(0, 3, 25)
    found = spearman(x, y)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.low < found.value < found.high and found.n == 25


def test_spearman_of_each_draw_equals_pandas() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    picked = np.random.default_rng(0).integers(0, 30, (200, 30))
    drawn = [pd.Series(x[row]).corr(pd.Series(y[row]), method="spearman") for row in picked]
    found = spearman(x, y, resamples=200)
    ends = (found.low, found.high)
    assert ends == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)


def test_spearman_covers() -> None:
    # Of two normals with correlation r the rank correlation is 6/pi asin(r/2).
    r, held = 0.6, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=50)
        y = r * x + np.sqrt(1 - r * r) * rng.normal(size=50)
        found = spearman(x, y, resamples=400)
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_spearman_of_too_little() -> None:
    assert isnan(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])).value)
    assert isnan(spearman(np.arange(9.0), np.ones(9)).value)


def test_the_fit_finds_an_exponential() -> None:
    x = np.linspace(0, 3, 12)
    at = np.array([0.5, 2.5])
    assert exponential_fit(x, 4 * np.exp(-0.7 * x), at) == pytest.approx(4 * np.exp(-0.7 * at))


def test_an_unpaired_ratio_covers() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        fast = rng.gamma(4, 10, 13)
        slow = rng.gamma(4, 20, 15)
        found = unpaired_rate_ratio(np.full(13, 60.0), fast, np.full(15, 60.0), slow)
        held += found.low <= 2.0 <= found.high
        assert found.value == pytest.approx(slow.mean() / fast.mean())
    assert 0.90 <= held / 200 <= 0.99


def test_an_unpaired_ratio_of_too_little() -> None:
    some, none = np.array([3.0, 4.0]), np.array([])
    assert isnan(unpaired_rate_ratio(some, some, none, none).value)
    assert not unpaired_rate_ratio(some, some, some[:1], some[:1]).known
    assert not unpaired_rate_ratio(some, some, some, 0 * some).known
