"""Writes a trained model as its family publishes it: config, bfloat16 weights, tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from decoders.models.llada import published_name
from jobs.train.config import Shape, TrainConfig
from jobs.train.tokenizer import EOS_ID, MASK_ID, save_tokenizer


def llada_config(shape: Shape) -> dict[str, Any]:
    """The config of LLaDA-8B, with this shape's numbers."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "d_model": shape.hidden_size,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "n_kv_heads": shape.heads,
        "mlp_hidden_size": shape.intermediate_size,
        "embedding_size": shape.vocab_size,
        "vocab_size": shape.vocab_size,
        "max_sequence_length": shape.max_positions,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "weight_tying": True,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "alibi": False,
        "attention_layer_norm": False,
        "mask_token_id": MASK_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "torch_dtype": "bfloat16",
        "use_cache": False,
    }


def stock_config(shape: Shape) -> dict[str, Any]:
    """An ordinary Llama's config."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.hidden_size // shape.heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "dtype": "bfloat16",
        "use_cache": True,
    }


def block_config(shape: Shape, bd_size: int) -> dict[str, Any]:
    """The config of Fast_dLLM_v2, with this shape's numbers."""
    return {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "model_type": "Fast_dLLM_Qwen",
        "bd_size": bd_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * shape.layers,
        "max_window_layers": shape.layers,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        "mask_token_id": MASK_ID,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def write_weights(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """`model.safetensors` in bfloat16, and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in tensors.items()
    }
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def publish(
    recipe: str, model: Any, config: TrainConfig, tokenizer: Tokenizer, folder: Path
) -> None:
    """Writes the folder that `decoders` and, but for block diffusion, transformers load."""
    shape = config.shape
    # Tied: the parameters name the shared matrix once, as the embedding.
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    if recipe == "mdlm":
        tensors = {published_name(name): tensor for name, tensor in tensors.items()}
        written = llada_config(shape)
    elif recipe == "bd":
        # Qwen2's attention adds a bias to q, k and v; this model was trained without.
        for layer in range(shape.layers):
            for name in "qkv":
                key = f"model.layers.{layer}.self_attn.{name}_proj"
                tensors[f"{key}.bias"] = torch.zeros(tensors[f"{key}.weight"].shape[0])
        written = block_config(shape, config.bd_size)
    else:
        written = stock_config(shape)
    write_weights(tensors, written, folder)
    save_tokenizer(tokenizer, folder, shape.max_positions)
