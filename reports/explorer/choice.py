"""Which rows an explorer holds: all, or a choice in which every task and outcome has its part."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.cells import FAILED

Positions = npt.NDArray[np.int64]

OUTCOMES = ("failed", "lost", "mixed", "wrong", "right", "no verdict")
"""What a sample is filed under, the first that holds of its rows in all cells."""


def choose(samples: pd.DataFrame, limit: int | None) -> Positions:
    """Positions of rows, whole samples at a time: a sample's rows in all cells stand together, so
    that one can be compared with another.

    Args:
        samples: the samples table of a run.
        limit: most rows; None: all. One sample is kept whatever it has.

    Returns:
        Up to the limit the rows in the order of the table. Beyond it samples are drawn in turn
        from each (task, outcome), in an order that a digest of their ids gives, so that any
        beginning of the result is a choice of the same kind.
    """
    if samples.empty:
        return np.zeros(0, np.int64)
    groups = samples.groupby(["task", "sample_id"], sort=False)
    code = np.asarray(groups.ngroup(), dtype=np.int64)
    if limit is None or len(samples) <= limit:
        return np.argsort(code, kind="stable")
    first = np.unique(code, return_index=True)[1]
    task = pd.factorize(samples["task"].to_numpy()[first])[0]
    stratum = task * len(OUTCOMES) + _outcomes(samples, code)
    shuffled = pd.util.hash_array(samples["sample_id"].to_numpy(dtype=object)[first])
    order = np.lexsort((shuffled, stratum))
    turn = np.empty(len(first), np.int64)
    turn[order] = pd.Series(stratum[order]).groupby(stratum[order]).cumcount().to_numpy()
    order = np.lexsort((stratum, turn))
    fits = np.cumsum(np.bincount(code)[order]) <= limit
    kept = order[: max(1, int(fits.sum()))]
    place = np.full(len(first), -1, np.int64)
    place[kept] = np.arange(len(kept))
    rows = (place[code] >= 0).nonzero()[0]
    return rows[np.argsort(place[code[rows]], kind="stable")]


def _outcomes(samples: pd.DataFrame, code: Positions) -> npt.NDArray[np.intp]:
    """[samples] places in OUTCOMES."""
    correct = samples["correct"].to_numpy(dtype=np.float64, na_value=np.nan)

    def some(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = np.bincount(code, weights=rows) > 0
        return found

    failed = some(samples["status"].isin(FAILED).to_numpy())
    lost = some(samples["oscillated"].eq(True).to_numpy())
    right, wrong = some(correct == 1), some(correct == 0)
    return np.select(
        [failed, lost, right & wrong, wrong, right], list(range(5)), default=len(OUTCOMES) - 1
    )
