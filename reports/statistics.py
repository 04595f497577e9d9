"""Intervals for the numbers of a report: pure functions, no I/O.

Every estimate that is not a plain proportion (throughput, speedup, perplexity) is a function of
sums over samples, so one bootstrap over sums serves them all. Draws are seeded: the same rows
give the same interval, always.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, nan, pi, sqrt, tan
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]
"""Maps sums [..., k] over the samples of k columns to estimates [...]."""

SMALL_N = 30
"""Below this many samples a number is marked as resting on few."""

_NORMAL = NormalDist()
_MOST_ROWS = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence interval (NaN ends: none can be given) and its n."""

    value: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether the interval has two finite ends."""
        return isfinite(self.low) and isfinite(self.high)


NOTHING = Interval(nan, nan, nan, 0)
"""What a statistic of no samples is."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = successes/n and z the
    normal quantile of (1 + confidence)/2. Unlike p +- z sqrt(p(1-p)/n) it keeps its coverage
    for small n and for p near 0 and 1, and never leaves [0, 1].

    Source: E. B. Wilson, JASA 22 (1927), 209-212; recommended by Brown, Cai and DasGupta,
    Statistical Science 16 (2001), 101-133.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n, got {successes} of {n}")
    if n == 0:
        return NOTHING
    p = successes / n
    return Interval(p, *_score_ends(p, n, confidence), n)


def wilson_of_groups(
    successes: FloatArray, counts: FloatArray, confidence: float = 0.95
) -> Interval:
    """Score interval of a proportion whose trials come in groups, such as a problem's repeats.

    successes, counts: [m], those of each group. Outputs of one problem are alike, so groups, not
    trials, are independent: `wilson` is taken at the effective number of trials

        p(1-p) / (sum (x_i - p n_i)^2 / (sum n_i)^2), at most sum n_i,

    the binomial variance over that of the ratio of sums p. Equal trials within each group give m
    of them, groups of one trial the plain interval. `n` of the result is m.

    Source: E. L. Korn and B. I. Graubard, Survey Methodology 24 (1998), 193-201, without their
    t correction.
    """
    known = counts > 0
    successes, counts = successes[known], counts[known]
    groups, trials = len(counts), float(counts.sum())
    if groups == 0:
        return NOTHING
    p = float(successes.sum()) / trials
    variance = float(((successes - p * counts) ** 2).sum()) / trials**2
    if variance > 0:
        effective = min(p * (1 - p) / variance, trials)
    else:  # all right, all wrong, or the same share in each group
        effective = groups if p in (0.0, 1.0) else trials
    return Interval(p, *_score_ends(p, effective, confidence), groups)


def _score_ends(p: float, n: float, confidence: float) -> tuple[float, float]:
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    middle = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At p = 0 and p = 1 the ends are exact; rounding would leave them 1e-17 off.
    return (
        0.0 if p == 0 else (middle - half) / scale,
        1.0 if p == 1 else (middle + half) / scale,
    )


def bootstrap_of_sums(
    columns: FloatArray,
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    expanded: bool = True,
) -> Interval:
    """BCa bootstrap interval of `statistic(column sums)`, resampling whole rows.

    columns: [n, k], one row a sample. A row is drawn with all its columns, so that quantities of
    one sample stay together: with a decoder's and its baseline's numbers side by side in a row,
    the bootstrap is paired.

    With theta* the resampled estimates and Phi the normal distribution function, the ends are
    the quantiles Phi(z0 + (z0 + z)/(1 - a(z0 + z))) of theta*, z = Phi^-1((1 -+ confidence)/2):
    the bias correction z0 = Phi^-1(share of theta* below theta, ties by half), the acceleration
    a = sum d^3 / 6 (sum d^2)^(3/2) over d = mean of the jackknife values - jackknife value.
    Where z0 or a is undefined (estimates all equal, or all on one side), the percentile
    interval is given. One row has no interval.

    More than 1,000 rows are first summed into 1,000 random groups of equal size (to one row),
    which are resampled in their place: sums of groups spread as the sums of their rows do, so
    the interval stays the same but for noise, and the cost stops growing with n.

    Bootstrap draws vary by (n-1)/n too little and know no t distribution, so of few samples the
    interval is too narrow (8 samples: 86% instead of 95% in simulation). `expanded` widens z to
    sqrt(n/(n-1)) t, t the quantile with n-1 degrees of freedom (then 92%).

    Sources: B. Efron, JASA 82 (1987), 171-185; Efron and Tibshirani, An Introduction to the
    Bootstrap (1993), section 14.3; expansion: T. Hesterberg, The American Statistician 69
    (2015), 371-386.
    """
    n = len(columns)
    if n == 0:
        return NOTHING
    totals = columns.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = float(statistic(totals))
        if n == 1 or not isfinite(value):
            return Interval(value, nan, nan, n)
        columns = _grouped(columns, seed)
        draws = statistic(_sums(columns, resamples, seed))
        jackknife = statistic(totals - columns)
    draws = np.sort(draws[np.isfinite(draws)])
    if draws.size < resamples / 2:
        return Interval(value, nan, nan, n)
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    if expanded:
        rows = len(columns)
        z = sqrt(rows / (rows - 1)) * t_quantile((1 + confidence) / 2, rows - 1)
    low, high = np.quantile(draws, _bca_levels(z, value, draws, jackknife))
    return Interval(value, float(low), float(high), n)


def _grouped(columns: FloatArray, seed: int) -> FloatArray:
    """At most _MOST_ROWS rows with the same total: random groups, summed."""
    n = len(columns)
    if n <= _MOST_ROWS:
        return columns
    order = np.random.default_rng(seed).permutation(n)
    starts = np.linspace(0, n, _MOST_ROWS, endpoint=False).astype(np.intp)
    return np.asarray(np.add.reduceat(columns[order], starts, axis=0), dtype=np.float64)


def _sums(columns: FloatArray, resamples: int, seed: int) -> FloatArray:
    """The columns' sums over `resamples` draws of rows with replacement: [n, k] to [resamples, k].

    How often a draw takes each row is the same for every n rows, so that it is drawn once, and the
    sums of all draws are one product of matrices.
    """
    return np.asarray(_times_taken(len(columns), resamples, seed) @ columns, dtype=np.float64)


@lru_cache(maxsize=4)
def _times_taken(n: int, resamples: int, seed: int) -> FloatArray:
    """How often each draw takes each of n rows, [resamples, n]."""
    taken = times_taken(np.random.default_rng(seed), n, resamples).astype(np.float64)
    taken.flags.writeable = False
    return taken


def times_taken(generator: np.random.Generator, n: int, draws: int) -> npt.NDArray[np.int64]:
    """How often each of some draws of n rows from n with replacement takes each, [draws, n]."""
    picked = generator.integers(0, n, (draws, n))
    picked += np.arange(draws)[:, None] * n
    return np.bincount(picked.ravel(), minlength=draws * n).reshape(draws, n)


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t: closed forms for 1 and 2 degrees of freedom, else a series.

    The series in 1/freedom is Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5;
    within 0.5% of the quantile for p = 0.975 and 3 degrees of freedom, closer for more.
    """
    if freedom == 1:
        return tan(pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / sqrt(2 * p * (1 - p))
    z = _NORMAL.inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


def _bca_levels(z: float, value: float, draws: FloatArray, jackknife: FloatArray) -> FloatArray:
    """Quantile levels of the BCa interval, or of the percentile one where it is undefined."""
    ends = np.array([-z, z])
    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2
    deviation = jackknife.mean() - jackknife
    spread = float((deviation**2).sum())
    if not (0 < below < 1 and isfinite(spread) and spread > 0):
        return _levels(ends)
    bias = _NORMAL.inv_cdf(float(below))
    acceleration = float((deviation**3).sum()) / (6 * spread**1.5)
    shifted = bias + ends
    if (acceleration * shifted >= 1).any():  # beyond the pole the levels would swap
        return _levels(ends)
    return _levels(bias + shifted / (1 - acceleration * shifted))


def _levels(ends: FloatArray) -> FloatArray:
    return np.array([_NORMAL.cdf(float(end)) for end in ends])


def rate(amounts: FloatArray, seconds: FloatArray) -> Interval:
    """Amount a second as a ratio of sums, sum(amounts)/sum(seconds); both [n].

    The mean of per-sample rates would weigh a one-token answer like a long one; the ratio of
    sums is the throughput that the device delivered.
    """
    return bootstrap_of_sums(np.column_stack([amounts, seconds]), lambda s: s[..., 0] / s[..., 1])


def paired_rate_ratio(
    amounts: FloatArray,
    seconds: FloatArray,
    baseline_amounts: FloatArray,
    baseline_seconds: FloatArray,
) -> Interval:
    """How many times the baseline's rate: (sum a/sum s) / (sum a0/sum s0), paired; all [n].

    Entry i of every array belongs to the same sample, which is drawn or left out as a whole.
    """
    columns = np.column_stack([amounts, seconds, baseline_amounts, baseline_seconds])
    return bootstrap_of_sums(columns, lambda s: (s[..., 0] / s[..., 1]) / (s[..., 2] / s[..., 3]))


def unpaired_rate_ratio(
    amounts: FloatArray,
    costs: FloatArray,
    baseline_amounts: FloatArray,
    baseline_costs: FloatArray,
) -> Interval:
    """(sum a/sum c) / (sum a0/sum c0) of two groups of other samples; [n], [n], [m], [m].

    Each group is resampled by itself, of many rows as in `bootstrap_of_sums`. BCa, expanded for
    the smaller group, with the acceleration of two samples: a = sum l^3 / 6 (sum l^2)^(3/2) over
    l = (n-1)/n times (the group's mean jackknife value - jackknife value).

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 5.3.
    """
    sides = (
        np.column_stack([amounts, costs]),
        np.column_stack([baseline_amounts, baseline_costs]),
    )
    n = min(len(side) for side in sides)
    if n == 0:
        return NOTHING
    groups = [_grouped(side, seed) for seed, side in enumerate(sides)]

    def quotient(sums: FloatArray) -> FloatArray:
        return np.asarray(sums[..., 0] / sums[..., 1], dtype=np.float64)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rates = [float(quotient(group.sum(axis=0))) for group in groups]
        value = rates[0] / rates[1] if rates[1] else nan
        if n == 1 or not all(map(isfinite, (*rates, value))):
            return Interval(value, nan, nan, n)
        drawn = [quotient(_sums(group, 2000, seed)) for seed, group in enumerate(groups)]
        draws = drawn[0] / drawn[1]
        left_out = [quotient(group.sum(axis=0) - group) for group in groups]
        jackknives = (left_out[0] / rates[1], rates[0] / left_out[1])
        influence = np.concatenate([(j - j.mean()) * (len(j) - 1) / len(j) for j in jackknives])
    draws = np.sort(draws[np.isfinite(draws)])
    if draws.size < 1000:
        return Interval(value, nan, nan, n)
    rows = min(len(group) for group in groups)
    z = sqrt(rows / (rows - 1)) * t_quantile(0.975, rows - 1)
    low, high = np.quantile(draws, _bca_levels(z, value, draws, influence))
    return Interval(value, float(low), float(high), n)


def paired_share_ratio(right: FloatArray, reference_right: FloatArray) -> Interval:
    """What share of the reference's accuracy is kept on the same samples: sum r / sum r0."""
    columns = np.column_stack([right, reference_right])
    return bootstrap_of_sums(columns, lambda s: s[..., 0] / s[..., 1])


def mean(values: FloatArray) -> Interval:
    """The mean of values [n], bootstrapped."""
    columns = np.column_stack([values, np.ones_like(values)])
    return bootstrap_of_sums(columns, lambda s: s[..., 0] / s[..., 1])


def perplexity(nll_nats: FloatArray, tokens: FloatArray) -> Interval:
    """exp(sum of negative log-likelihoods / sum of tokens), bootstrapped over samples; both [n].

    Samples, not tokens, are resampled: the tokens of one text depend on each other.
    """
    return bootstrap_of_sums(
        np.column_stack([nll_nats, tokens]), lambda s: np.exp(s[..., 0] / s[..., 1])
    )


def share_reached(positions: FloatArray, grid: FloatArray) -> FloatArray:
    """Empirical distribution function: the share of `positions` [n] at or below each of `grid`."""
    if positions.size == 0:
        return np.full(grid.shape, nan)
    # Fractions such as 3/12 and 0.25 must meet though they were divided differently.
    reached = np.searchsorted(np.sort(positions), grid + 1e-9, side="right")
    return np.asarray(reached / positions.size, dtype=np.float64)
