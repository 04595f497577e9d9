"""MDLM and SEDD checkpoints (kuleshov-group/mdlm-owt, louaaron/sedd-small) as a `DiT`.

Both read GPT-2's tokens and add the mask as the last row of the vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import torch

from decoders.models.dit import DiT, DiTConfig, Rotary
from decoders.models.source import ModelError

_PREFIX = "backbone."

# What the config must say for the module to be the published one.
_SEDD_REQUIRED = {("graph", "type"): "absorb", ("noise", "type"): "loglinear"}
_SEDD_ASSUMED = {("model", "type"): "ddit"}


def build_mdlm(config: Mapping[str, Any]) -> DiT:
    """The module of a published MDLM config.

    Raises:
        ModelError: a key is missing or cannot be right.
    """
    try:
        return _build(
            "MDLM",
            DiTConfig(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_dim"],
                cond_size=config["cond_dim"],
                num_hidden_layers=config["n_blocks"],
                num_attention_heads=config["n_heads"],
                max_position_embeddings=config["model_length"],
                time_conditioned=bool(config["time_conditioning"]),
            ),
        )
    except KeyError as error:
        raise ModelError(f"MDLM config: {error.args[0]} is missing") from error


def build_sedd(config: Mapping[str, Any]) -> DiT:
    """The module of a published SEDD config, which is that of a whole training run.

    Raises:
        ModelError: a key is missing, or asks for another graph, noise or network.
    """
    for (group, key), value in (_SEDD_REQUIRED | _SEDD_ASSUMED).items():
        found = config[group].get(key) if isinstance(config.get(group), Mapping) else None
        if found is None and (group, key) in _SEDD_ASSUMED:
            continue
        if found != value:
            raise ModelError(f"SEDD config: {group}.{key} must be {value!r}, got {found!r}")
    try:
        model = config["model"]
        return _build(
            "SEDD",
            DiTConfig(
                vocab_size=config["tokens"] + 1,
                hidden_size=model["hidden_size"],
                cond_size=model["cond_dim"],
                num_hidden_layers=model["n_blocks"],
                num_attention_heads=model["n_heads"],
                max_position_embeddings=model["length"],
                time_conditioned=True,
            ),
        )
    except KeyError as error:
        raise ModelError(f"SEDD config: {error.args[0]} is missing") from error


def _build(name: str, config: DiTConfig) -> DiT:
    """Parameters on the meta device, the rotary frequencies on the CPU."""
    if config.hidden_size % (2 * config.num_attention_heads):
        raise ModelError(
            f"{name} config: {config.hidden_size} hidden units cannot be split over n_heads = "
            f"{config.num_attention_heads}"
        )
    with torch.device("meta"):
        network = DiT(config)
    with torch.device("cpu"):
        network.rotary_emb = Rotary(config.hidden_size // config.num_attention_heads)
    return network


def mdlm_stock_name(published: str) -> str | None:
    """MDLM's tensors lie under the prefix that its training code gave the network."""
    return published.removeprefix(_PREFIX) if published.startswith(_PREFIX) else None


def mdlm_published_name(stock: str) -> str:
    """The inverse of `mdlm_stock_name`."""
    return _PREFIX + stock
