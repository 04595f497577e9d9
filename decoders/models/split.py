"""One model over several processes: each holds some heads of every attention and some of every
MLP's inner width, and what they make of them is summed.

Megatron-LM's split (Shoeybi et al. 2019, section 3). Embeddings, norms and head are whole on every
rank: the head split by vocabulary would save less than sending its logits costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


class Summed(nn.Linear):
    """A product whose inputs are spread over the ranks; the outputs are summed."""

    def forward(self, input: Tensor) -> Tensor:
        return summed(super().forward(input))


def summed(part: Tensor) -> Tensor:
    """The sum over the ranks, in place; all must ask for it in the same order."""
    dist.all_reduce(part)
    return part


class Cut(NamedTuple):
    """A rank's part of a tensor."""

    part: tuple[slice, ...]
    is_added_once: bool = False
    """A bias of what is summed, which is the first rank's alone."""

    def __call__(self, whole: Any) -> Tensor:
        """Of a tensor, or of a stored one that reads what it is asked for."""
        part: Tensor = whole[self.part].clone()
        return part.zero_() if self.is_added_once else part


@dataclass(frozen=True)
class Split:
    """Which of how many ranks this is."""

    rank: int
    size: int

    def cut(self, network: Any) -> dict[str, Cut]:
        """Makes a whole network, still on the meta device, the rank's part of it; returns what to
        take of each tensor that is split, by its name. One that cannot be split stays whole."""
        if obstacle(network, self.size) is not None:
            return {}
        config = network.config
        width = network.base_model.layers[0].self_attn.head_dim
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        own, own_keys = heads // self.size, max(1, key_heads // self.size)
        first_key = self.rank * key_heads // self.size
        queries = slice(self.rank * own * width, (self.rank + 1) * own * width)
        keys = slice(first_key * width, (first_key + own_keys) * width)
        each = config.intermediate_size // self.size
        inner = slice(self.rank * each, (self.rank + 1) * each)
        cuts: dict[str, Cut] = {}
        for n, layer in enumerate(network.base_model.layers):
            prefix = f"{network.base_model_prefix}.layers.{n}"
            for block, names, parts in (
                ("self_attn", _ATTENTION, (queries, keys, keys, queries)),
                ("mlp", _MLP, (inner, inner, inner)),
            ):
                parent = getattr(layer, block)
                for name, part in zip(names, parts, strict=True):
                    is_last = name == names[-1]
                    cuts |= self._narrow(parent, name, part, is_last, f"{prefix}.{block}.{name}")
            layer.self_attn.num_key_value_groups = own // own_keys
        # What reads sizes from the config is to find the rank's own.
        config.head_dim, config.intermediate_size = width, each
        config.num_attention_heads, config.num_key_value_heads = own, own_keys
        return cuts

    def _narrow(
        self, parent: nn.Module, name: str, part: slice, is_last: bool, place: str
    ) -> dict[str, Cut]:
        """Puts a narrower product in place of a whole one: over fewer inputs where it is the last
        of its block, with fewer outputs else."""
        whole, size = parent.get_submodule(name), part.stop - part.start
        assert isinstance(whole, nn.Linear)
        has_bias = whole.bias is not None
        cuts = {f"{place}.weight": Cut((slice(None), part) if is_last else (part,))}
        with torch.device("meta"):
            if is_last:
                narrow: nn.Linear = Summed(size, whole.out_features, has_bias)
            else:
                narrow = nn.Linear(whole.in_features, size, has_bias)
        if has_bias and is_last:
            cuts[f"{place}.bias"] = Cut((slice(None),), is_added_once=self.rank > 0)
        elif has_bias:
            cuts[f"{place}.bias"] = Cut((part,))
        setattr(parent, name, narrow)
        return cuts


def obstacle(network: Any, size: int) -> str | None:
    """Why a network cannot be split over so many ranks; None if it can."""
    for layer in getattr(network.base_model, "layers", [None]):
        if not all(isinstance(module, nn.Linear) for module in _products(layer)):
            return "its layers are not Llama's"
        norm, width = getattr(layer.self_attn, "q_norm", None), layer.self_attn.head_dim
        if norm is not None and norm.weight.shape != (width,):
            return "its norms go over all heads at once"
    config = network.config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % size or (key_heads % size and size % key_heads):
        return f"its {heads} heads with {key_heads} key heads do not divide by {size}"
    if config.intermediate_size % size:
        return f"its intermediate size {config.intermediate_size} does not divide by {size}"
    return None


def _products(layer: Any) -> Iterator[nn.Module | None]:
    for block, names in (("self_attn", _ATTENTION), ("mlp", _MLP)):
        for name in names:
            yield getattr(getattr(layer, block, None), name, None)
