"""DiffusionGemma in transformers' own module: a causal encoder fills a K/V cache, a decoder
denoises a canvas that sees the cache and itself. It has no mask token, so that the engines for
masked diffusion do not take it; `network.generate` decodes."""

from collections.abc import Mapping
from typing import Any

import torch

from decoders.models.source import Checkpoint, ModelError


def build(config: Mapping[str, Any]) -> Any:
    """The stock module on the meta device.

    Raises:
        ModelError: the installed transformers has no such model, or the config cannot be right.
    """
    try:
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
    except ImportError as error:
        raise ModelError(
            "DiffusionGemma needs a transformers that has it: pip install -U 'transformers>=5.23'"
        ) from error
    try:
        stock = DiffusionGemmaConfig.from_dict(dict(config))
        with torch.device("meta"):
            return DiffusionGemmaForBlockDiffusion(stock)
    except Exception as error:  # transformers' validation raises errors of many classes
        raise ModelError(f"DiffusionGemma config: {' '.join(str(error).split())}") from error


def load(checkpoint: Checkpoint, kind: type[Any], device: str, dtype: str) -> Any:
    """The module with its weights. transformers loads them, since it ties encoder and decoder and
    fills buffers.

    Raises:
        ModelError: the files do not hold what the config asks for.
    """
    network, report = kind.from_pretrained(
        checkpoint.folder,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for key, words in (
        ("missing_keys", "is missing"),
        ("unexpected_keys", "is not expected"),
        ("mismatched_keys", "has another shape than config.json asks for"),
    ):
        for found in sorted(report[key], key=str):
            name = found if isinstance(found, str) else found[0]
            raise ModelError(f"model {checkpoint.name}: tensor {name} {words}")
    return network.to(device)
