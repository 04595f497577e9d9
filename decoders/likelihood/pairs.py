"""A context and what follows it, as texts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from decoders.models.base import Model, attention_bias
from decoders.types import DecoderError


def encode_pair(
    encode: Callable[[str], Sequence[int]], context: str, continuation: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the context, and those that the continuation adds to them.

    As lm-eval does: white space at the context's end belongs to the continuation, the two are
    tokenised together, and as many tokens as the context alone has are taken off the front.

    Args:
        encode: text to token ids; what it puts before a text is fine, it puts nothing behind.

    Raises:
        DecoderError: the continuation adds no token.
    """
    bare = context.rstrip()
    whole = encode(context + continuation)
    before = tuple(encode(bare))
    after = tuple(whole[len(before) :])
    if not after:
        raise DecoderError(f"{continuation!r} adds no token to its context")
    return before, after


def causal_likelihood(model: Model, tokenizer: Any) -> Callable[[str, str], tuple[float, int]]:
    """A function of (prefix, continuation) to the continuation's summed natural log-likelihood and
    its number of tokens.

    The two are tokenised together, and the tokens past those of the prefix alone are scored, as
    lm-eval does. A text longer than the context keeps its end.

    Raises:
        DecoderError: the model is not causal; or, when called, the prefix has no token.
    """
    if model.visibility != "causal":
        raise DecoderError(f"likelihood of a text needs a causal model, {model.name} is not one")

    @torch.inference_mode()
    def likelihood(prefix: str, continuation: str) -> tuple[float, int]:
        ids = tokenizer.encode(prefix + continuation, add_special_tokens=False)
        start = len(tokenizer.encode(prefix, add_special_tokens=False))
        if not start:
            raise DecoderError("a likelihood needs a prefix of at least one token")
        scored = len(ids) - start
        if scored < 1:
            return 0.0, 0
        ids = ids[-model.max_length :]
        scored = min(scored, len(ids) - 1)
        tokens_1L = torch.tensor([ids], device=model.device)
        places_L = torch.arange(len(ids), device=model.device)
        causal_1LL = (places_L[:, None] >= places_L)[None]
        bias = attention_bias(causal_1LL, model.dtype)
        logits_NV = model.head(model.hidden(tokens_1L, bias)[0, -scored - 1 : -1]).float()
        picked_N = logits_NV.log_softmax(-1).gather(1, tokens_1L[0, -scored:, None])
        return float(picked_N.double().sum()), scored

    return likelihood
