"""How two measures of the same samples go together: pure functions, no I/O."""

from math import isfinite, nan

import numpy as np
import numpy.typing as npt

from reports.statistics import FloatArray, Interval, times_taken

_CELLS_PER_CHUNK = 100_000  # counts held at once: they stay in a core's cache

FEWEST = 4
"""Below this many pairs a correlation says nothing."""


def spearman(
    x: FloatArray, y: FloatArray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation of pairs [n] with a percentile bootstrap interval over pairs.

    Ties share their mean rank. NaN where there are fewer than FEWEST pairs or one side never
    changes; draws in which one side never changes are left out.

    Source: C. Spearman, American Journal of Psychology 15 (1904), 72-101; the bootstrap as in
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    n = len(x)
    if n < FEWEST:
        return Interval(nan, nan, nan, n)
    sides = [np.unique(values, return_inverse=True)[1] for values in (x, y)]
    value = float(_rank_correlation(np.ones((1, n), np.int64), *sides)[0])
    if not isfinite(value):
        return Interval(value, nan, nan, n)
    generator, chunk = np.random.default_rng(seed), max(1, _CELLS_PER_CHUNK // n)
    parts = []
    for start in range(0, resamples, chunk):
        taken = times_taken(generator, n, min(chunk, resamples - start))
        parts.append(_rank_correlation(taken, *sides))
    draws = np.concatenate(parts)
    draws = draws[np.isfinite(draws)]
    if draws.size < resamples / 2:
        return Interval(value, nan, nan, n)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high), n)


def _rank_correlation(
    taken: npt.NDArray[np.int64], x: npt.NDArray[np.intp], y: npt.NDArray[np.intp]
) -> FloatArray:
    """Pearson's correlation of the ranks in each draw: [draws].

    taken: [draws, n], how often a draw takes each pair. x, y: [n], the places of the pairs' values
    among the distinct ones in order.
    """
    a, b = _ranks(taken, x), _ranks(taken, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = taken * a
        both = np.einsum("ij,ij->i", weighted, b)
        spreads = np.einsum("ij,ij->i", weighted, a), np.einsum("ij,ij->i", taken * b, b)
        found = both / np.sqrt(spreads[0] * spreads[1])
    return np.asarray(found, dtype=np.float64)


def _ranks(taken: npt.NDArray[np.int64], places: npt.NDArray[np.intp]) -> FloatArray:
    """Each pair's rank in each draw less the mean rank, [draws, n]; ties by their mean."""
    draws, n = taken.shape
    order = np.argsort(places, kind="stable")
    below = np.zeros((draws, n + 1), np.int64)
    np.cumsum(taken[:, order], axis=1, out=below[:, 1:])
    ordered = places[order]
    first, last = (np.searchsorted(ordered, places, side) for side in ("left", "right"))
    return np.asarray((below[:, first] + below[:, last] - n) / 2, dtype=np.float64)


def exponential_fit(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """The curve y = exp(a + b x) at the places `at`: least squares of log y on x, both [n], y
    positive and x not all the same."""
    slope, height = np.polyfit(x, np.log(y), 1)
    return np.asarray(np.exp(height + slope * at), dtype=np.float64)
