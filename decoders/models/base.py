"""A model: a stock transformers network plus how it reads a canvas."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Visibility = Literal["bidirectional", "causal"]


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint. Positions are fed as they stand; visibility is the caller's 4D mask."""

    name: str
    digest: str
    family: str
    visibility: Visibility
    network: nn.Module
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
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def hidden(self, tokens_SL: Tensor, bias: Tensor) -> Tensor:
        """Last hidden states [S, L, D] of one full pass without a cache.

        Args:
            tokens_SL: token ids.
            bias: additive attention mask, broadcastable to [S, 1, L, L], in the model's dtype.
        """
        output: Any = self.network.model(  # type: ignore[operator]
            input_ids=tokens_SL, attention_mask=bias, use_cache=False
        )
        states: Tensor = output.last_hidden_state
        return states

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary of each hidden state."""
        logits: Tensor = self.network.lm_head(hidden)  # type: ignore[operator]
        return logits

    def cached_logits(
        self, tokens_BQ: Tensor, positions_BQ: Tensor, bias: Tensor, cache: Any
    ) -> Tensor:
        """Logits [B, V] of the last position, after a pass over Q positions whose keys and values
        `cache` stores and completes; `bias` is broadcastable to [B, 1, Q, keys]."""
        output: Any = self.network(
            input_ids=tokens_BQ,
            position_ids=positions_BQ,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def key_bias(valid_SL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [S, 1, 1, L]: 0 where a key may be seen, the least finite value elsewhere."""
    bias = torch.zeros(valid_SL.shape, dtype=dtype, device=valid_SL.device)
    return bias.masked_fill_(~valid_SL, torch.finfo(dtype).min)[:, None, None, :]
