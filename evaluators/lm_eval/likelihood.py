"""Log-likelihoods as lm-eval asks for them: (context, continuation) to (nats, is greedy)."""

from collections.abc import Sequence
from typing import NamedTuple

from decoders import DecoderError
from decoders.likelihood import Item, Likelihood


class Pair(NamedTuple):
    """Token ids of a context and of what follows it."""

    context: Sequence[int]
    continuation: Sequence[int]


class Samples(NamedTuple):
    """How a masked model's likelihood is estimated."""

    mc_num: int
    batch: int
    cfg_scale: float


def scores(
    likelihood: Likelihood, pairs: Sequence[Pair], sids: Sequence[str], samples: Samples
) -> list[tuple[float, bool]]:
    """Of each pair log p(continuation | context), and whether each token of the continuation is
    the likeliest one. Under a masked model the value is an estimate, and nothing is called
    greedy: it has no order in which greedy decoding would write.

    A pair that is longer than the model's context keeps its end.

    Args:
        likelihood: The model's.
        pairs: What to score; an empty continuation is certain.
        sids: Seeds of the pairs' draws.
        samples: Read for a masked model only.

    Raises:
        DecoderError: A pair cannot be scored, or its value is not finite. lm-eval would take a NaN
            for the best choice, so none may reach it.
    """
    room = likelihood.model.max_length + likelihood.is_exact
    items, places = [], []
    for place, ((context, continuation), sid) in enumerate(zip(pairs, sids, strict=True)):
        if continuation:
            start = max(0, len(context) + len(continuation) - room)
            items.append(Item(sid, tuple(context[start:]), tuple(continuation)))
            places.append(place)
    values = likelihood.score(
        items, mc_num=samples.mc_num, batch=samples.batch, cfg_scale=samples.cfg_scale
    )
    found = [(0.0, likelihood.is_exact)] * len(pairs)
    for place, value in zip(places, values, strict=True):
        if value.error is not None:
            raise DecoderError(f"a likelihood cannot be had: {value.error}")
        found[place] = value.logprob, bool(value.is_greedy)
    return found
