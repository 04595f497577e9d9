"""From a checkpoint to a `Model`, without remote code, from safetensors only."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from decoders.models import llada
from decoders.models.base import Model
from decoders.models.source import Checkpoint, ModelError

CAUSAL_FAMILIES = ("llama", "qwen2", "qwen3")
"""Stock causal families whose attention is plain causal, so that a 4D mask says all."""

DIFFUSION_FAMILIES = ("llada",)

FAMILIES = (*DIFFUSION_FAMILIES, *CAUSAL_FAMILIES)


def family_of(checkpoint: Checkpoint) -> str:
    """The family by `model_type`; an unknown one is refused with the known ones named."""
    family = str(checkpoint.config.get("model_type"))
    if family not in FAMILIES:
        raise ModelError(
            f"model {checkpoint.name}: model_type {family!r} is not supported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    return family


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The checkpoint's fast tokenizer; tokenizers that need code of their own are refused."""
    if not (checkpoint.folder / "tokenizer.json").exists():
        raise ModelError(
            f"model {checkpoint.name}: {checkpoint.folder} holds no tokenizer.json; save its fast "
            "tokenizer there with save_pretrained"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {checkpoint.name}: the tokenizer cannot be loaded: {error}"
        ) from error


def check(checkpoint: Checkpoint) -> None:
    """Refuses what `load_model` could not load, by config and file headers alone.

    Raises:
        ModelError: the family is unknown, a file is cut short, or a tensor is missing, too many,
            or of another shape than the config says; the message names it.
    """
    _checked(checkpoint)


def _checked(checkpoint: Checkpoint) -> "_Plan":
    plan = _plan(checkpoint)
    published = {name: key for key, name in plan.names.items()}
    expected = plan.network.state_dict()
    for name, tensor in expected.items():
        if name not in published:
            if name == "lm_head.weight" and plan.tied:
                continue
            missing = llada.published_name(name) if plan.llada else name
            raise ModelError(f"model {checkpoint.name}: tensor {missing} is missing")
        shape = checkpoint.shapes[published[name]]
        if shape != list(tensor.shape):
            raise ModelError(
                f"model {checkpoint.name}: tensor {published[name]} has shape {shape}, "
                f"config.json asks for {list(tensor.shape)}"
            )
    for name, key in published.items():
        if name not in expected:
            raise ModelError(f"model {checkpoint.name}: tensor {key} is not expected")
    return plan


def load_model(checkpoint: Checkpoint, device: str = "cpu", dtype: str = "float32") -> Model:
    """Loads the weights.

    Raises:
        ModelError: as `check`.
    """
    plan = _checked(checkpoint)
    state: dict[str, Tensor] = {}
    for file in checkpoint.weight_files:
        with safe_open(file, framework="pt", device=device) as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                state[plan.names[key]] = tensors.get_tensor(key).to(getattr(torch, dtype))
    if plan.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    plan.network.load_state_dict(state, strict=True, assign=True)
    plan.network.tie_weights()
    network = plan.network.to(device).eval().requires_grad_(False)
    return _describe(checkpoint, network)


class _Plan(NamedTuple):
    network: Any
    """Stock module: parameters on the meta device, rotary embedding on the CPU."""
    names: dict[str, str]
    """Published tensor name -> stock name."""
    tied: bool
    llada: bool


def _plan(checkpoint: Checkpoint) -> _Plan:
    family = family_of(checkpoint)
    rename: Callable[[str], str | None] = str
    if family in DIFFUSION_FAMILIES:
        rename, network = llada.stock_name, llada.build(checkpoint.config)
    else:
        config = AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        network.model.rotary_emb = type(network.model.rotary_emb)(config)
    names = {}
    for key in checkpoint.shapes:
        name = rename(key)
        if name is None:
            raise ModelError(f"model {checkpoint.name}: tensor {key} is not expected")
        names[key] = name
    tied = bool(network.config.tie_word_embeddings) and "lm_head.weight" not in names.values()
    return _Plan(network, names, tied, family in DIFFUSION_FAMILIES)


def _describe(checkpoint: Checkpoint, network: Any) -> Model:
    family, config = family_of(checkpoint), checkpoint.config
    tokenizer = load_tokenizer(checkpoint)
    diffusion = family in DIFFUSION_FAMILIES
    eos_ids = _eos_ids(checkpoint, tokenizer)
    eot_id = tokenizer.get_vocab().get("<|eot_id|>") if diffusion else None
    mask_id = config.get("mask_token_id") if diffusion else None
    if diffusion and mask_id is None:
        raise ModelError(f"model {checkpoint.name}: config.json has no mask_token_id")
    return Model(
        name=checkpoint.name,
        digest=checkpoint.digest,
        family=family,
        visibility="bidirectional" if diffusion else "causal",
        network=network,
        mask_id=mask_id,
        eos_id=eos_ids[0],
        eot_id=eot_id,
        stop_ids=frozenset(eos_ids) | ({eot_id} if eot_id is not None else set()),
        vocabulary=network.config.vocab_size,
        max_length=network.config.max_position_embeddings,
    )


def _eos_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What ends a text: by the generation config, else the config, else the tokenizer."""
    generation = checkpoint.folder / "generation_config.json"
    stated = json.loads(generation.read_text("utf-8")) if generation.exists() else {}
    for found in (
        stated.get("eos_token_id"),
        checkpoint.config.get("eos_token_id"),
        tokenizer.eos_token_id,
    ):
        if found is not None:
            return list(found) if isinstance(found, list) else [found]
    raise ModelError(f"model {checkpoint.name}: neither config nor tokenizer names an EOS token")
