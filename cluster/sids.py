"""Sets of sids as sorted arrays: a million of them takes tens of megabytes, not hundreds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SID = "S24"


def as_bytes(sids: Sequence[str] | pa.ChunkedArray) -> npt.NDArray[Any]:
    """[N] fixed-width bytes."""
    return np.asarray(sids, dtype=SID)


class Sids:
    """Looks sids up by where they stand.

    Args:
        sids: [N] from `as_bytes`, in any order; of equal ones the first counts.
    """

    def __init__(self, sids: npt.NDArray[Any]) -> None:
        order = np.argsort(sids, kind="stable")
        ordered = sids[order]
        fresh = np.ones(len(ordered), dtype=bool)
        fresh[1:] = ordered[1:] != ordered[:-1]
        if not fresh.all():  # else without a copy: these are the driver's largest arrays
            ordered, order = ordered[fresh], order[fresh]
        self._sorted, self._places = ordered, order.astype(np.int64, copy=False)

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, sid: str) -> bool:
        return bool(self.places([sid])[0] >= 0)

    def places(self, sids: Sequence[str] | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """[M] the index of each in the array that this was made of; -1 for a stranger."""
        wanted = as_bytes(sids)
        if not len(self._sorted):
            return np.full(len(wanted), -1, np.int64)
        near = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[near] == wanted, self._places[near], -1)
