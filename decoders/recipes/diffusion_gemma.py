"""DiffusionGemma: canvases of random tokens, denoised until they are stable."""

from dataclasses import dataclass
from typing import ClassVar

from decoders.recipes.base import Decoder, EngineKind, Generation, Visibility, at_least


@dataclass(frozen=True, kw_only=True)
class DiffusionGemma(Decoder):
    """Entropy-bounded renoising. A step draws every position, keeps those that are surest and
    fills the others with random tokens; a canvas ends as the likeliest tokens of its last step."""

    recipe: ClassVar[str] = "diffusion-gemma"
    paper: ClassVar[str] = (
        "DiffusionGemma, transformers' generation_diffusion_gemma.py; bound: Ben-Hamu et al. 2025, "
        "Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking, "
        "arXiv 2505.24857"
    )
    models: ClassVar[str] = "DiffusionGemma"
    exactness: ClassVar[str] = (
        "exact: transformers' own generate, one sample a call, whose draws are seeded by the "
        "sample; the output is cut at gen_length"
    )
    generation: ClassVar[Generation] = "diffusion"
    engine: ClassVar[EngineKind] = "canvas-generate"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"block-causal"})

    gen_length: int = 256
    """Positions that are kept. Canvases are whole, so that a multiple of the model's wastes none.
    """
    steps: int = 48
    """The most denoising steps a canvas; the temperatures are spread over them."""
    t_min: float = 0.4
    """Temperature towards which the last step goes."""
    t_max: float = 0.8
    """Temperature of the first step."""
    entropy_bound: float = 0.1
    """Nats that the kept positions may have together, the unsurest of them left out."""
    stability_threshold: int = 1
    """Steps before, whose likeliest tokens must be this step's for a canvas to end early."""
    confidence_threshold: float | None = 0.005
    """Mean entropy in nats below which a stable canvas ends early. None: every step is taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "steps")
        at_least(self, 0, "stability_threshold")
        if self.temperature != 0:
            self.refuse(
                f"temperature must be 0, as t_min and t_max are its temperatures; "
                f"got {self.temperature}"
            )
        if not 0 <= self.t_min < self.t_max < float("inf"):
            self.refuse(f"0 <= t_min < t_max must hold, got {self.t_min} and {self.t_max}")
        for key in ("entropy_bound", "confidence_threshold"):
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                self.refuse(f"{key} must be > 0, got {value!r}")

    @property
    def budget(self) -> int:
        """Steps of all canvases, of the published model's 256 positions."""
        return self.steps * -(-self.gen_length // 256)

    def span(self, prompt: int, block: int | None = None) -> int:
        """The prompt and whole canvases."""
        size = block or self.gen_length
        return prompt + -(-self.gen_length // size) * size
