"""Diffusion models that were adapted from Qwen: Dream, Fast-dLLM v2 and SDAR.

Their published modules are Qwen2's (Dream, Fast-dLLM v2) and Qwen3's (SDAR), tensor names
included; what differs is visibility and shift, which are not the network's business. So the stock
modules are built, and every key that would make the published ones compute anything else is held
to the value under which they agree.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from decoders.models.source import ModelError

_REQUIRED: dict[str, Any] = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "rope_scaling": None,
    "quantization_config": None,
}
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)


def build_dream(config: Mapping[str, Any]) -> Qwen2ForCausalLM:
    """Dream-7B and DiffuCoder. Later models of the same `model_type` have another architecture,
    without the shift, and are refused by its name."""
    required = {"architectures": ["DreamModel"], "use_mrope": False}
    return _network(Qwen2ForCausalLM, Qwen2Config(**_arguments("Dream", config, required)))


def build_fast_dllm_v2(config: Mapping[str, Any]) -> Qwen2ForCausalLM:
    """Fast_dLLM_v2 of any size; the small ones have tied embeddings."""
    return _network(Qwen2ForCausalLM, Qwen2Config(**_arguments("Fast_dLLM_v2", config, {})))


def build_sdar(config: Mapping[str, Any]) -> Qwen3ForCausalLM:
    """SDAR, the dense sizes."""
    arguments = _arguments("SDAR", config, {"architectures": ["SDARForCausalLM"]})
    arguments["attention_bias"] = bool(config.get("attention_bias", False))
    return _network(Qwen3ForCausalLM, Qwen3Config(**arguments))


def _arguments(name: str, config: Mapping[str, Any], required: Mapping[str, Any]) -> dict[str, Any]:
    """The stock config's arguments.

    Raises:
        ModelError: a key is missing or asks for mathematics that the stock module does not have.
    """
    for key, value in (_REQUIRED | dict(required)).items():
        if config.get(key, value) != value:
            raise ModelError(f"{name} config: {key} must be {value!r}, got {config[key]!r}")
    layers = set(config.get("layer_types") or ())
    if layers - {"full_attention"}:
        raise ModelError(f"{name} config: layer_types must be full_attention, got {sorted(layers)}")
    try:
        found = {key: config[key] for key in _SIZES}
    except KeyError as error:
        raise ModelError(f"{name} config: {error.args[0]} is missing") from error
    if config.get("head_dim"):
        found["head_dim"] = config["head_dim"]
    return found | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": _rope_theta(name, config)},
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "pad_token_id": config.get("pad_token_id"),
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": config.get("eos_token_id"),
        "attn_implementation": "sdpa",
    }


def _rope_theta(name: str, config: Mapping[str, Any]) -> float:
    """From the published key, or from the one that transformers 5 writes."""
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{name} config: rope_parameters.rope_type must be 'default', got {rope['rope_type']!r}"
        )
    if rope.get("rope_theta") is None:
        raise ModelError(f"{name} config: rope_theta is missing")
    return float(rope["rope_theta"])


def _network(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        network = kind(config)
    with torch.device("cpu"):
        network.model.rotary_emb = type(network.model.rotary_emb)(config)
    return network
