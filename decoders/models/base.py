"""A model: a network plus how it reads a canvas."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Visibility = Literal["bidirectional", "causal", "block-causal"]


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint. Positions are fed as they stand; visibility is the caller's 4D mask."""

    name: str
    digest: str
    family: str
    visibility: Visibility
    network: Any
    """A stock `...ForCausalLM`, or a module with its `base_model`, `lm_head` and `config`, in eval
    mode."""
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
    shift: Literal[0, 1] = 0
    """The logits of row p - shift predict position p of a diffusion model's canvas. A causal model
    has 0: its rows predict the token after them, as ever."""
    block: int | None = None
    """Positions a block of a block-causal model; blocks are counted from position 0."""
    time_conditioned: bool = False
    """Whether `hidden` needs the diffusion time."""

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

    def hidden(self, tokens_SL: Tensor, bias: Tensor, time_S: Tensor | None = None) -> Tensor:
        """Last hidden states [S, L, D] of one full pass without a cache.

        Args:
            tokens_SL: token ids.
            bias: additive attention mask, broadcastable to [S, 1, L, L], in the model's dtype.
            time_S: diffusion time of each row in (0, 1], 1 where all is noise. Only a
                time-conditioned model reads it, and must have it.
        """
        timed = {"time_S": time_S} if self.time_conditioned else {}
        output: Any = self.network.base_model(
            input_ids=tokens_SL, attention_mask=bias, use_cache=False, **timed
        )
        states: Tensor = output.last_hidden_state
        return states

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary of each hidden state."""
        logits: Tensor = self.network.lm_head(hidden)
        return logits

    def cached_hidden(
        self,
        tokens_BQ: Tensor,
        positions_BQ: Tensor,
        bias: Tensor,
        cache: Any,
        time_B: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, Q, D] of a pass whose keys and values `cache` stores and
        completes; `bias` is broadcastable to [B, 1, Q, keys]. `time_B` as in `hidden`."""
        timed = {"time_S": time_B} if self.time_conditioned else {}
        output: Any = self.network.base_model(
            input_ids=tokens_BQ,
            position_ids=positions_BQ,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=True,
            **timed,
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
