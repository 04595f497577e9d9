"""Time to convergence with censored samples: against scipy, statsmodels, by hand, by coverage."""

from math import isnan

import numpy as np
import pytest
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight

from reports.survival import at_time, kaplan_meier

HAND = (np.array([2.0, 3.0, 3.0, 5.0, 8.0, 8.0]), np.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0]))


def _drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    times, until = rng.integers(1, 30, n), rng.integers(5, 40, n)
    return np.minimum(times, until).astype(np.float64), (times <= until).astype(np.float64)


def test_by_hand() -> None:
    found = kaplan_meier(*HAND)
    # S: 5/6, then 4 of the 5 at risk are left, then 2 of 3 (one was censored at 3).
    assert found.times.tolist() == [2, 3, 5]
    assert 1 - found.share == pytest.approx([5 / 6, 5 / 6 * 4 / 5, 5 / 6 * 4 / 5 * 2 / 3])
    assert (found.n, found.events, found.median) == (6, 3, 5.0)
    assert at_time(found, 1.9) == (0, 0, 0)
    assert at_time(found, 4)[0] == pytest.approx(1 - 4 / 6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_equals_scipy(seed: int) -> None:
    times, reached = _drawn(seed, 40)
    found = kaplan_meier(times, reached)
    theirs = stats.ecdf(stats.CensoredData.right_censored(times, reached == 0))
    at = np.isin(theirs.sf.quantiles, found.times)
    assert 1 - found.share == pytest.approx(theirs.sf.probabilities[at])
    ends = theirs.sf.confidence_interval(method="log-log")
    known = np.isfinite(found.low)
    assert known.sum() > 5
    assert 1 - found.high[known] == pytest.approx(ends.low.probabilities[at][known])
    assert 1 - found.low[known] == pytest.approx(ends.high.probabilities[at][known])


def test_equals_statsmodels() -> None:
    times, reached = _drawn(7, 60)
    found, theirs = kaplan_meier(times, reached), SurvfuncRight(times, reached)
    at = np.isin(theirs.surv_times, found.times)
    assert 1 - found.share == pytest.approx(theirs.surv_prob[at])


def test_with_nothing_censored_it_is_the_plain_share() -> None:
    found = kaplan_meier(np.array([1.0, 2.0, 2.0, 4.0]), np.ones(4))
    assert found.share == pytest.approx([1 / 4, 3 / 4, 1])
    assert isnan(found.low[-1]) and isnan(found.high[-1])


def test_nothing_reached_and_nothing_at_all() -> None:
    for n in (0, 3):
        found = kaplan_meier(np.full(n, 8.0), np.zeros(n))
        assert (found.n, found.events, len(found.times)) == (n, 0, 0) and isnan(found.median)
    with pytest.raises(ValueError, match="differ in shape"):
        kaplan_meier(np.zeros(2), np.zeros(3))


def test_dropping_the_censored_would_flatter() -> None:
    times, reached = HAND
    dropped = kaplan_meier(times[reached > 0], reached[reached > 0])
    assert at_time(dropped, 5)[0] == 1.0
    assert at_time(kaplan_meier(times, reached), 5)[0] < 0.6


def test_the_interval_holds_its_coverage() -> None:
    """Exponential times, watched until 1: the share reached by 1/2 is known."""
    rng, held, trials = np.random.default_rng(3), 0, 1000
    truth = 1 - np.exp(-0.5)
    for _ in range(trials):
        times, until = rng.exponential(1, 60), rng.uniform(0.3, 1.5, 60)
        found = kaplan_meier(np.minimum(times, until), (times <= until).astype(np.float64))
        _, low, high = at_time(found, 0.5)
        held += low <= truth <= high
    assert 0.93 < held / trials < 0.97
