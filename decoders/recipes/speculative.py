"""Speculative decoding: a drafter proposes, a causal model verifies, nothing is lost."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from decoders.recipes.base import (
    Decoder,
    EngineKind,
    Generation,
    PartnerKind,
    Visibility,
    at_least,
    one_of,
)


@dataclass(frozen=True, kw_only=True)
class Speculative(Decoder):
    """A small causal model drafts `gamma` tokens one by one; one forward of the row's model
    verifies them all and adds a token of its own."""

    recipe: ClassVar[str] = "speculative"
    paper: ClassVar[str] = (
        "Leviathan et al. 2023, Fast Inference from Transformers via Speculative Decoding, "
        "arXiv 2211.17192"
    )
    models: ClassVar[str] = "any causal LM, with a smaller one of the same tokenizer as drafter"
    exactness: ClassVar[str] = (
        "the output is distributed as the row's model alone; at temperature 0 it is its greedy "
        "decode, up to rounding between passes of different widths"
    )
    generation: ClassVar[Generation] = "autoregressive"
    engine: ClassVar[EngineKind] = "speculative"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"causal"})
    partner_setting: ClassVar[str | None] = "drafter"
    partner_kind: ClassVar[PartnerKind | None] = "autoregressive"

    drafter: str = ""
    """Name of the model that drafts."""
    gamma: int = 5
    """Tokens drafted a round. More are verified in one forward, but the later ones seldom
    stand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "gamma")


@dataclass(frozen=True, kw_only=True)
class SpecDiff(Speculative):
    """A masked-diffusion model drafts `gamma` tokens in parallel, in `steps` forwards; one forward
    of the row's causal model verifies them.

    The paper does not say which distribution a draft is verified against when T > 1. Here a draft
    that was fixed before the last step counts as certain (it stands with the probability that
    the target gives it), and the drafts of the last step, drawn independently of one another given
    the rest, are verified against what they were drawn from. What is fixed when may therefore
    depend on anything drawn before, and the result is exact for every T and both orders. The
    price is that early drafts stand less often at temperatures above 0.
    """

    recipe: ClassVar[str] = "specdiff"
    paper: ClassVar[str] = (
        "Christopher et al. 2024, Speculative Diffusion Decoding, arXiv 2408.05636"
    )
    models: ClassVar[str] = (
        "any causal LM, with a bidirectional masked-diffusion model of the same tokenizer as "
        "drafter: tiny-ar with tiny-mdlm, GPT-2 with MDLM or SEDD"
    )
    partner_kind: ClassVar[PartnerKind | None] = "diffusion"

    gamma: int = 16
    """Tokens drafted a round; a diffusion drafter's cost hardly grows with them."""
    steps: int = 1
    """Denoising steps T of a draft; more make the drafts agree with one another."""
    order: Literal["confidence", "random"] = "confidence"
    """Which drafts a step before the last fixes: those that the drafter is surest of, or any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps")
        if self.steps > self.gamma:
            self.refuse(
                f"steps must be at most gamma (a step fixes a token or more), got {self.steps} "
                f"and {self.gamma}"
            )
        one_of(self, "order", "confidence", "random")
