"""Dream's schedule over a whole canvas, and FreeCache, which freezes what is finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from decoders.recipes.base import (
    Decoder,
    EngineKind,
    Generation,
    Visibility,
    at_least,
    blocks_fit,
    one_of,
    within,
)
from decoders.sampling import Confidence, Sampler
from decoders.schedule import Pass, Row, Schedule
from decoders.selection import Chance, Portion, Rule

CONFIDENCE: dict[str, Confidence] = {
    "origin": "probability",
    "maskgit_plus": "probability",
    "topk_margin": "margin",
    "entropy": "entropy",
    "position_weighted": "position",
}


def shares(steps: int, eps: float) -> Iterator[float]:
    """The part of the remaining masks that each step writes: 1 - s/t between float32 times from 1
    to `eps`; all of them in the last step."""
    time = torch.linspace(1, eps, steps + 1)
    for step in range(steps):
        yield float(1 - time[step + 1] / time[step]) if step < steps - 1 else 1.0


@dataclass(frozen=True, kw_only=True)
class Dream(Decoder):
    """Each step writes its share of the canvas's masks, by confidence or at random."""

    recipe: ClassVar[str] = "dream"
    paper: ClassVar[str] = "Ye et al. 2025, Dream 7B: Diffusion Large Language Models, 2508.15487"
    models: ClassVar[str] = (
        "masked diffusion, bidirectional: Dream-7B, DiffuCoder, LLaDA, tiny-mdlm"
    )
    exactness: ClassVar[str] = "exact: tokens and steps of the authors' diffusion_generate"
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "diffusion"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"bidirectional"})

    steps: int = 64
    """Denoising steps; a step may write nothing, as the share is cut off to a whole number."""
    alg: str = "entropy"
    """origin: positions at random. maskgit_plus, topk_margin, entropy: the best by probability,
    margin of the two likeliest, or entropy."""
    alg_temp: float | None = None
    """Draw the positions by softmax(confidence / alg_temp) instead of taking the best."""
    eps: float = 1e-3
    """The diffusion time of the last step."""
    top_p: float | None = None
    """Nucleus of the token's distribution."""
    top_k: int | None = None
    """Tokens that may be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps")
        one_of(self, "alg", *self.algorithms())
        within(self, 1e-9, 0.999, "eps")
        within(self, 1e-9, 1, "top_p")
        within(self, 1, float("inf"), "top_k")
        within(self, 0, float("inf"), "alg_temp")

    @classmethod
    def algorithms(cls) -> tuple[str, ...]:
        return "origin", "maskgit_plus", "topk_margin", "entropy"

    @property
    def budget(self) -> int:
        return self.steps

    @property
    def sampler(self) -> Sampler:
        return Sampler(
            style="categorical",
            temperature=self.temperature,
            confidence=CONFIDENCE[self.alg],
            top_p=self.top_p,
            top_k=self.top_k,
        )

    @property
    def rule(self) -> Rule:
        return Chance() if self.alg == "origin" else Portion(self.alg_temp or None)

    def schedule(self, row: Row) -> Schedule:
        for share in shares(self.steps, self.eps):
            yield Pass(
                start=0,
                stop=row.length,
                low=row.prompt,
                high=row.length,
                rule=self.rule,
                amount=share,
                sampler=self.sampler,
                ranked=(0, row.length),
                blind=True,
            )
        return None


@dataclass(frozen=True, kw_only=True)
class FreeCache(Dream):
    """Dream's schedule block by block; keys and values of a finished block are never computed
    again."""

    recipe: ClassVar[str] = "freecache"
    paper: ClassVar[str] = (
        "Hu et al. 2025, FlashDLM: Accelerating Diffusion Language Model Inference via Efficient "
        "KV Caching and Guided Diffusion, arXiv 2505.21467"
    )
    exactness: ClassVar[str] = (
        "exact: the authors' block diffusion with two or more steps a block; approximates `dream` "
        "by frozen keys and values"
    )

    alg: str = "entropy"
    """maskgit_plus, topk_margin, entropy as `dream`'s; position_weighted: probability, falling to 0
    at the block's rightmost mask."""
    block_length: int = 32
    """Positions a block."""
    early_stop: bool = False
    """Stop when everything up to the last written token is written and ends in EOS."""
    early_stop_consecutive: int = 1
    """How many EOS at the end are asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "block_length", "early_stop_consecutive")
        blocks_fit(self, self.block_length, self.steps)
        if self.steps_per_block < 2:
            self.refuse(
                "needs two or more steps a block, since a block's keys are frozen in its last "
                f"step; with {self.gen_length // self.block_length} blocks: steps >= "
                f"{2 * self.gen_length // self.block_length}"
            )

    @classmethod
    def algorithms(cls) -> tuple[str, ...]:
        return "maskgit_plus", "topk_margin", "entropy", "position_weighted"

    @property
    def block(self) -> int | None:
        return self.block_length

    @property
    def steps_per_block(self) -> int:
        return self.steps // (self.gen_length // self.block_length)

    def schedule(self, row: Row) -> Schedule:
        ratio = list(shares(self.steps, self.eps))
        for number, (start, stop) in enumerate(row.blocks(self.block_length)):
            for i in range(self.steps_per_block):
                step, last = number * self.steps_per_block + i, i == self.steps_per_block - 1
                seen = yield Pass(
                    start=0 if step == 0 else max(0, start - row.shift),
                    stop=row.length,
                    low=start,
                    high=stop,
                    rule=self.rule,
                    # The last step takes all masks of the block, others a share of the canvas's.
                    amount=1.0 if last else ratio[step],
                    outside=0 if last else row.length - stop,
                    sampler=self.sampler,
                    cached=True,
                    ranked_masks=True,
                    blind=not self.early_stop,
                )
                if self.early_stop and seen.ends_in_eos >= self.early_stop_consecutive:
                    return seen.stop + 1
        return None
