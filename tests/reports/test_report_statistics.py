"""Intervals: against scipy and statsmodels, by hand, and by their coverage."""

from math import exp, isnan

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from reports.statistics import (
    Interval,
    bootstrap_of_sums,
    mean,
    paired_rate_ratio,
    paired_share_ratio,
    perplexity,
    rate,
    share_reached,
    t_quantile,
    wilson,
    wilson_of_groups,
)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 8), (5, 8), (24, 24), (31, 48), (700, 1319)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_statsmodels(right: int, n: int, confidence: float) -> None:
    interval = wilson(right, n, confidence)
    expected = proportion_confint(right, n, alpha=1 - confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
    assert (interval.value, interval.n) == (right / n, n)


def test_wilson_covers_small_samples() -> None:
    # Exact, not simulated: the share of outcomes whose interval holds p, by their probability.
    n, coverages = 20, []
    for p in np.linspace(0.02, 0.98, 97):
        held = [wilson(k, n).low <= p <= wilson(k, n).high for k in range(n + 1)]
        coverages.append(float(stats.binom.pmf(np.arange(n + 1), n, p)[held].sum()))
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.01)
    assert min(coverages) > 0.83


def test_wilson_of_nothing_and_of_nonsense() -> None:
    assert isnan(wilson(0, 0).value) and not wilson(0, 0).known
    with pytest.raises(ValueError, match=r"0\.\.n, got 3 of 2"):
        wilson(3, 2)


def _numbers(interval: Interval) -> tuple[float, float, float, int]:
    return interval.value, interval.low, interval.high, interval.n


def test_groups_of_one_trial_give_the_plain_interval() -> None:
    right = np.array([1.0] * 7 + [0.0] * 4)
    assert _numbers(wilson_of_groups(right, np.ones(11))) == pytest.approx(_numbers(wilson(7, 11)))
    assert wilson_of_groups(right[:7], np.ones(7)) == wilson(7, 7)
    assert not wilson_of_groups(np.zeros(0), np.zeros(0)).known


def test_equal_trials_of_a_group_count_once() -> None:
    right = np.array([1.0] * 7 + [0.0] * 4)
    once, five = wilson(7, 11), wilson_of_groups(5 * right, np.full(11, 5.0))
    assert _numbers(five) == pytest.approx(_numbers(once))
    assert wilson_of_groups(np.full(4, 3.0), np.full(4, 3.0)) == wilson(4, 4)


def test_groups_of_alike_trials_hold_their_coverage() -> None:
    rng, plain, grouped = np.random.default_rng(5), 0, 0
    for _ in range(1500):
        chances = rng.beta(0.8, 0.8, 40)  # problems that are mostly easy or mostly hard
        right = rng.binomial(4, chances).astype(np.float64)
        found, naive = wilson_of_groups(right, np.full(40, 4.0)), wilson(int(right.sum()), 160)
        grouped += found.low <= 0.5 <= found.high
        plain += naive.low <= 0.5 <= naive.high
    assert 0.92 < grouped / 1500 < 0.97
    assert plain / 1500 < 0.85


def _speeds(n: int, seed: int) -> np.ndarray:
    """Columns tokens, seconds, baseline tokens, baseline seconds of related samples."""
    rng = np.random.default_rng(seed)
    tokens, length = rng.integers(10, 60, n), rng.lognormal(0, 0.5, n)
    seconds, slower = 0.2 * length, 0.01 * length * rng.lognormal(0, 0.2, n)
    return np.column_stack([tokens, seconds, rng.integers(10, 60, n), slower]).astype(np.float64)


def test_bca_equals_scipy_on_the_same_draws() -> None:
    columns = _speeds(24, seed=3)

    def ratio(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        tokens, seconds, tokens0, seconds0 = (part.sum(axis=axis) for part in parts)
        return np.asarray((tokens / seconds) / (tokens0 / seconds0))

    expected = stats.bootstrap(
        tuple(columns.T),
        ratio,
        paired=True,
        n_resamples=2000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    interval = bootstrap_of_sums(
        columns,
        lambda s: (s[..., 0] / s[..., 1]) / (s[..., 2] / s[..., 3]),
        expanded=False,
    )
    assert interval.value == pytest.approx(float(ratio(*columns.T)))
    assert interval.value == paired_rate_ratio(*columns.T).value
    # scipy draws its indices in another order, so ends agree up to the bootstrap's own noise.
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=0.03)
    assert interval.low < interval.value < interval.high


def test_bootstrap_draws_whole_rows_and_the_same_ones_every_time() -> None:
    columns, seen = _speeds(17, seed=5), []

    def ratio(sums: np.ndarray) -> np.ndarray:
        seen.append(sums)
        return np.asarray(sums[..., 0] / sums[..., 1])

    first, again = (bootstrap_of_sums(columns, ratio, resamples=50, seed=3) for _ in range(2))
    assert first == again
    picked = np.random.default_rng(3).integers(0, 17, (50, 17))
    assert any(
        sums.shape == (50, 4) and np.allclose(sums, columns[picked].sum(axis=1), rtol=1e-14)
        for sums in seen
    )


@pytest.mark.parametrize("p", [0.9, 0.95, 0.975])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 23, 500])
def test_t_quantile_equals_scipys(p: float, freedom: int) -> None:
    assert t_quantile(p, freedom) == pytest.approx(float(stats.t.ppf(p, freedom)), rel=5e-3)


@pytest.mark.parametrize("n", [8, 24])
def test_bootstrap_covers_the_true_rate(n: int) -> None:
    rng, held, trials = np.random.default_rng(11), 0, 500
    for trial in range(trials):
        seconds = rng.lognormal(0, 0.3, n)
        tokens = seconds * rng.lognormal(1, 0.2, n)
        interval = bootstrap_of_sums(
            np.column_stack([tokens, seconds]),
            lambda s: s[..., 0] / s[..., 1],
            resamples=600,
            seed=trial,
        )
        held += interval.low <= exp(1 + 0.2**2 / 2) <= interval.high
    assert 0.90 < held / trials < 0.98


def test_many_rows_give_the_interval_of_the_delta_method() -> None:
    tokens, seconds, _, _ = _speeds(30_007, seed=4).T
    interval = rate(tokens, seconds)
    residual = tokens - interval.value * seconds
    half = 1.96 * float(residual.std()) / seconds.mean() / np.sqrt(len(seconds))
    assert interval.n == 30_007
    assert interval.value == pytest.approx(tokens.sum() / seconds.sum())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_pairing_takes_the_shared_spread_away() -> None:
    _, seconds, _, seconds0 = _speeds(40, seed=8).T
    ones = np.ones_like(seconds)
    paired = paired_rate_ratio(ones, seconds, ones, seconds0)
    shuffled = np.random.default_rng(1).permutation(seconds0)
    unpaired = paired_rate_ratio(ones, seconds, ones, shuffled)
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_rates_are_ratios_of_sums() -> None:
    assert rate(np.array([10.0, 1.0]), np.array([1.0, 1.0])).value == 5.5
    assert rate(np.array([90.0, 1.0]), np.array([9.0, 1.0])).value == 9.1
    assert mean(np.array([1.0, 2.0, 6.0])).value == 3.0
    kept = paired_share_ratio(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert kept.value == 0.5


def test_perplexity_weighs_texts_by_their_tokens() -> None:
    interval = perplexity(np.array([2.0, 30.0]), np.array([1.0, 10.0]))
    assert interval.value == pytest.approx(exp(32 / 11))
    assert interval.n == 2


def test_one_sample_has_no_interval() -> None:
    interval = rate(np.array([6.0]), np.array([2.0]))
    assert interval.value == 3.0 and not interval.known


def test_no_spread_gives_an_interval_of_no_width() -> None:
    assert rate(np.full(9, 6.0), np.full(9, 2.0)) == Interval(3.0, 3.0, 3.0, 9)


def test_a_baseline_of_zero_has_no_ratio() -> None:
    interval = paired_share_ratio(np.array([1.0, 0.0]), np.array([0.0, 0.0]))
    assert not interval.known
    assert isnan(rate(np.array([]), np.array([])).value)


def test_share_reached_equals_scipys_distribution_function() -> None:
    positions = np.array([3, 3, 5, 12, 12]) / 12
    grid = np.arange(13) / 12
    expected = stats.ecdf(positions).cdf.evaluate(grid)
    assert share_reached(positions, grid) == pytest.approx(expected)
    assert share_reached(positions, np.array([0.25]))[0] == 0.4
    assert np.isnan(share_reached(np.array([]), grid)).all()
