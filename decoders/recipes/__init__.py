"""One file a family of papers; a recipe is its settings and its schedule of passes."""

from decoders.recipes.autoregressive import Autoregressive
from decoders.recipes.base import Decoder
from decoders.recipes.block_causal import FastDllmV2, Llada2, Llada21
from decoders.recipes.diffusion_gemma import DiffusionGemma
from decoders.recipes.dream import Dream, FreeCache
from decoders.recipes.fast_dllm import FastDllm
from decoders.recipes.guided import Guided
from decoders.recipes.joint import Joint
from decoders.recipes.likelihood import ByLikelihood
from decoders.recipes.llada import Llada, Prophet
from decoders.recipes.remote import Remote
from decoders.recipes.speculative import SpecDiff, Speculative

DiffusionDecoder = Llada | Dream | FastDllm | FastDllmV2 | Llada2 | Joint
"""What has a schedule (Prophet and others by inheritance)."""

ALL: tuple[type[Decoder], ...] = (
    Llada,
    Dream,
    FastDllm,
    FastDllmV2,
    Llada2,
    Llada21,
    Prophet,
    FreeCache,
    Guided,
    Joint,
    SpecDiff,
    Speculative,
    Autoregressive,
    DiffusionGemma,
    ByLikelihood,
    Remote,
)

__all__ = [
    "ALL",
    "Autoregressive",
    "ByLikelihood",
    "Decoder",
    "DiffusionDecoder",
    "DiffusionGemma",
    "Dream",
    "FastDllm",
    "FastDllmV2",
    "FreeCache",
    "Guided",
    "Joint",
    "Llada",
    "Llada2",
    "Llada21",
    "Prophet",
    "Remote",
    "SpecDiff",
    "Speculative",
]
