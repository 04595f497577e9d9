"""What a recipe asks of the model: masked diffusion, or the next token.

Legend: N positions of a batch, K of them selected for the loss.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from jobs.train.batches import Ints, Packed
from jobs.train.config import TrainConfig
from jobs.train.corpus import KINDS, MAX_TOKENS
from jobs.train.tokenizer import MASK_ID

PROBLEMS, DRILLS = KINDS.index("problems"), KINDS.index("drills")


class Batch(NamedTuple):
    """One step's work."""

    inputs: Tensor
    """[N]"""
    positions: Tensor
    """[N]"""
    attention: dict[str, Any]
    """What the model's attention function is told of who sees whom."""
    select: Tensor
    """[K] Positions whose logits enter the loss."""
    targets: Tensor
    """[K]"""
    weights: Tensor
    """[K] 0 where a selected position does not count after all."""
    kinds: Tensor
    """[K]"""
    kind_mass: Tensor
    """[kinds] What the weights of a kind add up to on average: the loss's denominator."""


class Objective(Protocol):
    @property
    def attention(self) -> str:
        """Name of the attention function that the model is built with."""
        ...

    @property
    def streams(self) -> int:
        """How often each position of a document goes through the model."""
        ...

    def layout(
        self, rng: np.random.Generator, kind: str, prompt: Ints, real: Ints, ends: Ints
    ) -> tuple[Ints, Ints]:
        """Chooses (clean, span) of documents: see `batches.Rows`."""
        ...

    def batch(self, packed: Packed, noise: torch.Generator, kinds: int) -> Batch: ...


def _uniform(rng: np.random.Generator, high: Ints) -> Ints:
    """Integers from 0 to `high`, both included, one for each entry."""
    return np.asarray(rng.integers(0, np.maximum(high, 0) + 1), dtype=np.int64)


def kind_weights(config: TrainConfig, packed: Packed) -> Tensor:
    is_problem = (packed.kind == PROBLEMS) | (packed.kind == DRILLS)
    return torch.where(is_problem, config.problem_weight, 1.0)


class Diffusion:
    """LLaDA's objective (arXiv 2502.09992, eq. 3; responses as in its eq. 5).

    Each row draws t; each of its maskable positions is masked with probability t, and masked
    positions are predicted in place, weighted 1/t. A response is followed by end-of-text up to
    the end of its canvas, as it is when decoded.
    """

    attention = "unmask_packed"
    streams = 1

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def layout(
        self, rng: np.random.Generator, kind: str, prompt: Ints, real: Ints, ends: Ints
    ) -> tuple[Ints, Ints]:
        rows = len(real)
        response = real - prompt
        if kind == "problems":
            roll = rng.random(rows)
            canvas = np.where(roll < 0.5, 64, np.where(roll < 0.65, 80, rng.integers(8, 112, rows)))
        elif kind == "drills":
            canvas = response + rng.integers(0, 25, rows)
        elif kind == "choice":
            canvas = response + rng.integers(0, 7, rows)
        else:
            canvas = response + ends * (rng.random(rows) < 0.5) * rng.integers(0, 33, rows)
        span = np.minimum(prompt + np.maximum(canvas, response), MAX_TOKENS)
        share = np.where(prompt > 0, self.config.prefix_share, 0.5)
        prefix = _uniform(rng, response - 1) * (rng.random(rows) < share)
        return prompt + prefix, np.asarray(span, dtype=np.int64)

    def batch(self, packed: Packed, noise: torch.Generator, kinds: int) -> Batch:
        tokens, device = packed.tokens, packed.tokens.device
        rows = len(packed.boundaries) - 1
        # Stratified: the rows of a batch cover (0, 1] evenly, in random order.
        order = torch.rand(rows, generator=noise, device=device).argsort()
        offset = torch.rand(1, generator=noise, device=device)
        rate = (((order + offset) / rows) % 1.0).clamp(min=self.config.t_min)[packed.row]
        maskable = (packed.positions >= packed.clean) & (packed.real > 0)
        masked = maskable & (torch.rand(len(tokens), generator=noise, device=device) < rate)
        base = torch.where(packed.positions < packed.real, 1.0, self.config.fill_weight)
        base = base * kind_weights(self.config, packed)
        weights = torch.where(masked, base / rate, 0.0)
        # A fixed number of selected positions keeps shapes static: masked ones first.
        select = masked.to(torch.uint8).argsort(descending=True, stable=True)
        select = select[: int(len(tokens) * 0.45)]
        mass = torch.zeros(kinds, device=device)
        mass.index_add_(0, packed.kind, base * maskable)
        return Batch(
            torch.where(masked, MASK_ID, tokens),
            packed.positions,
            {"boundaries": packed.boundaries, "causal": False},
            select,
            tokens[select],
            weights[select],
            packed.kind[select],
            mass,
        )


class NextToken:
    """Ordinary language modelling; a prompt's tokens weigh less than its response's."""

    attention = "unmask_packed"
    streams = 1

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def layout(
        self, rng: np.random.Generator, kind: str, prompt: Ints, real: Ints, ends: Ints
    ) -> tuple[Ints, Ints]:
        return prompt, real

    def batch(self, packed: Packed, noise: torch.Generator, kinds: int) -> Batch:
        after = packed.positions + 1
        weights = torch.where(after < packed.clean, self.config.question_weight, 1.0)
        weights = torch.where(after < packed.real, weights, 0.0)
        weights = weights * kind_weights(self.config, packed)
        mass = torch.zeros(kinds, device=weights.device)
        mass.index_add_(0, packed.kind, weights)
        return Batch(
            packed.tokens,
            packed.positions,
            {"boundaries": packed.boundaries, "causal": True},
            torch.arange(len(after), device=weights.device),
            packed.tokens.roll(-1),
            weights,
            packed.kind,
            mass,
        )
