"""The transformer: transformers' own Llama, attending within packed rows."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from jobs.train.config import Shape
from jobs.train.corpus import MAX_TOKENS
from jobs.train.objectives import Batch
from jobs.train.tokenizer import EOS_ID


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    boundaries: Tensor,
    causal: bool,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of [1, H, N, D] within the rows that `boundaries` [R+1] cut N into.

    On a GPU one variable-length flash kernel in bfloat16; elsewhere row by row, in the
    inputs' own dtype.
    """
    if query.is_cuda:
        q, k, v = (x[0].transpose(0, 1).to(torch.bfloat16) for x in (query, key, value))
        window = (-1, 0) if causal else (-1, -1)
        longest = MAX_TOKENS
        out = varlen_attn(
            q, k, v, boundaries, boundaries, longest, longest, scale=scaling, window_size=window
        )
        assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for
        return out.unsqueeze(0), None
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=causal, scale=scaling
        )
        for a, b in pairwise(boundaries.tolist())
        if b > a
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register("unmask_packed", packed_attention)


def llama_config(shape: Shape) -> Any:
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.rms_norm_eps,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
        use_cache=False,
    )


def build_model(shape: Shape, seed: int) -> Any:
    """A freshly initialised model on the CPU; the global random state is left as it was."""
    config = llama_config(shape)
    config._attn_implementation = "unmask_packed"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    # The padding row of the embedding is the end-of-text token, which is learnt like any other.
    model.model.embed_tokens.padding_idx = None
    return model


def hidden_states(
    model: Any, tokens: Tensor, positions: Tensor, boundaries: Tensor, causal: bool
) -> Tensor:
    """Final states [N, hidden] of packed rows; all but `causal` are [N] or [R+1]."""
    out = model.model(
        input_ids=tokens[None],
        position_ids=positions[None],
        boundaries=boundaries,
        causal=causal,
        use_cache=False,
    )
    states: Tensor = out.last_hidden_state[0]
    return states


def batch_loss(model: Any, batch: Batch, causal: bool) -> tuple[Tensor, Tensor]:
    """The loss to minimise, and its sum by kind before division by the mass."""
    states = hidden_states(model, batch.inputs, batch.positions, batch.boundaries, causal)
    logits = F.linear(states[batch.select], model.lm_head.weight).float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights
    by_kind = torch.zeros_like(batch.kind_mass).index_add(0, batch.kinds, losses.detach())
    return losses.sum() / batch.kind_mass.sum().clamp(min=1.0), by_kind
