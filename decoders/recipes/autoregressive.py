"""The baseline: left to right, one token a forward."""

from dataclasses import dataclass
from typing import ClassVar

from decoders.recipes.base import Decoder, EngineKind, Generation, Visibility


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Decoder):
    """One token a forward from a causal model with a K/V cache."""

    recipe: ClassVar[str] = "ar"
    paper: ClassVar[str] = "the usual left-to-right decode"
    models: ClassVar[str] = "any causal LM of transformers: Llama, Qwen, GPT-2, tiny-ar"
    exactness: ClassVar[str] = "exact: tokens equal transformers' generate"
    generation: ClassVar[Generation] = "autoregressive"
    engine: ClassVar[EngineKind] = "autoregressive"
    visibility: ClassVar[frozenset[Visibility]] = frozenset({"causal"})
