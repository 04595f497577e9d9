"""The Triton kernels' work in plain torch, so that the path of a GPU can be walked without one.

Legend: B rows, N positions of a pass, Q queries of a row, H query heads, J key heads, S slots,
K places, D head size, V vocabulary.
"""

import sys
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor


class Peaks(NamedTuple):
    token: Tensor
    top: Tensor
    second: Tensor
    rest: Tensor
    negentropy: Tensor

    @property
    def probability(self) -> Tensor:
        return 1 / (1 + self.rest)

    def chance(self, logits: Tensor, tokens: Tensor) -> Tensor:
        own = logits.gather(-1, tokens[..., None]).squeeze(-1).double()
        return (own - self.top).exp() / (1 + self.rest)


def peaks(logits: Tensor, entropy: bool = False, eps: float = 0.0) -> Peaks:
    assert logits.is_contiguous()
    best, tokens = logits.double().topk(2, dim=-1)
    terms = (logits.double() - best[..., :1]).exp().scatter(-1, tokens[..., :1], 0.0)
    p = logits.double().softmax(-1)
    log = torch.log(p + eps) if eps else torch.where(p > 0, p.log(), 0.0)
    return Peaks(
        logits.argmax(-1),
        best[..., 0].float(),
        best[..., 1].float(),
        terms.sum(-1),
        (p * log).sum(-1).float(),
    )


def add_norm(states_NE: Tensor, change_NE: Tensor | None, weight_E: Tensor, eps: float) -> Tensor:
    if change_NE is not None:
        states_NE += change_NE
    return F.rms_norm(states_NE, weight_E.shape, weight_E, eps)


def gated(gate_up_NE: Tensor) -> Tensor:
    gate, up = gate_up_NE.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate(
    qkv_NE: Tensor,
    heads: int,
    positions_N: Tensor,
    cosines_KD: Tensor,
    sines_KD: Tensor,
    in_float32: bool,
    norms: tuple[Tensor, Tensor, float] | None,
    keys: Tensor,
    values: Tensor,
    slots_N: Tensor,
    places_N: Tensor,
) -> None:
    key_heads, size = keys.shape[1], keys.shape[3]
    qkv_NHD = qkv_NE.view(len(qkv_NE), -1, size)
    q, k, v = qkv_NHD.split([heads, key_heads, key_heads], dim=1)
    if norms is not None:
        q_norm, k_norm, eps = norms
        q, k = F.rms_norm(q, (size,), q_norm, eps), F.rms_norm(k, (size,), k_norm, eps)
    cosines, sines = (table[positions_N.long()][:, None] for table in (cosines_KD, sines_KD))

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cosines - b * sines, b * cosines + a * sines], dim=-1)

    k = turned(k)
    qkv_NHD[:, :heads] = turned(q)
    real_N = places_N >= 0
    where = slots_N[real_N], slice(None), places_N[real_N].long()
    keys[where], values[where] = k[real_N], v[real_N]


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    slots_B: Tensor,
    limits_BQ: Tensor,
    scale: float,
) -> Tensor:
    assert limits_BQ.is_contiguous() and slots_B.is_contiguous()
    seen_BQK = torch.arange(keys.shape[2]) < limits_BQ[..., None]
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys[slots_B],
        values[slots_B],
        seen_BQK[:, None],
        scale=scale,
        enable_gqa=True,
    )
    blind = (limits_BQ == 0)[:, None, :, None]
    return mixed.masked_fill(blind, 0.0).transpose(1, 2)


_MODULES: dict[str, dict[str, Any]] = {
    "head": {"peaks": peaks},
    "layers": {"add_norm": add_norm, "gated": gated, "rotate": rotate},
    "attention": {"attend": attend},
}


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts these functions where the kernels are looked for."""
    for name, functions in _MODULES.items():
        module = ModuleType(f"decoders.kernels.{name}")
        module.__dict__.update(functions)
        patch.setitem(sys.modules, module.__name__, module)
