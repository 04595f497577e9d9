from .base import Model
from .families import (
    DIFFUSION_FAMILIES,
    block_of,
    family_of,
    generation_of,
    visibility_of,
)
from .load import (
    check,
    load_model,
    load_tokenizer,
    max_length_of,
    whole_on_each,
)
from .source import Checkpoint, ModelError, bundled, find_checkpoint

__all__ = [
    "DIFFUSION_FAMILIES",
    "Checkpoint",
    "Model",
    "ModelError",
    "block_of",
    "bundled",
    "check",
    "family_of",
    "find_checkpoint",
    "generation_of",
    "load_model",
    "load_tokenizer",
    "max_length_of",
    "visibility_of",
    "whole_on_each",
]
