from .engine import make_engine
from .models import (
    DIFFUSION_FAMILIES,
    Checkpoint,
    Model,
    ModelError,
    bundled,
    check,
    family_of,
    find_checkpoint,
    load_model,
    load_tokenizer,
)
from .names import nearest
from .recipes import Decoder
from .registry import RECIPES, make_decoder
from .slots import Engine, Watched
from .types import DecoderError, Request, Result, Trace

__all__ = [
    "DIFFUSION_FAMILIES",
    "RECIPES",
    "Checkpoint",
    "Decoder",
    "DecoderError",
    "Engine",
    "Model",
    "ModelError",
    "Request",
    "Result",
    "Trace",
    "Watched",
    "bundled",
    "check",
    "family_of",
    "find_checkpoint",
    "load_model",
    "load_tokenizer",
    "make_decoder",
    "make_engine",
    "nearest",
]
