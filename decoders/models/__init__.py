"""Checkpoints as stock transformers modules."""

from decoders.models.base import Model
from decoders.models.load import (
    DIFFUSION_FAMILIES,
    check,
    family_of,
    load_model,
    load_tokenizer,
)
from decoders.models.source import Checkpoint, ModelError, bundled, find_checkpoint

__all__ = [
    "DIFFUSION_FAMILIES",
    "Checkpoint",
    "Model",
    "ModelError",
    "bundled",
    "check",
    "family_of",
    "find_checkpoint",
    "load_model",
    "load_tokenizer",
]
