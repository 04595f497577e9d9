"""Models of a published shape with random weights: they cost what the published ones cost.

The head's rows of the mask and of every stop token are zero, so that neither is ever the likeliest
of a large vocabulary: a sample runs its full budget, and no position stays masked.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from decoders.models.base import Model
from decoders.models.families import block_of, mask_id_of, reading
from decoders.models.source import ModelError
from decoders.models.split import Split
from decoders.models.stated import Shape

_PART_BYTES = 4e9


def random_model(
    shape: Shape,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    split: Split | None = None,
) -> Model:
    """The shape's model, its weights drawn on the device: norms 1, biases 0, else N(0, 0.02). With
    `split` the rank's part of the same weights, where the model can be split.

    Raises:
        ModelError: the family is unknown or not one that fills masks or is causal, or the config
            does not fit it.
    """
    family = reading(shape)
    if family.name == "diffusion_gemma":
        raise ModelError(f"shape {shape.name}: family {family.name} cannot be made at random")
    network = family.build(shape.config)
    generator = torch.Generator(device).manual_seed(seed)
    state: dict[str, Tensor] = {}
    whole = network.state_dict()
    cuts = {} if split is None else split.cut(network)
    for name, tensor in whole.items():
        if not tensor.is_meta:
            state[name] = tensor
            continue
        weight = torch.empty(tensor.shape, device=device, dtype=getattr(torch, dtype))
        if tensor.ndim > 1:
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        state[name] = cuts[name](weight) if name in cuts else weight
    sizes = getattr(network.config, "text_config", network.config)
    eos_id = _token(shape, "eos_token_id", sizes.vocab_size - 2)
    mask_id = mask_id_of(shape, sizes.vocab_size, {})
    unlikely = [token for token in (eos_id, mask_id) if token is not None]
    if network.config.tie_word_embeddings:
        state["lm_head.weight"] = state[_embedding(network)]
    if "lm_head.weight" in state:
        state["lm_head.weight"][unlikely] = 0.0
    network.load_state_dict(state, strict=True, assign=True)
    if network.config.tie_word_embeddings:
        network.tie_weights()
    return Model(
        name=shape.name,
        digest=f"random-{seed}",
        family=family.name,
        visibility=family.visibility,
        network=network.to(device).eval().requires_grad_(False),
        mask_id=mask_id,
        eos_id=eos_id,
        eot_id=None,
        stop_ids=frozenset({eos_id}),
        vocabulary=sizes.vocab_size,
        max_length=sizes.max_position_embeddings,
        shift=family.shift,
        block=block_of(shape),
        time_conditioned=getattr(network.config, "time_conditioned", False),
    )


def write_checkpoint(
    shape: Shape, folder: Path, tokenizer: Path, device: str = "cpu", dtype: str = "bfloat16"
) -> None:
    """The shape's model as a checkpoint of its family, in files of about 4 GB, with the tokenizer
    of another checkpoint's folder.

    Raises:
        ModelError: as `random_model`.
        OSError: the folder cannot be written.
    """
    model, family = random_model(shape, device, dtype), reading(shape)
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, Tensor]] = [{}]
    tied = model.network.config.tie_word_embeddings
    for name, tensor in model.network.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        if sum(kept.nbytes for kept in parts[-1].values()) >= _PART_BYTES:
            parts.append({})
        parts[-1][family.published_name(name)] = tensor.contiguous()
    files = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    for file, part in zip(files, parts, strict=True):
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {key: file for file, part in zip(files, parts, strict=True) for key in part}
    for name, content in (
        ("model.safetensors.index.json", {"weight_map": index}),
        ("config.json", shape.config),
    ):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def _embedding(network: Any) -> str:
    shared = network.get_input_embeddings().weight
    names: list[str] = [name for name, found in network.named_parameters() if found is shared]
    return names[0]


def _token(shape: Shape, key: str, default: int) -> int:
    found = shape.config.get(key, default)
    found = found[0] if isinstance(found, list) else found
    if not isinstance(found, int):
        raise ModelError(f"shape {shape.name}: {key} must be a number, got {found!r}")
    return found
