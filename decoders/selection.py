"""Which masked positions a step commits. B rows, W positions of the window.

A rule is a function of tensors over rows: fixed shapes, no Python over rows, no host sync.
Positions that must not be written have confidence -inf, and no rule takes them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Context(Protocol):
    """What a rule may ask for beside the confidences."""

    def uniform(self) -> Tensor:
        """[B, W] in [0, 1)."""
        ...

    def exponential(self) -> Tensor:
        """Exponential variates [B, W]."""
        ...

    def settle(self, row: int, scores_W: Tensor, count: int) -> Tensor:
        """Which positions torch.topk takes of a row with ties at the edge, bool [W]."""
        ...


class Rule(Protocol):
    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        """Positions to write, bool [B, W].

        Args:
            confidence_BW: -inf where nothing may be written.
            amount_B: float32, what the pass gives the rule.
            outside_B: float32, masks outside the window that count towards a share.
            context: randomness, and how ties are settled.
        """
        ...


def share_of(masks: int, steps: int, step: int) -> int:
    """How many positions to commit at `step` (from 0) of the `steps` of a block.

    The remainder goes to the first steps, as LLaDA's `get_num_transfer_tokens` has it.
    """
    return masks // steps + (step < masks % steps)


def ranks(confidence_BW: Tensor) -> Tensor:
    """Each position's place by confidence, from 0; of equal ones the leftmost comes first."""
    order_BW = confidence_BW.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(confidence_BW.shape[1], device=confidence_BW.device)
    return torch.empty_like(order_BW).scatter_(1, order_BW, places.expand_as(order_BW))


def best(confidence_BW: Tensor, count_B: Tensor, context: Context) -> Tensor:
    """The `count` most confident positions of each row, bool [B, W].

    Equal confidences are common (a softmax gives many an exact 1.0), and which of them come first
    decides the tokens. On a GPU the leftmost do, as torch.topk has it there; on a CPU, where
    torch.topk has an order of its own, it is asked.
    """
    taken_BW = (ranks(confidence_BW) < count_B[:, None]) & free(confidence_BW)
    if confidence_BW.device.type == "cpu":
        least_B1 = torch.where(taken_BW, confidence_BW, torch.inf).amin(1, keepdim=True)
        tied_B = ((confidence_BW == least_B1) & ~taken_BW).any(1)
        for row in tied_B.nonzero().flatten().tolist():
            taken_BW[row] = context.settle(row, confidence_BW[row], int(count_B[row]))
    return taken_BW


def free(confidence_BW: Tensor) -> Tensor:
    """Positions that may be written, bool [B, W]."""
    return confidence_BW > -torch.inf


@dataclass(frozen=True, slots=True)
class Top:
    """The `amount` most confident ones: LLaDA's quota."""

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        return best(confidence_BW, amount_B, context)


@dataclass(frozen=True, slots=True)
class Portion:
    """The most confident int(masks * amount), masks outside the window counted: Dream's schedule.

    The product is taken in float32 and cut off, so that a step may commit nothing.
    """

    lottery: float | None = None
    """Positions are drawn without replacement by softmax(confidence / lottery) instead."""

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        masks_B = free(confidence_BW).sum(1).float() + outside_B
        count_B = (masks_B * amount_B).trunc()
        if self.lottery is None:
            return best(confidence_BW, count_B, context)
        chance_BW = (confidence_BW / self.lottery).softmax(-1)
        drawn_BW = (chance_BW / context.exponential().to(chance_BW.dtype)).masked_fill(
            ~free(confidence_BW), -torch.inf
        )
        return best(drawn_BW, count_B, context)


@dataclass(frozen=True, slots=True)
class Chance:
    """Each position with probability `amount`: Dream's `origin`."""

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        return (context.uniform() < amount_B[:, None]) & free(confidence_BW)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Every position at or above the threshold, and always the best one.

    `most`: only among the `amount` best (Fast-dLLM on Dream without blocks). `strict`: equality
    does not do. `slack`: positions within it of the best one go with it (dInfer).
    """

    threshold: float
    strict: bool = False
    most: bool = False
    slack: float = 0.0

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        sure_BW = _above(confidence_BW, self.threshold, self.strict)
        rank_BW = ranks(confidence_BW)
        taken_BW = sure_BW | (rank_BW == 0)
        if self.slack:
            top_B1 = confidence_BW.amax(1, keepdim=True)
            taken_BW = taken_BW | (confidence_BW >= top_B1 - self.slack)
        if self.most:
            taken_BW = taken_BW & best(confidence_BW, amount_B, context)
        return taken_BW & free(confidence_BW)


@dataclass(frozen=True, slots=True)
class Factor:
    """Fast-dLLM's dynamic rule: the sorted confidences c_0, c_1 ... as long as
    c_j >= 1 - factor / (j + 2), the first always.

    As published, with its quirk: if the first that fails is the last one, it is committed too.
    """

    factor: float

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        width = confidence_BW.shape[1]
        place_W = torch.arange(width, device=confidence_BW.device)
        ordered_BW = confidence_BW.sort(dim=-1, descending=True, stable=True).values
        masks_B = free(confidence_BW).sum(1)
        failed_BW = ordered_BW < 1 - self.factor / (place_W + 2)
        failed_BW[:, 0] = False
        first_B = torch.where(failed_BW, place_W, width).amin(1)
        count_B = torch.where(first_B >= masks_B - 1, masks_B, first_B)
        return best(confidence_BW, count_B, context)


@dataclass(frozen=True, slots=True)
class ThresholdOrTop:
    """All above the threshold if these are at least `amount`, else the `amount` best: LLaDA2."""

    threshold: float

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        sure_BW = _above(confidence_BW, self.threshold, strict=True)
        enough_B1 = (sure_BW.sum(1) >= amount_B)[:, None]
        return torch.where(enough_B1, sure_BW, best(confidence_BW, amount_B, context))


@dataclass(frozen=True, slots=True)
class Runs:
    """dInfer's hierarchical rule: the best of every run of neighbouring masks if it is above
    `low`, all above `threshold`, and always the best of all."""

    threshold: float
    low: float

    def __call__(
        self, confidence_BW: Tensor, amount_B: Tensor, outside_B: Tensor, context: Context
    ) -> Tensor:
        free_BW = free(confidence_BW)
        begins_BW = free_BW & ~torch.nn.functional.pad(free_BW, (1, 0))[:, :-1]
        run_BW = torch.where(free_BW, begins_BW.cumsum(1), 0)
        empty = confidence_BW.new_full((len(run_BW), run_BW.shape[1] + 1), -torch.inf)
        peak_BR = empty.scatter_reduce(1, run_BW, confidence_BW, "amax")
        leads_BW = (confidence_BW == peak_BR.gather(1, run_BW)) & (confidence_BW > self.low)
        sure_BW = _above(confidence_BW, self.threshold, strict=True)
        return (leads_BW | sure_BW | (ranks(confidence_BW) == 0)) & free_BW


def _above(confidence_BW: Tensor, threshold: float, strict: bool) -> Tensor:
    above = confidence_BW > threshold if strict else confidence_BW >= threshold
    return above & free(confidence_BW)
