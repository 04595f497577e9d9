"""Published shapes: the config.json that a model of random weights is made by."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from decoders.models.source import Checkpoint, ModelError
from decoders.names import nearest

PREFIX = "shape:"


def _llada(width: int, layers: int, heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "llada",
        "d_model": width,
        "n_layers": layers,
        "n_heads": heads,
        "n_kv_heads": heads,
        "mlp_hidden_size": inner,
        "vocab_size": vocabulary,
        "embedding_size": vocabulary,
        "max_sequence_length": 4096,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "mask_token_id": min(126336, vocabulary - 1),
        "eos_token_id": min(126081, vocabulary - 2),
    }


def _llama(
    width: int, layers: int, heads: int, inner: int, vocabulary: int, kv_heads: int | None = None
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": vocabulary - 1,
    }


_DREAM: dict[str, Any] = {
    "model_type": "Dream",
    "architectures": ["DreamModel"],
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "mask_token_id": 151666,
    "eos_token_id": 151643,
}

SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": _llada(4096, 32, 32, 12288, 126464),
    "llada-1b": _llada(2048, 16, 32, 5632, 126464),
    "llada-100m": _llada(768, 12, 12, 2048, 32000),
    "llada-tiny": _llada(64, 2, 4, 128, 4096),
    "dream-7b": _DREAM,
    "llama-8b": _llama(4096, 32, 32, 14336, 128256, kv_heads=8),
    "llada-8b-causal": _llama(4096, 32, 32, 12288, 126464),
    "llama-100m": _llama(768, 12, 12, 2048, 32000),
    "llama-tiny": _llama(64, 2, 4, 128, 4096),
}
"""Each as the config.json of its family; `llada-8b-causal` is the causal twin of `llada-8b`."""


@dataclass(frozen=True)
class Shape(Checkpoint):
    """A config without weights."""

    stated: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        return dict(self.stated)


def find_shape(source: str) -> Shape:
    """The shape behind `shape:NAME` or `shape:FILE.json` (a checkpoint's config.json).

    Raises:
        ModelError: there is no such shape, or the file holds no config.
    """
    name = source.removeprefix(PREFIX)
    if name in SHAPES:
        return Shape(name, Path(), source, SHAPES[name])
    file = Path(name).expanduser()
    if file.suffix != ".json":
        raise ModelError(f"there is no shape {name!r}{nearest(name, SHAPES)}; or give FILE.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"shape {file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"shape {file} must be an object, as a config.json is")
    return Shape(file.stem, file.parent, source, config)
