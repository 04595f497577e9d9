"""Rows of a pass end to end, and which keys their positions see.

Legend: B rows of a pass, Q positions fed, N positions of all rows, M of them wanted, W positions
wanted of each row, S slots, K keys, P places of a store with slots end to end.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from decoders.models.base import attention_bias
from decoders.models.forward import Store

PART = 256
"""Positions that are computed together, about, if rows are not longer."""
LEAST = 48
"""Positions that a thread of its own pays for."""
EVEN = 0.7
"""Share of their time that threads must have work for; else torch's own threads share every
operation."""
RUN = 8
"""Positions with the same keys that are taken without a mask."""


class View(NamedTuple):
    """Positions of a row, and the keys that they see."""

    first: int
    stop: int
    begin: int
    """Where the row's keys begin."""
    keys: int
    bias_QK: Tensor | None
    """Where not all are seen."""


class Steps(NamedTuple):
    """Rows of one position each, whose slots lie so close together that all are seen as one."""

    slots: slice
    row_N: Tensor
    """The slot of each row, from the first of them."""
    keys: int
    bias_S11K: Tensor


class Rows(NamedTuple):
    """Rows end to end."""

    tokens_N: Tensor
    positions_N: Tensor
    views: list[View] | Steps
    store: Store | None
    kept_P: Tensor
    """Places of the store that keys and values go to, and, of these positions."""
    kept_N: Tensor
    wanted_M: Tensor | None
    """Positions whose states are wanted; None: all."""
    last: list[View] | Steps
    """The views of those."""


def end_to_end(
    tokens_BQ: Tensor,
    positions_BQ: Tensor,
    limits_BQ: Tensor,
    counts: Sequence[int],
    kept: tuple[Store, Tensor, Tensor] | None,
    wanted_BW: Tensor | None,
) -> Rows:
    """Rows of which the first positions are fed, `counts` of them."""
    fed = tokens_BQ.shape[1]
    begins = [0, *accumulate(counts)]
    count_B1 = torch.tensor(counts)[:, None]
    flat_N = (torch.arange(fed) < count_B1).flatten().nonzero()[:, 0]
    store, kept_P, kept_N = None, flat_N, flat_N
    key_begins = begins
    if kept is None:
        limits_BQ = limits_BQ.minimum(count_B1)
    else:
        store, slots_B, places_BQ = kept
        key_begins = [slot * store.places for slot in slots_B.tolist()]
        places_N = places_BQ.flatten()[flat_N]
        kept_N = (places_N >= 0).nonzero()[:, 0]
        kept_P = (places_BQ + (slots_B * store.places)[:, None]).flatten()[flat_N][kept_N]
    steps = _steps(limits_BQ, kept[1]) if kept is not None and fed == 1 else None
    views = steps or _views(limits_BQ, counts, key_begins)
    wanted_M, last = None, views
    if wanted_BW is not None and fed > 1:
        wanted_M = (wanted_BW + torch.tensor(begins[:-1])[:, None]).flatten()
        limits_BW = limits_BQ.gather(1, wanted_BW)
        last = _views(limits_BW, [wanted_BW.shape[1]] * len(counts), key_begins)
    return Rows(
        tokens_BQ.flatten()[flat_N],
        positions_BQ.flatten()[flat_N],
        views,
        store,
        kept_P,
        kept_N,
        wanted_M,
        last,
    )


def _steps(limits_B1: Tensor, slots_B: Tensor) -> Steps | None:
    """One view of the slots from the first to the last; None where most of them have no row."""
    low, high = int(slots_B.min()), int(slots_B.max()) + 1
    if high - low > 2 * len(slots_B):
        return None
    keys = int(limits_B1.max())
    row_N = slots_B - low
    limit_S1 = torch.ones(high - low, 1, dtype=torch.int64).index_copy_(0, row_N, limits_B1)
    bias_S11K = attention_bias(torch.arange(keys) < limit_S1, torch.float32)
    return Steps(slice(low, high), row_N, keys, bias_S11K)


def _views(limits_BQ: Tensor, counts: Sequence[int], key_begins: Sequence[int]) -> list[View]:
    """The views of rows: a run of positions that see the same keys each, or, where runs are short,
    one of all with a mask."""
    views, first = [], 0
    for row, (count, limits) in enumerate(zip(counts, limits_BQ.tolist(), strict=True)):
        begin = key_begins[row]
        runs = [(keys, len(list(run))) for keys, run in groupby(limits[:count])]
        if len(runs) > max(1, count // RUN):
            keys = max(limits[:count])
            seen_QK = torch.arange(keys) < limits_BQ[row, :count, None]
            bias_QK = attention_bias(seen_QK[None], torch.float32)[0, 0]
            views.append(View(first, first + count, begin, keys, bias_QK))
            first += count
            continue
        for keys, length in runs:
            views.append(View(first, first + length, begin, keys, None))
            first += length
    return views


def parted(counts: Sequence[int], threads: int) -> tuple[list[slice], bool]:
    """Neighbouring rows that are computed together, and whether threads take them apart."""
    total = sum(counts)
    few = [slice(a, b) for a, b in pairwise(_cuts(counts, max(1, round(total / PART))))]
    if threads == 1 or total < threads * LEAST:
        return few, False
    number = max(1, round(total / (PART * threads))) * threads
    parts = [slice(a, b) for a, b in pairwise(_cuts(counts, number))]
    loads = [0] * threads
    for part in parts:
        loads[loads.index(min(loads))] += sum(counts[part])
    is_even = total >= EVEN * threads * max(loads)
    return (parts, True) if is_even else (few, False)


def _cuts(counts: Sequence[int], number: int) -> list[int]:
    """Where to cut rows into so many parts, about equally long: rows, the first and the end too."""
    ends = [0, *accumulate(counts)]
    cuts = {0, len(counts)}
    for n in range(1, number):
        even = n * ends[-1] / number
        after = bisect_left(ends, even)
        cuts.add(after if ends[after] - even <= even - ends[after - 1] else after - 1)
    return sorted(cuts)
