"""Which families there are, and how each is read: published names, visibility, shift, mask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from decoders.models import causal, diffusion_gemma, llada, mdlm, qwen
from decoders.models.base import Visibility
from decoders.models.source import Checkpoint, ModelError

Generation = Literal["diffusion", "autoregressive"]


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class Family:
    """What a checkpoint's `model_type` says beyond its config."""

    name: str
    visibility: Visibility
    build: Callable[[Mapping[str, Any]], Any]
    """From config.json to the network, its parameters on the meta device."""
    stock_name: Callable[[str], str | None] = _same
    """Published tensor name -> the network's; None if it is not one, "" if it is not read."""
    published_name: Callable[[str], str] = _same
    """The way back, for errors."""
    generation: Generation = "diffusion"
    shift: Literal[0, 1] = 0
    masked: bool = True
    """Whether a mask token fills unwritten positions."""
    mask_is_last: bool = False
    """The mask is the last row of the vocabulary; else config.json names it, or the tokenizer by
    one of `mask_tokens`."""
    mask_tokens: tuple[str, ...] = ()
    block_keys: tuple[str, ...] = ()
    """Where a block-causal model's config states its block size."""
    block: int | None = None
    """The block size if it does not."""
    turn_token: str | None = None
    """Ends a turn, where that is not EOS."""
    tokenizer: Literal["own", "qwen", "gpt2"] = "own"
    """What reads text where the checkpoint has no tokenizer.json."""
    optional: frozenset[str] = frozenset()
    """Tensors that a checkpoint need not have, never cast to a lower precision."""


_QWEN: dict[str, Any] = {"turn_token": "<|im_end|>", "tokenizer": "qwen"}
_DIT: dict[str, Any] = {
    "mask_is_last": True,
    "tokenizer": "gpt2",
    "optional": frozenset({"rotary_emb.inv_freq"}),
}

_BY_TYPE = {
    "llada": Family(
        "llada",
        "bidirectional",
        llada.build,
        llada.stock_name,
        llada.published_name,
        turn_token="<|eot_id|>",
    ),
    "Dream": Family("dream", "bidirectional", qwen.build_dream, shift=1, **_QWEN),
    "Fast_dLLM_Qwen": Family(
        "fast_dllm_v2",
        "block-causal",
        qwen.build_fast_dllm_v2,
        shift=1,
        mask_tokens=("|<MASK>|",),
        block_keys=("bd_size",),
        **_QWEN,
    ),
    "sdar": Family(
        "sdar",
        "block-causal",
        qwen.build_sdar,
        mask_tokens=("<|MASK|>",),
        block_keys=("block_length", "block_size"),
        block=4,
        **_QWEN,
    ),
    "mdlm": Family(
        "mdlm",
        "bidirectional",
        mdlm.build_mdlm,
        mdlm.mdlm_stock_name,
        mdlm.mdlm_published_name,
        **_DIT,
    ),
    "sedd": Family("sedd", "bidirectional", mdlm.build_sedd, **_DIT),
    "diffusion_gemma": Family(
        "diffusion_gemma",
        "block-causal",
        diffusion_gemma.build,
        masked=False,
        block_keys=("canvas_length",),
        block=256,
    ),
    **{
        kind: Family(
            kind,
            "causal",
            causal.build,
            causal.gpt2_stock_name if kind == "gpt2" else causal.stock_name,
            generation="autoregressive",
            masked=False,
            tokenizer="qwen" if kind.startswith("qwen") else "own",
        )
        for kind in causal.FAMILIES
    },
}

DIFFUSION_FAMILIES = tuple(family.name for family in _BY_TYPE.values() if family.masked)
"""Families that fill in a mask token."""


def reading(checkpoint: Checkpoint) -> Family:
    """The family by `model_type`; an unknown one is refused with the known ones named."""
    config = checkpoint.config
    kind = config.get("model_type")
    if kind is None and isinstance(config.get("graph"), dict) and "model" in config:
        kind = "sedd"  # its config is that of a training run and names no type
    if kind not in _BY_TYPE:
        raise ModelError(
            f"model {checkpoint.name}: model_type {kind!r} is not supported; "
            f"supported: {', '.join(_BY_TYPE)}"
        )
    return _BY_TYPE[kind]


def family_of(checkpoint: Checkpoint) -> str:
    """The family's name.

    Raises:
        ModelError: the family is unknown.
    """
    return reading(checkpoint).name


def generation_of(checkpoint: Checkpoint) -> Generation:
    """How the checkpoint writes text, by its config alone."""
    return reading(checkpoint).generation


def visibility_of(checkpoint: Checkpoint) -> Visibility:
    """What a position of the checkpoint sees, by its config alone."""
    return reading(checkpoint).visibility


def block_of(checkpoint: Checkpoint) -> int | None:
    """Positions a block of a block-causal checkpoint; None for others.

    Raises:
        ModelError: the config does not state it, or not as a positive number.
    """
    family, config = reading(checkpoint), checkpoint.config
    if family.visibility != "block-causal":
        return None
    stated = [(key, config[key]) for key in family.block_keys if config.get(key) is not None]
    if not stated and family.block is None:
        raise ModelError(f"model {checkpoint.name}: config.json has no {family.block_keys[0]}")
    key, block = stated[0] if stated else ("block", family.block)
    if not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise ModelError(f"model {checkpoint.name}: {key} must be a positive number, got {block!r}")
    return block


def mask_id_of(checkpoint: Checkpoint, vocabulary: int, tokens: Mapping[str, int]) -> int | None:
    """The mask's id: the last row, as config.json says, or by the tokenizer's name for it.

    Raises:
        ModelError: nothing names it, or it lies outside the vocabulary.
    """
    family = reading(checkpoint)
    if not family.masked:
        return None
    if family.mask_is_last:
        return vocabulary - 1
    found = checkpoint.config.get("mask_token_id")
    if found is None:
        found = next((tokens[name] for name in family.mask_tokens if name in tokens), None)
    if found is None:
        also = f" and its tokenizer no {family.mask_tokens[0]}" if family.mask_tokens else ""
        raise ModelError(f"model {checkpoint.name}: config.json has no mask_token_id{also}")
    if not isinstance(found, int) or not 0 <= found < vocabulary:
        raise ModelError(
            f"model {checkpoint.name}: mask_token_id must be below {vocabulary}, got {found!r}"
        )
    return found
