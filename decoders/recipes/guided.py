"""Guided Diffusion of FlashDLM: an autoregressive model supervises the unmasking."""

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
    within,
)
from decoders.verification import Tolerance


@dataclass(frozen=True, kw_only=True)
class Guided(Decoder):
    """A diffusion model drafts every mask at once, a causal guider reads the drafts from the left
    and keeps them up to the first that it does not let pass, where its own token goes.

    With `deterministic` the diffusion model decides nothing but the speed: the output is, token
    for token, what the guider decodes alone (save for `stop_on_draft_eos`). Report the guider's
    own score beside it. The other strategies leave the diffusion model a say among tokens that
    the guider finds likely.
    """

    recipe: ClassVar[str] = "guided"
    paper: ClassVar[str] = (
        "Hu et al. 2025, FlashDLM: Accelerating Diffusion Language Model Inference via Efficient "
        "KV Caching and Guided Diffusion, arXiv 2505.21467"
    )
    models: ClassVar[str] = (
        "bidirectional masked diffusion, with a causal LM of the same tokenizer as guider: "
        "Dream with Qwen2.5, tiny-mdlm with tiny-ar"
    )
    exactness: ClassVar[str] = (
        "deterministic: exactly the guider's own greedy decode, whatever the diffusion model; "
        "other strategies: neither model's distribution"
    )
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "guided"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"bidirectional"})
    partner_setting: ClassVar[str | None] = "guider"
    partner_kind: ClassVar[PartnerKind | None] = "autoregressive"

    guider: str = ""
    """Name of the model that verifies."""
    strategy: Literal["deterministic", "topk", "topk_relative", "dynamic_threshold"] = (
        "deterministic"
    )
    """deterministic: a draft must be the guider's best token. topk: among its `top_k`.
    topk_relative: and at least `relative` times as likely as its best. dynamic_threshold: more
    likely than `threshold`."""
    top_k: int = 2
    relative: float = 0.5
    threshold: float = 0.1
    verify_length: int = 32
    """Drafts that one forward of the guider looks at; the next follows if all of them stand."""
    stop_on_draft_eos: bool = False
    """End also where the guider overrules a draft of EOS at the first mask: the diffusion model
    thinks that the text is over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "top_k", "verify_length")
        within(self, 0, 1, "relative", "threshold")
        strategies = ("deterministic", "topk", "topk_relative", "dynamic_threshold")
        one_of(self, "strategy", *strategies)
        if self.temperature and self.strategy != "dynamic_threshold":
            self.refuse(
                f"temperature must be 0 with {self.strategy}, which draws nothing, got "
                f"{self.temperature}; dynamic_threshold draws the token in place of a draft"
            )

    @property
    def tolerance(self) -> Tolerance:
        """What the guider lets pass."""
        return {
            "deterministic": Tolerance(),
            "topk": Tolerance(top_k=self.top_k),
            "topk_relative": Tolerance(top_k=self.top_k, relative=self.relative),
            # No token is beyond the top 2^31.
            "dynamic_threshold": Tolerance(top_k=2**31, threshold=self.threshold),
        }[self.strategy]
