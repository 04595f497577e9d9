"""What the rows of a pass ask for, as tensors: one table, sent to the device once.

Legend: B rows, C columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from decoders.schedule import Pass, Row
from decoders.slots import Slot

_WHOLE = (
    "slot",
    "start",
    "stop",
    "low",
    "high",
    "prompt",
    "length",
    "seed",
    "step",
    "outside",
    "fresh",
    "draws",
    "early_low",
    "early_high",
    "early_masked",
    "early_skip",
)
_REAL = ("amount", "guidance", "early_threshold")
_COLUMN = {name: n for n, name in enumerate((*_WHOLE, *_REAL))}


@dataclass(frozen=True)
class Batch:
    """Rows of one pass. A row without a sample has no window and writes nothing."""

    asks: Sequence[Pass]
    """Of the rows that have a sample."""
    table_BC: Tensor
    """int64; the last columns hold the bits of float64 numbers."""
    fed: int
    """Positions fed of each row, where a row's own are fewer."""
    window: int
    """Positions of the widest window."""
    canvas: int
    """Of the longest canvas."""
    look: int
    """Most canvas positions that any row feeds."""
    reach: int
    """Positions that the canvas must have for this pass."""
    length: int
    """Of the longest row."""
    narrow: bool = False
    """The states of a pass are those that predict the window, not those of all that was fed."""

    @property
    def blind(self) -> bool:
        """No schedule wants to know what the pass did."""
        return all(ask.blind for ask in self.asks)

    def whole(self, name: str) -> Tensor:
        """An int64 column, [B]."""
        return self.table_BC[:, _COLUMN[name]]

    def real(self, name: str) -> Tensor:
        """A float64 column, [B]."""
        return self.table_BC[:, _COLUMN[name]].view(torch.float64)

    def places(self) -> Tensor:
        """Absolute positions of the windows, [B, W]."""
        return self.whole("low")[:, None] + torch.arange(self.window, device=self.table_BC.device)

    def fed_rows(self, positions_BW: Tensor, shift: int) -> Tensor:
        """Which of the fed positions predict these, [B, W]: those `shift` before them, or the first
        that is fed."""
        start_B1, stop_B1 = self.whole("start")[:, None], self.whole("stop")[:, None]
        return (positions_BW - shift).maximum(start_B1).minimum(stop_B1 - 1) - start_B1


class Member(NamedTuple):
    """A sample's part in a pass."""

    number: int
    """Of the slot."""
    slot: Slot
    row: Row
    ask: Pass


def table(
    members: Sequence[Member], size: int = 0, spare: int = 0, among: Sequence[int] | None = None
) -> Tensor:
    """The host table of some members, [B, C]: a row for each, in their order.

    Args:
        members: whose numbers it holds.
        size: rows of the table, if more than there are members.
        spare: slot of the rows without a sample.
        among: the members that take part, by place; the rows of others have no sample.
    """
    among = range(len(members)) if among is None else among
    numbers = np.zeros((max(size, len(members)), len(_COLUMN)), dtype=np.int64)
    numbers[:, _COLUMN["slot"]] = spare
    numbers[:, _COLUMN["stop"]] = 1
    whole, real = [], []
    for n in among:
        number, slot, row, ask = members[n]
        early = ask.early
        edges = (0, 0, 0, 0)
        if early is not None:
            edges = (early.low, early.high, early.masked_only, early.skip_stops)
        whole.append(
            (
                number,
                ask.start,
                ask.stop,
                ask.low,
                ask.high,
                row.prompt,
                row.length,
                slot.seed,
                slot.passes,
                ask.outside,
                ask.fresh,
                ask.draws,
                *edges,
            )
        )
        real.append((ask.amount, ask.guidance, 0.0 if early is None else early.threshold))
    index = list(among)
    numbers[index, : len(_WHOLE)] = whole
    numbers[index, len(_WHOLE) :] = np.array(real, dtype=np.float64).view(np.int64)
    return torch.from_numpy(numbers)


def batch_of(members: Sequence[Member], table_BC: Tensor, fed: int, narrow: bool = False) -> Batch:
    """The batch of some members; `fed` and `narrow` as in `Batch`."""
    window = canvas = look = 1
    reach = length = 0
    for _, _, row, ask in members:
        first = max(ask.start, row.prompt)
        window = max(window, window_of(ask))
        canvas = max(canvas, row.length - row.prompt)
        look = max(look, ask.stop - first)
        length = max(length, row.length)
        reach = max(reach, ask.start + fed, ask.low, first)
    # Rows that are shorter than the longest are looked at over as many positions.
    reach += max(window, canvas, look)
    asks = [member.ask for member in members]
    return Batch(asks, table_BC, fed, window, canvas, look, reach, length, narrow)


def window_of(ask: Pass) -> int:
    """Positions of a pass's window."""
    return (ask.view or ask.high) - ask.low


def is_whole(member: Member) -> bool:
    """Whether the pass feeds all of its row."""
    return member.ask.start == 0 and member.ask.stop == member.row.length
