"""A small run whose every figure is computed here a second time, from its rows, by other means:
plain Python, statsmodels, and the bootstrap's whole distribution in place of draws."""

import statistics
from collections.abc import Callable
from fractions import Fraction
from html.parser import HTMLParser
from itertools import product
from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm, t
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.proportion import proportion_confint

from reports.analysis import Analysis, analyse
from reports.frames import frames
from reports.render import page

GOLDEN = Path(__file__).parent / "golden"
Rows = list[dict[str, Any]]
QUESTIONS, TEXTS = ("g4", "g8", "gar"), ("tllada", "tar")


@pytest.fixture(scope="module")
def found() -> Analysis:
    return analyse(GOLDEN)


@pytest.fixture(scope="module")
def tables(found: Analysis) -> dict[str, pd.DataFrame]:
    return frames(found)


def rows_of(cell: str) -> Rows:
    return [
        row
        for row in pq.read_table(GOLDEN / "samples.parquet").to_pylist()
        if row["cell_id"] == cell
    ]


def steps_of(cell: str) -> dict[str, dict[int, int]]:
    """Verdicts by sid and step."""
    sids = {row["sid"] for row in rows_of(cell)}
    told: dict[str, dict[int, int]] = {}
    for row in pq.read_table(GOLDEN / "steps.parquet").to_pylist():
        if row["sid"] in sids:
            told.setdefault(row["sid"], {})[row["step"]] = row["correct"]
    return told


def by_sample(rows: Rows, value: Callable[[dict[str, Any]], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["sample_id"], []).append(value(row))
    return found


def timed(cell: str) -> Rows:
    return [row for row in rows_of(cell) if row["decode_s"] is not None]


def grouped_wilson(groups: list[list[float]]) -> tuple[float, float, float]:
    """The share of ones and its score interval at the effective number of trials."""
    n = sum(map(len, groups))
    p = Fraction(int(sum(map(sum, groups))), n)
    spread = sum((int(sum(group)) - p * len(group)) ** 2 for group in groups) / Fraction(n) ** 2
    if spread:
        trials = min(p * (1 - p) / spread, Fraction(n))
    else:
        trials = Fraction(len(groups) if p in (0, 1) else n)
    low, high = proportion_confint(float(p * trials), float(trials), method="wilson")
    return float(p), low, high


def whole_bca(
    columns: list[tuple[float, ...]], value: Callable[[np.ndarray], float]
) -> tuple[float, float]:
    """Ends of the expanded BCa interval over all n^n resamples."""
    table, n = np.array(columns), len(columns)
    here = value(table.sum(axis=0))
    draws = np.sort(
        [value(table[list(picked)].sum(axis=0)) for picked in product(range(n), repeat=n)]
    )
    bias = norm.ppf((np.mean(draws < here) + np.mean(draws <= here)) / 2)
    left_out = np.array([value(np.delete(table, at, axis=0).sum(axis=0)) for at in range(n)])
    away = left_out.mean() - left_out
    skew = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z = sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)
    levels = [norm.cdf(bias + (bias + end) / (1 - skew * (bias + end))) for end in (-z, z)]
    low, high = np.quantile(draws, levels)
    return float(low), float(high)


def near(row: Any, name: str, value: float, ends: tuple[float, float]) -> None:
    """The value exactly, the ends up to the noise of 2,000 draws."""
    assert row[name] == pytest.approx(value, rel=1e-12), name
    width = ends[1] - ends[0]
    assert row[f"{name}_low"] == pytest.approx(ends[0], abs=0.12 * width), name
    assert row[f"{name}_high"] == pytest.approx(ends[1], abs=0.12 * width), name


@pytest.mark.parametrize("cell", QUESTIONS)
def test_counts_and_accuracy(tables: dict[str, pd.DataFrame], cell: str) -> None:
    row = tables["cells"].set_index("cell_id").loc[cell]
    rows = rows_of(cell)
    judged = [one for one in rows if one["correct"] is not None]
    for status in ("ok", "error", "timeout", "quarantined", "not_executed"):
        assert row[status] == sum(one["status"] == status for one in rows)
    assert (row["rows"], row["verdicts"], row["scored"], row["repeats"]) == (10, 9, 5, 2)
    assert row["right"] == sum(one["correct"] for one in judged)
    p, low, high = grouped_wilson(list(by_sample(judged, lambda one: one["correct"]).values()))
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx(
        (p, low, high), abs=1e-12
    )
    assert row["accuracy_failed_as_wrong"] == row["right"] / 10


@pytest.mark.parametrize("cell", (*QUESTIONS, *TEXTS))
def test_cost(tables: dict[str, pd.DataFrame], cell: str) -> None:
    row, rows = tables["cells"].set_index("cell_id").loc[cell], timed(cell)
    seconds = sum(one["decode_s"] for one in rows)
    tokens = sum(one["generated_tokens"] for one in rows)
    assert row["latency_s"] == statistics.median(one["latency_s"] for one in rows)
    assert row["nfe"] == pytest.approx(statistics.fmean(one["nfe"] for one in rows))
    assert row["token_forwards"] == pytest.approx(
        statistics.fmean(one["token_forwards"] for one in rows)
    )
    assert row["tokens_per_forward"] == pytest.approx(tokens / sum(one["nfe"] for one in rows))
    spent = by_sample(rows, lambda one: one["decode_s"])
    written = by_sample(rows, lambda one: one["generated_tokens"])
    for name, total, amounts in (
        ("samples_per_s", len(rows), {key: [1.0] * len(all_) for key, all_ in spent.items()}),
        ("tokens_per_s", tokens, written),
    ):
        columns = [(sum(amounts[key]), sum(spent[key])) for key in spent]
        near(row, name, total / seconds, whole_bca(columns, lambda s: s[0] / s[1]))


@pytest.mark.parametrize("cell", TEXTS)
def test_perplexity_and_entropy(tables: dict[str, pd.DataFrame], cell: str) -> None:
    row = tables["cells"].set_index("cell_id").loc[cell]
    told = [dict(one["metrics"]) for one in rows_of(cell)]
    columns = [(one["nll"], one["scored_tokens"]) for one in told]
    value = exp(sum(nll for nll, _ in columns) / sum(tokens for _, tokens in columns))
    near(row, "perplexity", value, whole_bca(columns, lambda s: exp(s[0] / s[1])))
    entropies = [one["unigram_entropy_nats"] for one in told]
    assert row["entropy"] == pytest.approx(statistics.fmean(entropies))
    assert (row["texts"], row["right"], row["verdicts"]) == (3, 0, 0)


@pytest.mark.parametrize(("cell", "baseline"), [("g4", "gar"), ("g8", "gar"), ("tllada", "tar")])
def test_speedups(tables: dict[str, pd.DataFrame], cell: str, baseline: str) -> None:
    table = tables["speedups"]
    row = table[(table["cell_id"] == cell) & (table["against"] == "ar")].iloc[0]
    assert row["baseline_id"] == baseline

    def means(name: str, which: str) -> dict[str, float]:
        found = by_sample(timed(which), lambda one: one[name])
        return {key: statistics.fmean(values) for key, values in found.items()}

    names = ("decode_s", "generated_tokens", "nfe", "token_forwards")
    mine, theirs = ({name: means(name, which) for name in names} for which in (cell, baseline))
    both = sorted(mine["nfe"].keys() & theirs["nfe"].keys())
    assert row["n"] == len(both)
    columns = [tuple(side[name][key] for side in (mine, theirs) for name in names) for key in both]
    ratios: dict[str, Callable[[np.ndarray], float]] = {
        "samples": lambda s: s[4] / s[0],
        "tokens": lambda s: (s[1] / s[0]) / (s[5] / s[4]),
        "forwards": lambda s: s[6] / s[2],
        "token_forwards": lambda s: s[7] / s[3],
    }
    for name, ratio in ratios.items():
        near(row, name, ratio(np.sum(columns, axis=0)), whole_bca(columns, ratio))


def test_convergence(tables: dict[str, pd.DataFrame]) -> None:
    (row,) = tables["convergence"].to_dict("records")
    told = steps_of("g8")
    traced = [one for one in rows_of("g8") if one["sid"] in told and one["correct"] is not None]
    right = [one for one in traced if one["correct"]]
    assert (row["cell_id"], row["traced"], row["right"]) == ("g8", len(traced), len(right))
    for part in (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)):
        groups = by_sample(right, lambda one, by=part: Fraction(one["converged_step"], 8) <= by)
        p, low, high = grouped_wilson(list(groups.values()))
        name = f"right_for_good_by_{float(part):g}"
        found = (row[name], row[f"{name}_low"], row[f"{name}_high"])
        assert found == pytest.approx((p, low, high), abs=1e-9)
    lost = by_sample(traced, lambda one: not one["correct"] and 1 in told[one["sid"]].values())
    expected = grouped_wilson(list(lost.values()))
    assert (row["lost"], row["lost_low"], row["lost_high"]) == pytest.approx(expected, abs=1e-9)
    curve = tables["convergence_curve"]
    for step, share in zip(curve["step"], curve["right_for_good"], strict=True):
        reached = sum(one["converged_step"] <= step for one in right)
        assert share == pytest.approx(reached / len(right))


def test_stops(tables: dict[str, pd.DataFrame]) -> None:
    told, rows = steps_of("g8"), {one["sid"]: one for one in rows_of("g8")}
    stops = tables["stops"].set_index("step")
    assert list(stops.index) == list(range(1, 9))
    for step, row in stops.iterrows():
        now: dict[str, list[float]] = {}
        for sid, verdicts in told.items():
            before = [at for at in verdicts if at <= int(str(step))]
            right = verdicts[max(before)] if before else 0
            now.setdefault(rows[sid]["sample_id"], []).append(right)
        expected = grouped_wilson(list(now.values()))
        found = (row["accuracy"], row["accuracy_low"], row["accuracy_high"])
        assert found == pytest.approx(expected, abs=1e-6), step


def test_durations_count_the_never_right(tables: dict[str, pd.DataFrame]) -> None:
    told = steps_of("g8")
    first = [one for one in rows_of("g8") if one["sid"] in told and one["repeat"] == 0]
    times = np.array([one["converged_step"] or 8 for one in first], dtype=float)
    came = np.array([one["converged_step"] is not None for one in first], dtype=float)
    theirs = SurvfuncRight(times, came)
    at = [place for place, when in enumerate(theirs.surv_times) if when in times[came > 0]]
    durations = tables["durations"]
    assert durations["step"].tolist() == [theirs.surv_times[place] for place in at]
    assert durations["right_for_good"].tolist() == pytest.approx(
        [1 - theirs.surv_prob[place] for place in at]
    )
    assert set(durations["n"]) == {4} and set(durations["censored"]) == {2}


def test_spreads(tables: dict[str, pd.DataFrame]) -> None:
    for row in tables["spreads"].to_dict("records"):
        rows = timed(row["cell_id"])
        values = [float(one[row["quantity"]]) for one in rows]
        assert row["n"] == len(values)
        assert row["q50"] == pytest.approx(statistics.median(values))
        if len(values) > 1:
            quarters = statistics.quantiles(values, n=20, method="inclusive")
            found = (row["q05"], row["q25"], row["q75"], row["q95"])
            assert found == pytest.approx((quarters[0], quarters[4], quarters[14], quarters[18]))


class Table(HTMLParser):
    """The texts of a table's entries by row."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._name, self._inside, self._entry = name, False, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside |= tag == "table" and ("id", self._name) in attrs
        if self._inside and tag == "tr":
            self.rows.append([])
        if self._inside and tag == "td":
            self.rows[-1].append("")
        self._entry = self._inside and (self._entry or tag == "td")
        if self._entry and tag in ("small", "span"):
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "table"
        self._entry &= tag != "td"

    def handle_data(self, data: str) -> None:
        if self._entry and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_page_says_the_same(found: Analysis) -> None:
    """Every number of the table of cells without an interval, worked out on paper."""
    text = page(found)
    rows = {tuple(row[:3]): row for row in Table(text, "cells").rows if row}
    small = rows["gsm8k", "m-llada · llada", "8"]
    assert small[3] == "5x2 (9/10) 1 failed small n"
    assert small[4] == "67% [31–90%] 60% if failed = wrong"  # 6 of 9; 6 of 10
    # Sums of the means of each sample's outputs: 1.315 s against 4.095 s.
    assert small[5].startswith("0.32× [") and small[7].startswith("1.64× [")
    # 9 outputs and 104 tokens in 7.03 s; 68 forwards; median wall time 4 x 0.80 s.
    assert small[9].startswith("1.28 [") and small[10].startswith("14.8 [")
    assert small[11:15] == ["3.20", "7.56", "189", "1.53"]
    baseline = rows["gsm8k", "m-ar", "16"]
    assert baseline[4] == "78% [45–94%] 70% if failed = wrong"
    assert baseline[5:9] == ["AR"] * 4
    assert baseline[11:15] == ["0.96", "12.2", "21.2", "1.00"]
    convergence = Table(text, "convergence").rows[1]
    assert convergence[1] == "6/9 small n"
    assert convergence[2:] == [
        "17% [3–56%]",
        "33% [10–70%]",
        "67% [30–90%]",
        "83% [41–97%]",
        "11% [2–43%]",
    ]
