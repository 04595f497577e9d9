"""The forward of Llama-shaped networks on a GPU: the stock module's weights and mathematics, in few
kernels.

Queries, keys and values come from one product and gate and up from another; the stock module keeps
its parameters, which become views of the joined weights, so nothing is held twice. Attention reads
keys and values where they are kept.

Legend: S slots, B rows of a pass, Q positions fed, N = B * Q, W positions whose states are wanted,
J key heads, K places, D head size, E width.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.models.base import Model
from decoders.models.llada import Float32Rotary
from decoders.models.split import Summed, summed

_KINDS = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
_known: WeakKeyDictionary[Any, "Fused"] = WeakKeyDictionary()


def fused(model: Model) -> "Fused | None":
    """The fused forward of a model, one for all who share its network; None where the device or
    the architecture has none, and the stock module computes."""
    network = model.network
    if model.device.type != "cuda" or find_spec("triton") is None or not _fits(network):
        return None
    if network not in _known:
        _known[network] = Fused(network)
    return _known[network]


def _fits(network: Any) -> bool:
    if type(network).__name__ not in _KINDS or network.config.hidden_act != "silu":
        return False
    size: int = network.base_model.layers[0].self_attn.head_dim
    return 16 <= size <= 256 and size & (size - 1) == 0


class Store:
    """Keys and values [S + 1, J, K, D] of all slots, one pair a layer. The last slot takes what
    rows without a sample write."""

    def __init__(self, slots: int) -> None:
        self.slots, self.places = slots, 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def widen(self, places: int, network: "Fused") -> None:
        """Makes room; what is stored stays."""
        if places <= self.places:
            return
        for n in range(network.depth):
            shape = (self.slots + 1, network.key_heads, places, network.size)
            fresh = (network.empty(shape).zero_(), network.empty(shape).zero_())
            if n < len(self.layers):
                for new, old in zip(fresh, self.layers[n], strict=True):
                    new[:, :, : self.places] = old
                self.layers[n] = fresh
            else:
                self.layers.append(fresh)
        self.places = places


class _Layer(NamedTuple):
    norm: Tensor
    qkv: tuple[Tensor, Tensor | None]
    norms: tuple[Tensor, Tensor, float] | None
    out: tuple[Tensor, Tensor | None]
    inner_norm: Tensor
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


class Fused:
    """See the module. Building it joins the weights of the network."""

    def __init__(self, network: Any) -> None:
        base, attention = network.base_model, network.base_model.layers[0].self_attn
        self._embedding = base.embed_tokens.weight
        self._final_norm, self._eps = base.norm.weight, base.norm.variance_epsilon
        self.heads = network.config.num_attention_heads
        self.key_heads = network.config.num_key_value_heads
        self.size, self._scale = attention.head_dim, attention.scaling
        self._layers = [_packed(layer) for layer in base.layers]
        self._is_split = isinstance(attention.o_proj, Summed)
        self._in_float32 = isinstance(base.rotary_emb, Float32Rotary)
        places = torch.arange(
            network.config.max_position_embeddings, device=base.norm.weight.device
        )
        wide = torch.empty(0, dtype=torch.float32, device=places.device)
        cosines, sines = base.rotary_emb(wide, places[None])
        self._cosines = cosines[0, :, : self.size // 2].contiguous()
        self._sines = sines[0, :, : self.size // 2].contiguous()

    @property
    def depth(self) -> int:
        return len(self._layers)

    def empty(self, shape: Sequence[int]) -> Tensor:
        weight: Tensor = self._embedding
        return weight.new_empty(shape)

    def __call__(
        self,
        tokens_BQ: Tensor,
        positions_BQ: Tensor,
        limits_BQ: Tensor,
        store: Store | None = None,
        slots_B: Tensor | None = None,
        places_BQ: Tensor | None = None,
        wanted_BW: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, Q, E].

        Args:
            tokens_BQ: token ids.
            positions_BQ: places that they are rotated by.
            limits_BQ: each sees the keys [0, limit) of its row.
            store: where keys and values are kept; without it those of the pass are seen alone.
            slots_B: the rows' slots in the store.
            places_BQ: where in the slot a position's keys go; -1: nowhere.
            wanted_BW: which of the Q positions are wanted; then the states are [B, W, E].
        """
        from decoders.kernels.attention import attend
        from decoders.kernels.layers import add_norm, gated, rotate

        rows, fed = tokens_BQ.shape
        device = tokens_BQ.device
        if store is None or slots_B is None or places_BQ is None:
            shape = (rows, self.key_heads, fed, self.size)
            layers = [(self.empty(shape), self.empty(shape))] * self.depth
            slots_B = torch.arange(rows, device=device)
            places_BQ = torch.arange(fed, device=device).expand(rows, -1)
        else:
            layers = store.layers
        # The kernels count along memory: a column of a table would be misread.
        slots_B, limits_BQ = slots_B.contiguous(), limits_BQ.int().contiguous()
        positions_N = positions_BQ.reshape(-1).int().contiguous()
        places_N = places_BQ.reshape(-1).int().contiguous()
        slots_N = slots_B.repeat_interleave(fed)
        states_NE = F.embedding(tokens_BQ, self._embedding).flatten(0, 1)
        change_NE: Tensor | None = None
        for n, (layer, (keys, values)) in enumerate(zip(self._layers, layers, strict=True)):
            normed_NE = add_norm(states_NE, change_NE, layer.norm, self._eps)
            qkv_NE = F.linear(normed_NE, *layer.qkv)
            rotate(
                qkv_NE,
                self.heads,
                positions_N,
                self._cosines,
                self._sines,
                self._in_float32,
                layer.norms,
                keys,
                values,
                slots_N,
                places_N,
            )
            queries = qkv_NE.view(rows, fed, -1, self.size)[:, :, : self.heads]
            if wanted_BW is not None and n == self.depth - 1:
                # Nothing after the last layer's keys is read but the states that are wanted.
                row_B1 = torch.arange(rows, device=device)[:, None]
                queries, limits_BQ = queries[row_B1, wanted_BW], limits_BQ[row_B1, wanted_BW]
                states_NE = states_NE.view(rows, fed, -1)[row_B1, wanted_BW].flatten(0, 1)
            mixed = attend(queries, keys, values, slots_B, limits_BQ, self._scale)
            change_NE = self._whole(F.linear(mixed.flatten(2).flatten(0, 1), *layer.out))
            normed_NE = add_norm(states_NE, change_NE, layer.inner_norm, self._eps)
            change_NE = self._whole(
                F.linear(gated(F.linear(normed_NE, *layer.gate_up)), *layer.down)
            )
        last_NE = add_norm(states_NE, change_NE, self._final_norm, self._eps)
        return last_NE.view(rows, -1, last_NE.shape[1])

    def _whole(self, part_NE: Tensor) -> Tensor:
        return summed(part_NE) if self._is_split else part_NE


def _packed(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        q_norm, k_norm = attention.q_norm, attention.k_norm
        norms = (q_norm.weight, k_norm.weight, q_norm.variance_epsilon)
    return _Layer(
        norm=layer.input_layernorm.weight,
        qkv=_joined(attention.q_proj, attention.k_proj, attention.v_proj),
        norms=norms,
        out=(attention.o_proj.weight, attention.o_proj.bias),
        inner_norm=layer.post_attention_layernorm.weight,
        gate_up=_joined(mlp.gate_proj, mlp.up_proj),
        down=(mlp.down_proj.weight, mlp.down_proj.bias),
    )


def _joined(*parts: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """The weights of several products of one input as one; the modules keep views of it."""
    weight = torch.cat([part.weight for part in parts])
    at = 0
    for part in parts:
        rows = part.weight.shape[0]
        part.weight = nn.Parameter(weight[at : at + rows], requires_grad=False)
        at += rows
    if parts[0].bias is None:
        return weight, None
    return weight, torch.cat([part.bias for part in parts])
