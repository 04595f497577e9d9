"""Time until an answer is right for good, with samples that never are: pure functions, no I/O."""

from dataclasses import dataclass
from math import exp, isfinite, log, sqrt
from statistics import NormalDist

import numpy as np

from reports.statistics import FloatArray


@dataclass(frozen=True)
class Reached:
    """The share that has got there by each time, 1 - S(t), at the times where it grows."""

    times: FloatArray
    """Distinct times of events, ascending."""
    share: FloatArray
    low: FloatArray
    high: FloatArray
    n: int
    events: int
    median: float
    """The first time at which the share is at least half; NaN if it never is."""


def kaplan_meier(times: FloatArray, reached: FloatArray, confidence: float = 0.95) -> Reached:
    """The product-limit estimate of when an event comes, where some have been watched in vain.

    times: [n], when the event came or, where `reached` is 0, until when nothing had come
    (censored; at the same time as an event it counts as after it). With d_i events at time t_i and
    r_i still without one just before,

        S(t) = prod over t_i <= t of (1 - d_i / r_i);  shown is 1 - S(t).

    The interval is of log(-log S), so that it stays within [0, 1]: S^exp(+-z s(t)), with
    s^2 = sum d_i / (r_i (r_i - d_i)) / (log S)^2 by Greenwood's formula and z the normal quantile
    of (1 + confidence)/2. Where S is 0 there is no such interval (NaN). With nothing censored
    before t the estimate is the plain share.

    Sources: E. L. Kaplan and P. Meier, JASA 53 (1958), 457-481; M. Greenwood, Reports on Public
    Health 33 (1926); Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data (2nd
    ed., 2002), section 1.4, for the log-log interval.

    Raises:
        ValueError: the arrays differ in length.
    """
    if times.shape != reached.shape:
        raise ValueError(f"times and reached differ in shape: {times.shape}, {reached.shape}")
    came = reached > 0
    at, events = np.unique(times[came], return_counts=True)
    # Still without an event just before each time: all whose own time is not earlier.
    at_risk = len(times) - np.searchsorted(np.sort(times), at, side="left")
    survival = np.cumprod(1 - events / at_risk) if len(at) else np.zeros(0)
    left = at_risk - events
    with np.errstate(divide="ignore"):
        greenwood = np.cumsum(np.where(left > 0, events / (at_risk * np.maximum(left, 1)), np.inf))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    ends = [_log_log(float(s), float(v), z) for s, v in zip(survival, greenwood, strict=True)]
    share = np.asarray(1 - survival, dtype=np.float64)
    half = np.flatnonzero(share >= 0.5 - 1e-12)
    return Reached(
        times=at.astype(np.float64),
        share=share,
        low=np.array([low for low, _ in ends], dtype=np.float64),
        high=np.array([high for _, high in ends], dtype=np.float64),
        n=len(times),
        events=int(came.sum()),
        median=float(at[half[0]]) if len(half) else float("nan"),
    )


def _log_log(survival: float, variance: float, z: float) -> tuple[float, float]:
    """Ends of 1 - S."""
    if not (0 < survival < 1 and isfinite(variance)):
        return float("nan"), float("nan")
    spread = z * sqrt(variance) / abs(log(survival))
    return 1 - survival ** exp(-spread), 1 - survival ** exp(spread)


def at_time(found: Reached, when: float) -> tuple[float, float, float]:
    """Share and interval at a time: those of the last event up to it, (0, 0, 0) before the
    first."""
    place = int(np.searchsorted(found.times, when + 1e-9, side="right")) - 1
    if place < 0:
        return 0.0, 0.0, 0.0
    return float(found.share[place]), float(found.low[place]), float(found.high[place])
