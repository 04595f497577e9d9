"""The transformer: transformers' own Llama, attending within packed rows or over blocks."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from decoders import DecoderError, find_checkpoint, load_model
from jobs.train.config import Shape, TrainError
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


def block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    blocks: BlockMask | Tensor,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, H, N, D] where `blocks` allows it: a sparse mask, compiled, or a dense one
    of bools that broadcasts to [B, H, N, N]."""
    if isinstance(blocks, BlockMask):
        half = (x.to(torch.bfloat16) for x in (query, key, value))
        flex: Callable[..., Tensor] = flex_attention
        out = flex(*half, block_mask=blocks, scale=scaling)
    else:
        q, k = query.to(value.dtype), key.to(value.dtype)
        out = F.scaled_dot_product_attention(q, k, value, attn_mask=blocks, scale=scaling)
    return out.transpose(1, 2), None


AttentionInterface.register("unmask_packed", packed_attention)
AttentionInterface.register("unmask_blocks", block_attention)


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


def build_model(shape: Shape, seed: int, attention: str = "unmask_packed") -> Any:
    """A freshly initialised model on the CPU; the global random state is left as it was."""
    config = llama_config(shape)
    config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    # The padding row of the embedding is the end-of-text token, which is learnt like any other.
    model.model.embed_tokens.padding_idx = None
    return model


def start_from(model: Any, source: str) -> None:
    """Copies the weights of a checkpoint of the same shape: a bundled name, a folder, a hub name.

    Raises:
        TrainError: there is none, or its shape is another.
    """
    try:
        weights = load_model(find_checkpoint(source)).network.state_dict()
        model.load_state_dict(weights)
    except (DecoderError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrainError(f"--init {source} does not fit: {reason[:200]}") from None


def hidden_states(
    model: Any, tokens_BN: Tensor, positions_BN: Tensor, attention: dict[str, Any]
) -> Tensor:
    """Final states [B, N, hidden]; `attention` is what the model's attention function asks for."""
    out = model.model(input_ids=tokens_BN, position_ids=positions_BN, use_cache=False, **attention)
    states: Tensor = out.last_hidden_state
    return states


def batch_loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss to minimise, and its sum by kind before division by the mass."""
    states = hidden_states(model, batch.inputs[None], batch.positions[None], batch.attention)[0]
    logits = F.linear(states[batch.select], model.lm_head.weight).float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights
    by_kind = torch.zeros_like(batch.kind_mass).index_add(0, batch.kinds, losses.detach())
    return losses.sum() / batch.kind_mass.sum().clamp(min=1.0), by_kind
