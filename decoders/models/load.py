"""From a checkpoint to a `Model`, without remote code, from safetensors or GGUF only."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from decoders.models import diffusion_gemma
from decoders.models.base import Model
from decoders.models.families import Family, block_of, mask_id_of, reading
from decoders.models.gguf import GgufCheckpoint, stock_name
from decoders.models.source import Checkpoint, ModelError
from decoders.models.split import Cut, Split, obstacle

_GPT2 = "AutoTokenizer.from_pretrained('openai-community/gpt2').save_pretrained"


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The checkpoint's fast tokenizer; tokenizers that need code of their own are refused.

    Raises:
        ModelError: the folder holds none, or it cannot be loaded.
    """
    if isinstance(checkpoint, GgufCheckpoint):
        return checkpoint.tokenizer
    folder, kind = checkpoint.folder, PreTrainedTokenizerFast
    if not (folder / "tokenizer.json").exists():
        family = reading(checkpoint)
        if family.tokenizer == "gpt2":
            raise ModelError(
                f"model {checkpoint.name}: {folder} holds no tokenizer.json, and the published "
                f"checkpoint has none; put GPT-2's there: {_GPT2}({str(folder)!r})"
            )
        parts = [folder / "vocab.json", folder / "merges.txt"]
        if family.tokenizer != "qwen" or not all(part.exists() for part in parts):
            raise ModelError(
                f"model {checkpoint.name}: {folder} holds no tokenizer.json; save its fast "
                "tokenizer there with save_pretrained"
            )
        kind = Qwen2Tokenizer
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {checkpoint.name}: the tokenizer cannot be loaded: {error}"
        ) from error


def max_length_of(checkpoint: Checkpoint) -> int:
    """Most positions that the checkpoint's model was built for, by its config alone.

    Raises:
        ModelError: the family is unknown.
    """
    return _max_length(reading(checkpoint).build(checkpoint.config))


def check(checkpoint: Checkpoint) -> None:
    """Refuses what `load_model` could not load, by config and file headers alone.

    Raises:
        ModelError: the family is unknown, a file is cut short, or a tensor is missing, too many,
            or of another shape than the config says; the message names it.
    """
    _checked(checkpoint)


def whole_on_each(checkpoint: Checkpoint, ranks: int) -> str | None:
    """Why every one of so many ranks would hold the whole model; None if it is split.

    Raises:
        ModelError: the family is unknown.
    """
    return obstacle(reading(checkpoint).build(checkpoint.config), ranks)


def load_model(
    checkpoint: Checkpoint,
    device: str = "cpu",
    dtype: str = "float32",
    split: Split | None = None,
) -> Model:
    """Loads the weights; with `split` the rank's part of them, where the model can be split.

    Raises:
        ModelError: as `check`.
    """
    plan = _checked(checkpoint)
    if plan.family.name == "diffusion_gemma":
        network = diffusion_gemma.load(checkpoint, type(plan.network), device, dtype)
    else:
        network = plan.network
        cuts = {} if split is None else split.cut(network)
        state = _state(checkpoint, plan, device, getattr(torch, dtype), cuts)
        network.load_state_dict(state, strict=True, assign=True)
        if network.config.tie_word_embeddings:
            network.tie_weights()
        network = network.to(device)
    return _describe(checkpoint, plan, network.eval().requires_grad_(False))


class _Plan(NamedTuple):
    family: Family
    network: Any
    """Parameters on the meta device, rotary embedding on the CPU."""
    names: dict[str, str]
    """Published tensor name -> the network's, of the tensors that are read."""
    tied: str | None
    """The embedding, where the files leave the head out because it is the same."""
    block: int | None


def _checked(checkpoint: Checkpoint) -> _Plan:
    plan = _plan(checkpoint)
    if plan.family.name == "diffusion_gemma":
        return plan
    published = {name: key for key, name in plan.names.items()}
    expected = plan.network.state_dict()
    for name, tensor in expected.items():
        if name not in published:
            if name in plan.family.optional or (name == "lm_head.weight" and plan.tied):
                continue
            missing = plan.family.published_name(name)
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


def _plan(checkpoint: Checkpoint) -> _Plan:
    family = reading(checkpoint)
    block = block_of(checkpoint)
    if family.masked and not family.mask_is_last and not family.mask_tokens:
        mask_id_of(checkpoint, checkpoint.config.get("vocab_size") or 2**31, {})
    network = family.build(checkpoint.config)
    rename = stock_name if isinstance(checkpoint, GgufCheckpoint) else family.stock_name
    names: dict[str, str] = {}
    for key in checkpoint.shapes:
        name = rename(key)
        if name is None:
            raise ModelError(f"model {checkpoint.name}: tensor {key} is not expected")
        if name:
            names[key] = name
    tied = None
    if network.config.tie_word_embeddings and "lm_head.weight" not in names.values():
        shared = network.get_input_embeddings().weight
        tied = next(name for name, tensor in network.named_parameters() if tensor is shared)
    return _Plan(family, network, names, tied, block)


def _state(
    checkpoint: Checkpoint,
    plan: _Plan,
    device: str,
    dtype: torch.dtype,
    cuts: Mapping[str, Cut],
) -> dict[str, Tensor]:
    """The network's whole state: what the files hold, what they may leave out, the tied head."""
    optional = plan.family.optional
    state = {k: v for k, v in plan.network.state_dict().items() if k in optional}
    by_key = {key: cuts[name] for key, name in plan.names.items() if name in cuts}
    for key, tensor in _tensors(checkpoint, device, by_key):
        name = plan.names.get(key)
        if name is not None:
            state[name] = tensor.to(device, torch.float32 if name in optional else dtype)
    if plan.tied:
        state["lm_head.weight"] = state[plan.tied]
    return state


def _tensors(
    checkpoint: Checkpoint, device: str, cuts: Mapping[str, Cut]
) -> Iterator[tuple[str, Tensor]]:
    """Every stored tensor, or the part of it that is wanted, one in memory at a time."""
    if isinstance(checkpoint, GgufCheckpoint):
        for key, tensor in checkpoint.tensors():
            yield key, cuts[key](tensor) if key in cuts else tensor
        return
    for file in checkpoint.weight_files:
        with safe_open(file, framework="pt", device=device) as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                if key in cuts:
                    yield key, cuts[key](tensors.get_slice(key))
                else:
                    yield key, tensors.get_tensor(key)


def _describe(checkpoint: Checkpoint, plan: _Plan, network: Any) -> Model:
    family = plan.family
    tokenizer = load_tokenizer(checkpoint)
    tokens = tokenizer.get_vocab()
    sizes = getattr(network.config, "text_config", network.config)
    eos_ids = _eos_ids(checkpoint, family, tokenizer)
    turn_id = tokens.get(family.turn_token)
    stop_ids = frozenset(eos_ids) | ({turn_id} if turn_id is not None else set())
    return Model(
        name=checkpoint.name,
        digest=checkpoint.digest,
        family=family.name,
        visibility=family.visibility,
        network=network,
        mask_id=mask_id_of(checkpoint, sizes.vocab_size, tokens),
        eos_id=eos_ids[0],
        eot_id=turn_id if turn_id != eos_ids[0] else None,
        stop_ids=stop_ids,
        vocabulary=sizes.vocab_size,
        max_length=_max_length(network),
        shift=family.shift,
        block=plan.block,
        time_conditioned=getattr(network.config, "time_conditioned", False),
    )


def _max_length(network: Any) -> int:
    length: int = getattr(network.config, "text_config", network.config).max_position_embeddings
    return length


def _eos_ids(
    checkpoint: Checkpoint, family: Family, tokenizer: PreTrainedTokenizerFast
) -> list[int]:
    """What ends a text: by the generation config, else the config, else the tokenizer."""
    generation = checkpoint.folder / "generation_config.json"
    stated = json.loads(generation.read_text("utf-8")) if generation.exists() else {}
    end_of_text = "<|endoftext|>" if family.tokenizer == "gpt2" else None
    config = checkpoint.config
    for found in (
        stated.get("eos_token_id"),
        config.get("text_config", config).get("eos_token_id"),
        tokenizer.eos_token_id,
        tokenizer.get_vocab().get(end_of_text),
    ):
        if found is not None:
            return list(found) if isinstance(found, list) else [found]
    raise ModelError(f"model {checkpoint.name}: neither config nor tokenizer names an EOS token")
