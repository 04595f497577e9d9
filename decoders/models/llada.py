"""LLaDA checkpoints (LLaDA-8B, LLaDA-1.5, tiny-mdlm) in stock Llama modules.

The published weights use OLMo's names; the mathematics is Llama's with full visibility, but for
one point: queries and keys are rotated in float32 whatever the dtype (`rope_full_precision`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from decoders.models.source import ModelError

_ROOT = "model.transformer."
_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LAYER = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}

# Keys that would change the mathematics, and the only value that the stock module computes.
_REQUIRED: dict[str, Any] = {
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "alibi": False,
    "rope": True,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "attention_layer_norm": False,
    "clip_qkv": None,
}

_ATTENTION = "sdpa_rotated_in_float32"


def stock_name(published: str) -> str | None:
    """The stock Llama name of a published tensor, or None if it is not one of LLaDA's."""
    parts = published.removeprefix(_ROOT).split(".")
    if not published.startswith(_ROOT) or parts[-1] != "weight":
        return None
    if len(parts) == 2 and parts[0] in _TOP:
        return f"{_TOP[parts[0]]}.weight"
    if len(parts) == 4 and parts[0] == "blocks" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.weight"
    return None


def published_name(stock: str) -> str:
    """The inverse of `stock_name`."""
    stem = stock.removesuffix(".weight")
    for ours, theirs in _TOP.items():
        if stem == theirs:
            return f"{_ROOT}{ours}.weight"
    _, _, layer, rest = stem.split(".", 3)
    block = {theirs: ours for ours, theirs in _LAYER.items()}[rest]
    return f"{_ROOT}blocks.{layer}.{block}.weight"


def stock_config(config: Mapping[str, Any]) -> LlamaConfig:
    """Llama's config of a published LLaDA config.

    Raises:
        ModelError: a key asks for mathematics that the stock module does not have.
    """
    for key, value in _REQUIRED.items():
        if config.get(key, value) != value:
            raise ModelError(f"LLaDA config: {key} must be {value!r}, got {config[key]!r}")
    try:
        return LlamaConfig(
            hidden_size=config["d_model"],
            num_hidden_layers=config["n_layers"],
            num_attention_heads=config["n_heads"],
            num_key_value_heads=config.get("n_kv_heads") or config["n_heads"],
            intermediate_size=config["mlp_hidden_size"],
            vocab_size=config.get("embedding_size") or config["vocab_size"],
            max_position_embeddings=config["max_sequence_length"],
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            rms_norm_eps=config["rms_norm_eps"],
            tie_word_embeddings=bool(config.get("weight_tying", False)),
            attention_bias=False,
            mlp_bias=False,
            pad_token_id=config.get("pad_token_id"),
            eos_token_id=config.get("eos_token_id"),
            bos_token_id=None,
            attn_implementation=_ATTENTION,
        )
    except KeyError as error:
        raise ModelError(f"LLaDA config: {error.args[0]} is missing") from error


def build(config: Mapping[str, Any]) -> LlamaForCausalLM:
    """The stock module on the meta device, its rotary embedding in float32 on the CPU."""
    llama = stock_config(config)
    with torch.device("meta"):
        network = LlamaForCausalLM(llama)
    with torch.device("cpu"):
        network.model.rotary_emb = Float32Rotary(type(network.model.rotary_emb)(llama))
    return network


class Float32Rotary(nn.Module):
    """Gives cosines and sines in float32, so that the rotation promotes q and k to float32."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos_sin: tuple[Tensor, Tensor] = self.rotary(
            x.new_empty(0, dtype=torch.float32), position_ids
        )
        return cos_sin


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Stock SDPA attention with the rotated q and k cast back to the dtype of v."""
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query.to(value.dtype), key.to(value.dtype), value, mask, **kwargs
    )
    return output


AttentionInterface.register(_ATTENTION, _attend)
