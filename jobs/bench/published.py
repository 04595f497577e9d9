"""LLaDA's forward with keys and values as Fast-dLLM's first release does it, over stock modules.

Keys are kept before their rotation, and all of them are rotated in float32 whenever they are seen.
With the dual cache every layer finds the places of the block in a map of the row, puts the new keys
and values there, and asks the device where the block ends; with the prefix cache every layer joins
old and new. Source: NVlabs/Fast-dLLM, llada/model/modeling_llada.py, its first release.

Legend: L positions of the row, Q positions fed, K keys seen, J heads, D head size, E width, V
vocabulary; a batch of 1 leads every tensor.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders import Model
from decoders.models.llada import Float32Rotary

Kept = list[tuple[Tensor, Tensor]]
"""Of each layer the keys, not rotated, and the values, [J, K, D]."""


def is_published(model: Model) -> bool:
    """Whether the network is LLaDA's, whose modelling file this follows."""
    return isinstance(getattr(model.network.base_model, "rotary_emb", None), Float32Rotary)


class Published:
    """The forward over one row of `length` positions."""

    def __init__(self, model: Model, length: int) -> None:
        base: Any = model.network.base_model
        self._model, self._base = model, base
        places = torch.arange(length, device=model.device)[None]
        wide = torch.empty(0, device=model.device)
        cosines, sines = base.rotary_emb(wide, places)
        self._cosines_LD, self._sines_LD = cosines[0], sines[0]

    def __call__(
        self, tokens_Q: Tensor, kept: Kept | None = None, block_L: Tensor | None = None
    ) -> tuple[Tensor, Kept]:
        """Logits [Q, V] of what is fed, and what is kept after it.

        Args:
            tokens_Q: the whole row, its end after the keys in `kept`, or the block that `block_L`
                marks.
            kept: of an earlier call; written in place where there is a block.
            block_L: bool, the positions that are fed again.
        """
        states_QE = self._base.embed_tokens(tokens_Q)
        present: Kept = []
        for n, layer in enumerate(self._base.layers):
            past = None if kept is None else kept[n]
            mixed_QE, pair = self._attend(
                layer.self_attn, layer.input_layernorm(states_QE), past, block_L
            )
            present.append(pair)
            states_QE = states_QE + mixed_QE
            states_QE = states_QE + layer.mlp(layer.post_attention_layernorm(states_QE))
        return self._model.head(self._base.norm(states_QE)), present

    def _attend(
        self,
        attention: Any,
        states_QE: Tensor,
        past: tuple[Tensor, Tensor] | None,
        block_L: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (
            project(states_QE).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in projections
        )
        stop = None
        if past is not None and block_L is None:
            joined = zip(past, (keys, values), strict=True)
            keys, values = (torch.cat(both, dim=2) for both in joined)
        elif past is not None and block_L is not None:
            places = block_L.nonzero(as_tuple=True)[1]
            for old, new in zip(past, (keys, values), strict=True):
                old[:, :, places] = new
            keys, values = past
            stop = int(places.max()) + 1
        seen = keys.shape[2]
        stop = stop or seen
        rotated_q = self._rotated(queries, stop - queries.shape[2], stop)
        rotated_k = self._rotated(keys, 0, seen)
        mixed = F.scaled_dot_product_attention(
            rotated_q, rotated_k, values, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        return attention.o_proj(mixed.transpose(1, 2).flatten(2)), (keys, values)

    def _rotated(self, x: Tensor, start: int, stop: int) -> Tensor:
        wide = x.float()
        low, high = wide.chunk(2, -1)
        turned = torch.cat((-high, low), -1)
        cosines, sines = self._cosines_LD[start:stop], self._sines_LD[start:stop]
        rotated: Tensor = wide * cosines + turned * sines
        return rotated.to(x.dtype)
