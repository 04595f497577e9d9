"""A model: a stock transformers network plus how it reads a canvas."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Visibility = Literal["bidirectional", "causal"]


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint. Positions are fed as they stand; visibility is the caller's 4D mask."""

    name: str
    digest: str
    family: str
    visibility: Visibility
    network: Any
    """A stock `...ForCausalLM` in eval mode."""
    mask_id: int | None
    """What fills an unwritten position; None for causal models."""
    eos_id: int
    eot_id: int | None
    """End of turn, where the family tells it from EOS."""
    stop_ids: frozenset[int]
    """Tokens that end an answer."""
    vocabulary: int
    max_length: int
    """Most positions that the model was built for."""

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.network.parameters()).dtype
        return dtype

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def hidden(self, tokens_SL: Tensor, bias: Tensor) -> Tensor:
        """Last hidden states [S, L, D] of one full pass without a cache.

        Args:
            tokens_SL: token ids.
            bias: additive attention mask, broadcastable to [S, 1, L, L], in the model's dtype.
        """
        output: Any = self.network.model(input_ids=tokens_SL, attention_mask=bias, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary of each hidden state."""
        logits: Tensor = self.network.lm_head(hidden)
        return logits

    def cached_hidden(
        self, tokens_BQ: Tensor, positions_BQ: Tensor, bias: Tensor, cache: Any
    ) -> Tensor:
        """Last hidden states [B, Q, D] of a pass whose keys and values `cache` stores and
        completes; `bias` is broadcastable to [B, 1, Q, keys]."""
        output: Any = self.network.model(
            input_ids=tokens_BQ,
            position_ids=positions_BQ,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state
        return states


def attention_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask of the model's dtype: 0 where a key is seen, the least finite value elsewhere.

    Args:
        seen: bool [S, L], keys that every query of a row sees, or [S, Q, K].

    Returns:
        [S, 1, 1, L] or [S, 1, Q, K].
    """
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    bias.masked_fill_(~seen, torch.finfo(dtype).min)
    return bias[:, None, None] if bias.ndim == 2 else bias[:, None]
