"""The engine of the recipe `likelihood`: which of a question's choices is the likeliest."""

import math
import time
from collections import deque
from dataclasses import dataclass

from decoders.likelihood.batched import Item, Likelihood, Value
from decoders.models.base import Model
from decoders.recipes.likelihood import ByLikelihood
from decoders.slots import check_request
from decoders.types import DecoderError, Request, Result


@dataclass(frozen=True, slots=True)
class ChoiceRequest(Request):
    """A prompt with the answers to score after it."""

    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of each."""


@dataclass(frozen=True, slots=True)
class ChoiceResult(Result):
    """A scored request. `output_ids` are the likeliest choice, of equally likely ones the first;
    nothing where there is an error."""

    values: tuple[float, ...] = ()
    """Nats of each choice."""
    stderrs: tuple[float | None, ...] = ()
    """Of each value; None where one sample tells nothing."""
    error: str | None = None
    """Why there is no answer: a value that is no number is never the best nor the worst."""


class LikelihoodEngine:
    """Scores requests of the recipe `likelihood`; settings may differ from row to row.

    A step scores up to `slots` requests with the same settings, whose sequences are packed by
    length.

    Args:
        model: causal, or bidirectional with a mask id.
        slots: requests scored at once.
    """

    def __init__(self, model: Model, slots: int) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        self.model, self.slots = model, slots
        self._likelihood = Likelihood(model)
        self._waiting: deque[ChoiceRequest] = deque()

    @property
    def load(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        decoder = request.decoder
        if not isinstance(request, ChoiceRequest) or not request.choices:
            raise DecoderError(f"{decoder.recipe} needs a request with choices")
        decoder = _settings(request)
        check_request(self.model, request)
        self._likelihood.check_settings(decoder.mc_num, decoder.batch, decoder.cfg_scale)
        for item in _items(request):
            self._likelihood.check(item)
        self._waiting.append(request)

    def step(self) -> list[Result]:
        if not self._waiting:
            return []
        entered_s = time.perf_counter()
        decoder = _settings(self._waiting[0])
        taken: list[ChoiceRequest] = []
        while self._waiting and len(taken) < self.slots and self._waiting[0].decoder == decoder:
            taken.append(self._waiting.popleft())
        values = iter(
            self._likelihood.score(
                [item for request in taken for item in _items(request)],
                mc_num=decoder.mc_num,
                batch=decoder.batch,
                cfg_scale=decoder.cfg_scale,
            )
        )
        latency_s = time.perf_counter() - entered_s
        return [
            self._result(request, [next(values) for _ in request.choices], latency_s)
            for request in taken
        ]

    def _result(self, request: ChoiceRequest, values: list[Value], latency_s: float) -> Result:
        errors = [
            f"choice {number}: {value.error}"
            for number, value in enumerate(values)
            if value.error is not None
        ]
        best: tuple[int, ...] = ()
        if not errors:
            logprobs = [value.logprob for value in values]
            best = request.choices[logprobs.index(max(logprobs))]
        forwards = sum(value.forwards for value in values)
        return ChoiceResult(
            sid=request.sid,
            output_ids=best,
            nfe=forwards,
            nfe_ar=forwards if self._likelihood.is_exact else 0,
            token_forwards=sum(value.positions for value in values),
            decode_s=math.fsum(value.seconds for value in values),
            latency_s=latency_s,
            values=tuple(value.logprob for value in values),
            stderrs=tuple(value.stderr for value in values),
            error="; ".join(errors) or None,
        )


def _settings(request: ChoiceRequest) -> ByLikelihood:
    if not isinstance(request.decoder, ByLikelihood):
        raise DecoderError(f"{request.decoder.recipe} scores no choices; use the likelihood recipe")
    return request.decoder


def _items(request: ChoiceRequest) -> list[Item]:
    """The choices, all with the request's sid, so that their masks are drawn alike."""
    return [Item(request.sid, request.prompt_ids, choice) for choice in request.choices]
