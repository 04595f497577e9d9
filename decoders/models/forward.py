"""Forwards of our own for Llama-shaped networks: which networks fit, what is read of them, and
where keys and values are kept.

Two compute them: `decoders.models.fused` on a GPU and `decoders.models.packed` on a CPU. Both are
called with rectangles of tokens and give the stock module's states up to the order of a sum.

Legend: S slots, B rows of a pass, Q positions fed, W positions whose states are wanted, J key
heads, K places, D head size, E width.
"""

from typing import Any, ClassVar, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from decoders.models.base import Model
from decoders.models.llada import Float32Rotary

_KINDS = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
_known: WeakKeyDictionary[Any, "Forward"] = WeakKeyDictionary()


class Forward(Protocol):
    """A network's forward, and where its keys and values lie."""

    is_fixed: ClassVar[bool]
    """Its shapes should depend on no neighbour, so that it can be replayed as a graph; else every
    row costs what it feeds."""

    @property
    def depth(self) -> int:
        """Layers."""
        ...

    def room(self, slots: int, places: int) -> Tensor:
        """Zeros [slots, J, places, D] for the keys or the values of a layer."""
        ...

    def __call__(
        self,
        tokens_BQ: Tensor,
        positions_BQ: Tensor,
        limits_BQ: Tensor,
        store: "Store | None" = None,
        slots_B: Tensor | None = None,
        places_BQ: Tensor | None = None,
        wanted_BW: Tensor | None = None,
        fed_B: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, Q, E].

        Args:
            tokens_BQ: token ids.
            positions_BQ: places that they are rotated by.
            limits_BQ: each sees the keys [0, limit) of its row.
            store: where keys and values are kept; without it those of the pass are seen alone.
            slots_B: the rows' slots in the store; a slot occurs once.
            places_BQ: where in the slot a position's keys go; -1: nowhere.
            wanted_BW: which of the Q positions are wanted; then the states are [B, W, E].
            fed_B: leading positions of each row that are fed, where they are not all; the states
                of others mean nothing.
        """
        ...


def own_forward(model: Model) -> Forward | None:
    """The forward of a model, one for all who share its network; None where the device, the dtype
    or the architecture has none, and the stock module computes."""
    from decoders.models import fused, packed  # both build on this module

    network = model.network
    if network in _known:
        return _known[network]
    if not is_llama_shaped(network):
        return None
    found: Forward | None = None
    if model.device.type == "cuda" and fused.fits(network):
        found = fused.Fused(network)
    elif model.device.type == "cpu" and packed.fits(network):
        found = packed.Packed(network)
    if found is not None:
        _known[network] = found
    return found


def is_llama_shaped(network: Any) -> bool:
    return type(network).__name__ in _KINDS and network.config.hidden_act == "silu"


class Store:
    """Keys and values [S + 1, J, K, D] of all slots, one pair a layer. The last slot takes what
    rows without a sample write."""

    def __init__(self, slots: int) -> None:
        self.slots, self.places = slots, 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def widen(self, places: int, network: Forward) -> None:
        """Makes room; what is stored stays."""
        if places <= self.places:
            return
        for n in range(network.depth):
            fresh = tuple(network.room(self.slots + 1, places) for _ in range(2))
            keys, values = fresh
            if n < len(self.layers):
                for new, old in zip(fresh, self.layers[n], strict=True):
                    new[:, :, : self.places] = old
                self.layers[n] = keys, values
            else:
                self.layers.append((keys, values))
        self.places = places


class Product(NamedTuple):
    weight: Tensor
    bias: Tensor | None


class Layer(NamedTuple):
    """What a layer is made of."""

    norm: Tensor
    qkv: tuple[Product, ...]
    """Of queries, keys and values; or one of them all."""
    norms: tuple[Tensor, Tensor, float] | None
    """Weights of the queries' and the keys' norm over a head, and its epsilon (Qwen3)."""
    out: Product
    inner_norm: Tensor
    gate_up: tuple[Product, ...]
    down: Product


class Llama:
    """A network's parts, as both forwards read them.

    Args:
        network: of a kind that `is_llama_shaped`.
        joined: make one product of those that have the same input; the modules keep views of it.
    """

    def __init__(self, network: Any, joined: bool) -> None:
        base, attention = network.base_model, network.base_model.layers[0].self_attn
        self.embedding: Tensor = base.embed_tokens.weight
        self.final_norm: Tensor = base.norm.weight
        self.eps: float = base.norm.variance_epsilon
        self.heads: int = network.config.num_attention_heads
        self.key_heads: int = network.config.num_key_value_heads
        self.size: int = attention.head_dim
        self.scale: float = attention.scaling
        self.layers = [_layer(layer, joined) for layer in base.layers]
        self.in_float32 = isinstance(base.rotary_emb, Float32Rotary)
        places = torch.arange(
            network.config.max_position_embeddings, device=base.norm.weight.device
        )
        wide = torch.empty(0, dtype=torch.float32, device=places.device)
        cosines, sines = base.rotary_emb(wide, places[None])
        # Both halves of a head are rotated by the same angles.
        self.cosines: Tensor = cosines[0, :, : self.size // 2].contiguous()
        self.sines: Tensor = sines[0, :, : self.size // 2].contiguous()


def _layer(layer: Any, joined: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        q_norm, k_norm = attention.q_norm, attention.k_norm
        norms = (q_norm.weight, k_norm.weight, q_norm.variance_epsilon)
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up = (mlp.gate_proj, mlp.up_proj)
    return Layer(
        norm=layer.input_layernorm.weight,
        qkv=(_joined(*qkv),) if joined else tuple(map(_product, qkv)),
        norms=norms,
        out=_product(attention.o_proj),
        inner_norm=layer.post_attention_layernorm.weight,
        gate_up=(_joined(*gate_up),) if joined else tuple(map(_product, gate_up)),
        down=_product(mlp.down_proj),
    )


def _product(part: nn.Linear) -> Product:
    return Product(part.weight, part.bias)


def _joined(*parts: nn.Linear) -> Product:
    """The weights of several products of one input as one; the modules keep views of it."""
    weight = torch.cat([part.weight for part in parts])
    at = 0
    for part in parts:
        rows = part.weight.shape[0]
        part.weight = nn.Parameter(weight[at : at + rows], requires_grad=False)
        at += rows
    if parts[0].bias is None:
        return Product(weight, None)
    return Product(weight, torch.cat([part.bias for part in parts]))
