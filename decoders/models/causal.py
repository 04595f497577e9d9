"""Autoregressive models in transformers' own modules, where a 4D mask says all about attention."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from decoders.models.source import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "smollm3", "gpt2")
"""`model_type`s whose every layer sees all earlier positions. Others attend locally in some layers
(GPT-Neo, Gemma 2 and later) or change the logits after the head (Cohere, Granite)."""

# Keys whose other values the stock modules do not compute, or not by the mask alone.
_REQUIRED: dict[str, Any] = {
    "use_sliding_window": False,
    "attention_chunk_size": None,
    "quantization_config": None,
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
}
# These make a token's rotation depend on how long the pass is, and so on its neighbours.
_LENGTH_DEPENDENT = ("dynamic", "longrope")

# Buffers that old checkpoints carry and no module reads.
_UNREAD = re.compile(r"(^|\.)(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")


def build(config: Mapping[str, Any]) -> Any:
    """The stock module: parameters on the meta device, its rotary embedding on the CPU.

    Raises:
        ModelError: a key asks for attention that is not plain causal, or cannot be right.
    """
    kind = config.get("model_type")
    for key, value in _REQUIRED.items():
        if config.get(key, value) != value:
            raise ModelError(f"{kind} config: {key} must be {value!r}, got {config[key]!r}")
    try:
        stock = CONFIG_MAPPING[kind].from_dict(dict(config))
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(stock, attn_implementation="sdpa")
    except Exception as error:  # transformers' validation raises errors of many classes
        raise ModelError(f"{kind} config: {' '.join(str(error).split())}") from error
    _check_attention(str(kind), stock)
    base = network.base_model
    if hasattr(base, "rotary_emb"):
        with torch.device("cpu"):
            base.rotary_emb = type(base.rotary_emb)(stock)
    return network


def _check_attention(kind: str, stock: Any) -> None:
    """Holds the config, with its defaults filled in, to plain causal attention."""
    layers = set(getattr(stock, "layer_types", None) or ())
    if layers - {"full_attention"}:
        raise ModelError(f"{kind} config: layer_types must be full_attention, got {sorted(layers)}")
    window = getattr(stock, "sliding_window", None)
    if window is not None and window < stock.max_position_embeddings:
        raise ModelError(f"{kind} config: sliding_window must be null, got {window}")
    rope = getattr(stock, "rope_parameters", None) or {}
    if rope.get("rope_type") in _LENGTH_DEPENDENT:
        raise ModelError(
            f"{kind} config: rope_type must not depend on the length, got {rope['rope_type']!r}"
        )


def stock_name(published: str) -> str:
    """The module's name of a published tensor; "" for buffers that no module reads."""
    return "" if _UNREAD.search(published) else published


def gpt2_stock_name(published: str) -> str:
    """GPT-2's own files name the tensors of the network inside the language model."""
    name = stock_name(published)
    if not name or name.startswith(("transformer.", "lm_head.")):
        return name
    return f"transformer.{name}"
