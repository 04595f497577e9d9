"""A one-layer sampler that makes parallel draws approximately joint (ADJUST, arXiv 2509.22738).

A masked-diffusion model gives each masked position's own distribution; tokens drawn from several at
once need not fit each other. After each token that is written, the sampler turns the model's last
hidden states into what they would be had the model seen that token, for the price of one layer:

    h' = norm_out(layer(mix[norm_embed(embed(x)) ; norm_hidden(h)])) + h        logits = head(h')

Embedding and head are the frozen base model's. Legend: S rows, L positions, D hidden size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from decoders.models.base import Model
from decoders.models.source import Checkpoint, ModelError, find_checkpoint

MODEL_TYPE = "unmask_joint_sampler"
FIRST_GAIN = 0.1
"""Of the last norm in a fresh sampler, which so begins close to the base model's marginals."""


class JointSampler(nn.Module):
    """The trained part; its parameters are its own, the embedding is the base model's.

    Args:
        config: the layer's sizes, as a Llama's.
        embedding: [V, D] of the base model; neither trained nor saved here.
    """

    def __init__(self, config: Any, embedding: Tensor) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self._embedding = (embedding,)  # within a tuple, it is no parameter of this module
        self.norm_embed: nn.Module = LlamaRMSNorm(size, eps)
        self.norm_hidden: nn.Module = LlamaRMSNorm(size, eps)
        self.mix = nn.Linear(2 * size, size, bias=False)
        self.layer: nn.Module = LlamaDecoderLayer(config, 0)
        self.norm_out: nn.Module = LlamaRMSNorm(size, eps)
        self.rotary: nn.Module = LlamaRotaryEmbedding(config)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=config.initializer_range)
            elif name.startswith("norm_out"):
                nn.init.constant_(weight, FIRST_GAIN)

    def forward(
        self, tokens_SL: Tensor, hidden_SLD: Tensor, bias: Tensor, position_ids: Tensor
    ) -> Tensor:
        """The hidden states [S, L, D] after what was written since `hidden_SLD`.

        Args:
            tokens_SL: the canvas with its newest tokens.
            hidden_SLD: the base model's last hidden states, or what this returned last. Row p is
                the one that predicts position p: a shifted model's states are moved first.
            bias: additive attention mask, broadcastable to [S, 1, L, L]; every position sees every
                one that is not padding.
            position_ids: [S, L], or [1, L] for all rows.
        """
        embedded_SLD = F.embedding(tokens_SL, self._embedding[0])
        both = torch.cat([self.norm_embed(embedded_SLD), self.norm_hidden(hidden_SLD)], dim=-1)
        mixed_SLD = self.mix(both)
        rotary = self.rotary(mixed_SLD, position_ids)
        change_SLD = self.layer(
            mixed_SLD, attention_mask=bias, position_ids=position_ids, position_embeddings=rotary
        )
        hidden: Tensor = self.norm_out(change_SLD) + hidden_SLD
        return hidden


def sampler_config(base: Model, heads: int, intermediate_size: int) -> dict[str, Any]:
    """The `config.json` of a sampler for `base`."""
    stock = base.network.config
    return {
        "architectures": ["JointSampler"],
        "model_type": MODEL_TYPE,
        "base": base.name,
        "base_digest": base.digest,
        "vocab_size": base.vocabulary,
        "hidden_size": stock.hidden_size,
        "intermediate_size": intermediate_size,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": base.max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": stock.rms_norm_eps,
        "dtype": "bfloat16",
    }


def build_sampler(config: Mapping[str, Any], base: Model) -> JointSampler:
    """A sampler with fresh weights, in float32 on the CPU.

    Raises:
        ModelError: the config lacks a key.
    """
    try:
        layer = LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=1,
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            max_position_embeddings=config["max_position_embeddings"],
            rope_parameters=config["rope_parameters"],
            rms_norm_eps=config["rms_norm_eps"],
            attn_implementation="sdpa",
        )
    except KeyError as error:
        raise ModelError(f"joint sampler: config.json lacks {error.args[0]}") from None
    embedding = base.network.get_input_embeddings().weight
    with torch.device("cpu"):
        return JointSampler(layer, embedding)


def load_sampler(source: Checkpoint | Path | str, base: Model) -> JointSampler:
    """The sampler of a checkpoint, on the base model's device and in its dtype.

    Args:
        source: a checkpoint, a folder, or a bundled or hub name.
        base: the model that it was trained for.

    Raises:
        ModelError: it is no joint sampler, belongs to another base model, or its tensors are not
            those that its config asks for.
    """
    checkpoint = source if isinstance(source, Checkpoint) else find_checkpoint(str(source))
    _check_base(checkpoint, base)
    sampler = build_sampler(checkpoint.config, base)
    expected = {name: list(tensor.shape) for name, tensor in sampler.state_dict().items()}
    for name in sorted(expected.keys() | checkpoint.shapes.keys()):
        found, wanted = checkpoint.shapes.get(name), expected.get(name)
        if found != wanted:
            raise ModelError(
                f"joint sampler {checkpoint.name}: tensor {name} has shape {found}, config.json "
                f"asks for {wanted}"
            )
    state: dict[str, Tensor] = {}
    for file in checkpoint.weight_files:
        with safe_open(file, framework="pt", device=str(base.device)) as tensors:
            for name in checkpoint.shapes:
                state[name] = tensors.get_tensor(name).to(base.dtype)
    # Assigned, not copied: a cast of the module would also round the rotary frequencies.
    sampler.load_state_dict(state, strict=True, assign=True)
    return sampler.to(base.device).eval().requires_grad_(False)


def _check_base(checkpoint: Checkpoint, base: Model) -> None:
    config = checkpoint.config
    if config.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{checkpoint.name} is no joint sampler: model_type is {config.get('model_type')!r}, "
            f"not {MODEL_TYPE!r}"
        )
    digest = config.get("base_digest")
    same = config.get("base") == base.name if digest is None else digest == base.digest
    if not same:
        raise ModelError(
            f"joint sampler {checkpoint.name} was trained for {config.get('base')} "
            f"({digest or 'no digest'}), not for {base.name} ({base.digest}): use that model, or "
            f"train a sampler with `python -m jobs.train --recipe joint --base {base.name}`"
        )
    sizes = {"vocab_size": base.vocabulary, "hidden_size": base.network.config.hidden_size}
    for key, value in sizes.items():
        if config.get(key) != value:
            raise ModelError(
                f"joint sampler {checkpoint.name}: {key} is {config.get(key)}, {base.name} has "
                f"{value}"
            )
