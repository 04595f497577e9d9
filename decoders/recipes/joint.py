"""ADJUST: a one-layer sampler makes the tokens of one full pass depend on each other."""

from dataclasses import dataclass
from typing import ClassVar

from decoders.recipes.base import (
    Decoder,
    EngineKind,
    Generation,
    PartnerKind,
    Visibility,
    at_least,
    within,
)
from decoders.recipes.dream import shares
from decoders.sampling import Sampler
from decoders.schedule import Pass, Row, Schedule
from decoders.selection import Top


@dataclass(frozen=True, kw_only=True)
class Joint(Decoder):
    """Several tokens a full pass, drawn one after the other by a small sampler over its states."""

    recipe: ClassVar[str] = "joint"
    paper: ClassVar[str] = (
        "Bansal and Sanghavi 2025, Enabling Approximate Joint Sampling in Diffusion LMs (ADJUST), "
        "arXiv 2509.22738"
    )
    models: ClassVar[str] = "masked diffusion with a sampler trained for it: tiny-mdlm + tiny-joint"
    exactness: ClassVar[str] = (
        "approximates one-token-at-a-time sampling; with tokens_per_pass 1 it is that"
    )
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "diffusion"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"bidirectional"})
    partner_setting: ClassVar[str | None] = "sampler"
    partner_kind: ClassVar[PartnerKind | None] = "sampler"

    sampler: str = ""
    """The joint sampler: a bundled name, a folder or a hub name."""
    tokens_per_pass: int = 4
    """K: tokens drawn from one full pass."""
    marginal: bool = False
    """Draw all of them from the full pass alone: the paper's baseline."""
    top_p: float | None = None
    """Nucleus of each draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "tokens_per_pass")
        within(self, 1e-9, 1, "top_p")

    @property
    def budget(self) -> int:
        return -(-self.gen_length // self.tokens_per_pass)

    def schedule(self, row: Row) -> Schedule:
        masks = self.gen_length
        for share in shares(self.budget, 1e-3):
            # ADJUST's shares; one that is below a token still draws one.
            draws = min(masks, max(1, int(masks * share)))
            masks -= draws
            yield Pass(
                start=0,
                stop=row.length,
                low=row.prompt,
                high=row.length,
                rule=Top(),
                sampler=Sampler(
                    style="categorical",
                    temperature=self.temperature,
                    confidence="entropy",
                    top_p=self.top_p,
                    no_mask=True,
                ),
                draws=draws,
                marginal=self.marginal,
                blind=True,
            )
            if not masks:
                break
        return None
