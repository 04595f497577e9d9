"""The forward of Llama-shaped networks on a GPU: the stock module's weights and mathematics, in few
kernels.

Queries, keys and values come from one product and gate and up from another; the stock module keeps
its parameters, which become views of the joined weights, so nothing is held twice. Attention reads
keys and values where they are kept.

Legend: S slots, B rows of a pass, Q positions fed, N = B * Q, W positions whose states are wanted,
J key heads, K places, D head size, E width.
"""

from importlib.util import find_spec
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.models.forward import Llama, Store
from decoders.models.split import Summed, summed


def fits(network: Any) -> bool:
    """Whether the kernels can compute a Llama-shaped network."""
    size: int = network.base_model.layers[0].self_attn.head_dim
    return find_spec("triton") is not None and 16 <= size <= 256 and size & (size - 1) == 0


class Fused:
    """A `decoders.models.forward.Forward`. Building it joins the weights of the network."""

    is_fixed: ClassVar[bool] = True

    def __init__(self, network: Any) -> None:
        self._llama = Llama(network, joined=True)
        self._is_split = isinstance(network.base_model.layers[0].self_attn.o_proj, Summed)

    @property
    def depth(self) -> int:
        return len(self._llama.layers)

    def room(self, slots: int, places: int) -> Tensor:
        llama = self._llama
        return llama.embedding.new_zeros(slots, llama.key_heads, places, llama.size)

    def __call__(
        self,
        tokens_BQ: Tensor,
        positions_BQ: Tensor,
        limits_BQ: Tensor,
        store: Store | None = None,
        slots_B: Tensor | None = None,
        places_BQ: Tensor | None = None,
        wanted_BW: Tensor | None = None,
        fed_B: Tensor | None = None,
    ) -> Tensor:
        from decoders.kernels.attention import attend
        from decoders.kernels.layers import add_norm, gated, rotate

        llama = self._llama
        rows, fed = tokens_BQ.shape
        device = tokens_BQ.device
        if store is None or slots_B is None or places_BQ is None:
            shape = (rows, llama.key_heads, fed, llama.size)
            new = llama.embedding.new_empty
            layers = [(new(shape), new(shape))] * self.depth
            slots_B = torch.arange(rows, device=device)
            places_BQ = torch.arange(fed, device=device).expand(rows, -1)
        else:
            layers = store.layers
        # The kernels count along memory: a column of a table would be misread.
        slots_B, limits_BQ = slots_B.contiguous(), limits_BQ.int().contiguous()
        positions_N = positions_BQ.reshape(-1).int().contiguous()
        places_N = places_BQ.reshape(-1).int().contiguous()
        slots_N = slots_B.repeat_interleave(fed)
        states_NE = F.embedding(tokens_BQ, llama.embedding).flatten(0, 1)
        change_NE: Tensor | None = None
        for n, (layer, (keys, values)) in enumerate(zip(llama.layers, layers, strict=True)):
            normed_NE = add_norm(states_NE, change_NE, layer.norm, llama.eps)
            qkv_NE = F.linear(normed_NE, *layer.qkv[0])
            rotate(
                qkv_NE,
                llama.heads,
                positions_N,
                llama.cosines,
                llama.sines,
                llama.in_float32,
                layer.norms,
                keys,
                values,
                slots_N,
                places_N,
            )
            queries = qkv_NE.view(rows, fed, -1, llama.size)[:, :, : llama.heads]
            if wanted_BW is not None and n == self.depth - 1:
                # Nothing after the last layer's keys is read but the states that are wanted.
                row_B1 = torch.arange(rows, device=device)[:, None]
                queries, limits_BQ = queries[row_B1, wanted_BW], limits_BQ[row_B1, wanted_BW]
                states_NE = states_NE.view(rows, fed, -1)[row_B1, wanted_BW].flatten(0, 1)
            mixed = attend(queries, keys, values, slots_B, limits_BQ, llama.scale)
            change_NE = self._whole(F.linear(mixed.flatten(2).flatten(0, 1), *layer.out))
            normed_NE = add_norm(states_NE, change_NE, layer.inner_norm, llama.eps)
            change_NE = self._whole(
                F.linear(gated(F.linear(normed_NE, *layer.gate_up[0])), *layer.down)
            )
        last_NE = add_norm(states_NE, change_NE, llama.final_norm, llama.eps)
        return last_NE.view(rows, -1, last_NE.shape[1])

    def _whole(self, part_NE: Tensor) -> Tensor:
        return summed(part_NE) if self._is_split else part_NE
