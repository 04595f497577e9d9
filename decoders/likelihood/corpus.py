"""Log-likelihood of whole texts: exact under a causal model, a bound under a masked one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from decoders.likelihood.batched import Item, Likelihood, Value


@dataclass(frozen=True, slots=True)
class TextValue:
    """A text's log-likelihood."""

    logprob: float
    """Nats. Of a masked model the estimate of a lower bound. NaN where `error` says why."""
    tokens: int
    """Tokens scored: all of the text's."""
    stderr: float | None
    """Of the estimate; 0 where it is exact, None where one sample tells nothing."""
    forwards: int
    positions: int
    seconds: float
    error: str | None = None


def corpus_likelihood(
    likelihood: Likelihood,
    texts: Sequence[Sequence[int]],
    sids: Sequence[str],
    prefix: Sequence[int] = (),
    *,
    mc_num: int = 128,
    batch: int = 8,
    context: int = 1,
) -> list[TextValue]:
    """The log-likelihood of each text on its own, in their order.

    A text longer than the model's context is read in windows that follow one another, as lm-eval's
    `loglikelihood_rolling` does (`get_rolling_token_windows`): every token is scored once. A
    window but the first sees `context` tokens or more before those that it scores. Under a masked
    model a window sees exactly these, so that a text's value is the sum of bounds and a bound.

    Args:
        likelihood: of the model.
        texts: token ids without special tokens.
        sids: identity of each text, which seeds its masks.
        prefix: what comes before a text and is not scored, usually BOS or else EOS. A causal
            model needs one token; a masked one may have none.
        mc_num, batch: as in `Likelihood.score`.
        context: tokens of overlap, at least 1 and less than the model's context.

    Raises:
        ValueError: `context` is out of range, or the prefix does not fit the model.
        DecoderError: `batch` does not divide `mc_num`.
    """
    most, causal = likelihood.model.max_length, likelihood.is_exact
    if causal and len(prefix) != 1:
        raise ValueError(f"a causal model needs a prefix of one token, got {len(prefix)}")
    if len(prefix) >= most or not 1 <= context < most:
        raise ValueError(
            f"prefix and context must leave room in {most} positions, got {len(prefix)} and "
            f"{context}"
        )
    items: list[Item] = []
    owners: list[int] = []
    for number, (text, sid) in enumerate(zip(texts, sids, strict=True)):
        windows = rolling(text, prefix, most, context, causal)
        for window, (before, scored) in enumerate(windows):
            items.append(Item(f"{sid}/{window}", before, scored))
            owners.append(number)
    values = likelihood.score(items, mc_num=mc_num, batch=batch)
    own: list[list[Value]] = [[] for _ in texts]
    for number, value in zip(owners, values, strict=True):
        own[number].append(value)
    return [_whole(len(text), parts) for text, parts in zip(texts, own, strict=True)]


def rolling(
    text: Sequence[int], prefix: Sequence[int], most: int, context: int, causal: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Windows of a text: (tokens before, tokens scored), each token scored once.

    `most` positions are fed at most; a causal model is not fed the last token. Equal to lm-eval's
    windows for causal models and a prefix of one token.
    """
    tokens = tuple(text)
    if not tokens:
        return []
    first = min(len(tokens), most - len(prefix) + causal)
    windows = [(tuple(prefix), tokens[:first])]
    done, width = first, most + causal
    while done < len(tokens):
        end = min(done + width - context, len(tokens))
        windows.append((tokens[max(0, end - width) : done], tokens[done:end]))
        done = end
    return windows


def _whole(tokens: int, parts: Sequence[Value]) -> TextValue:
    errors = [part.error for part in parts if part.error is not None]
    stderrs = [part.stderr for part in parts]
    known = [stderr for stderr in stderrs if stderr is not None]
    return TextValue(
        logprob=math.nan if errors else math.fsum(part.logprob for part in parts),
        tokens=tokens,
        stderr=math.hypot(*known) if len(known) == len(stderrs) else None,
        forwards=sum(part.forwards for part in parts),
        positions=sum(part.positions for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
        error=errors[0] if errors else None,
    )
