"""The diffusion transformer of SEDD and MDLM: adaptive layer norms, rotary attention, GELU MLPs.

Parameters carry the published names, so that a checkpoint is its state dict. The published code
runs flash-attention in bfloat16; this one honours an additive mask, in any dtype.

Legend: B rows, Q positions fed, D hidden width, H heads, W head width, C conditioning width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from decoders.types import DecoderError

_FREQUENCIES = 256
_BASE = 10_000.0
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class DiTConfig:
    """Sizes, under the names that stock configs use."""

    vocab_size: int
    """With the mask token, which is the last."""
    hidden_size: int
    cond_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    time_conditioned: bool
    """False: the network always sees zero noise (MDLM's `time_conditioning: false`)."""
    tie_word_embeddings: bool = False


class DiT(nn.Module):
    """Predicts clean tokens from masked ones; `base_model` and `lm_head` as stock models."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        width, cond = config.hidden_size, config.cond_size
        self.vocab_embed = _Embedding(config.vocab_size, width)
        self.sigma_map = _NoiseEmbedding(cond)
        self.rotary_emb = Rotary(width // config.num_attention_heads)
        self.blocks = nn.ModuleList(
            _Block(width, config.num_attention_heads, cond, layer)
            for layer in range(config.num_hidden_layers)
        )
        self.output_layer = _Output(width, config.vocab_size, cond)

    @property
    def base_model(self) -> "DiT":
        return self

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        time_S: Tensor | None = None,
    ) -> BaseModelOutput:
        """Normalised last states [B, Q, D], which `lm_head` turns into log-scores.

        Args:
            input_ids: tokens [B, Q].
            attention_mask: additive, broadcastable to [B, H, Q, keys].
            position_ids: [B, Q]; counted from 0 if not given.
            past_key_values: a cache that stores and completes rotated keys and values.
            time_S: diffusion time of each row in (0, 1].

        Raises:
            DecoderError: the model is time-conditioned and no time is given.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        hidden_BQD = self.vocab_embed(input_ids)
        cond_BC = F.silu(self.sigma_map(self._sigma(input_ids, time_S)))
        cos_sin = self.rotary_emb(position_ids, hidden_BQD.dtype)
        for block in self.blocks:
            hidden_BQD = block(hidden_BQD, cond_BC, cos_sin, attention_mask, past_key_values)
        return BaseModelOutput(last_hidden_state=self.output_layer(hidden_BQD, cond_BC))

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Log-scores over the vocabulary. At a masked position their softmax is the predicted
        distribution of the clean token; the mask itself has none, so its column is -inf.

        SEDD's scores are this distribution up to a factor of the noise level (Lou et al. 2024,
        section 3.3), which a softmax does not see.
        """
        scores: Tensor = self.output_layer.linear(hidden)
        scores[..., -1] = -torch.inf
        return scores

    def _sigma(self, tokens: Tensor, time_S: Tensor | None) -> Tensor:
        """Total noise [B] of the log-linear schedule: at time t a share (1 - 1e-3) t is masked."""
        if not self.config.time_conditioned:
            return torch.zeros(tokens.shape[0], device=tokens.device)
        if time_S is None:
            raise DecoderError("this model is time-conditioned: its passes need the diffusion time")
        return -torch.log1p(-(1 - _LEAST_NOISE) * time_S.float())


class Rotary(nn.Module):
    """Rotary embedding whose frequencies belong to the published state."""

    inv_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("inv_freq", 1 / _BASE**exponents)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, 1, Q, W]; both halves of a head hold the same angles."""
        angles = positions[:, None, :, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x_BHQW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x_BHQW.chunk(2, -1)
    return x_BHQW * cos + torch.cat((-high, low), -1) * sin


class _Embedding(nn.Module):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(rows, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding[tokens]


class _NoiseEmbedding(nn.Module):
    """Cosines and sines of the noise level, computed in float32, through an MLP."""

    def __init__(self, cond: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, cond), nn.SiLU(), nn.Linear(cond, cond))

    def forward(self, sigma_B: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32, device=sigma_B.device) / half
        angles = sigma_B[:, None] * torch.exp(-math.log(_BASE) * steps)
        waves = torch.cat((angles.cos(), angles.sin()), -1)
        embedded: Tensor = self.mlp(waves.to(next(self.parameters()).dtype))
        return embedded


class _Norm(nn.Module):
    """Layer norm without a bias, normalised in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = F.layer_norm(x.float(), x.shape[-1:]).to(x.dtype) * self.weight
        return normed


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, cond: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.norm1 = _Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = _Norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Linear(cond, 6 * width)

    def forward(
        self,
        x_BQD: Tensor,
        cond_BC: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        bias: Tensor,
        cache: Any,
    ) -> Tensor:
        modulation: Tensor = self.adaLN_modulation(cond_BC)[:, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, -1)
        read: Tensor = self.norm1(x_BQD) * (1 + scale) + shift
        x_BQD = x_BQD + gate * self._attend(read, cos_sin, bias, cache)
        read = self.norm2(x_BQD) * (1 + mlp_scale) + mlp_shift
        mixed: Tensor = self.mlp(read)
        return x_BQD + mlp_gate * mixed

    def _attend(
        self, x_BQD: Tensor, cos_sin: tuple[Tensor, Tensor], bias: Tensor, cache: Any
    ) -> Tensor:
        split = self.attn_qkv(x_BQD).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.transpose(1, 3).unbind(2)
        query, key = _rotate(query, *cos_sin), _rotate(key, *cos_sin)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        output: Tensor = self.attn_out(mixed.transpose(1, 2).flatten(2))
        return output


class _Output(nn.Module):
    def __init__(self, width: int, vocabulary: int, cond: int) -> None:
        super().__init__()
        self.norm_final = _Norm(width)
        self.linear = nn.Linear(width, vocabulary)
        self.adaLN_modulation = nn.Linear(cond, 2 * width)

    def forward(self, x_BQD: Tensor, cond_BC: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond_BC)[:, None].chunk(2, -1)
        normed: Tensor = self.norm_final(x_BQD) * (1 + scale) + shift
        return normed
