"""The engine of the recipe `likelihood`: which of a question's choices is the likeliest, and how
likely a whole text is."""

import math
import time
from collections import deque
from dataclasses import dataclass

from decoders.likelihood.batched import Item, Likelihood, Value
from decoders.likelihood.corpus import TextValue, corpus_likelihood
from decoders.models.base import Model
from decoders.recipes.likelihood import ByLikelihood
from decoders.slots import Observer, check_request
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


@dataclass(frozen=True, slots=True)
class TextRequest(Request):
    """A text to score as a whole. `prompt_ids` is the one token that comes before it, BOS or else
    EOS, which is not scored."""

    text: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextResult(Result):
    """A scored text; `output_ids` are empty."""

    logprob: float = math.nan
    """Nats; of a masked model the estimate of a lower bound."""
    tokens: int = 0
    stderr: float | None = None
    """Of the estimate, nats; 0 where it is exact, None where one sample tells nothing."""
    mc_num: int | None = None
    """Monte Carlo samples of the estimate; None where the value is exact."""
    error: str | None = None
    """Why there is no value."""


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
        self._waiting: deque[ChoiceRequest | TextRequest] = deque()

    @property
    def load(self) -> int:
        return len(self._waiting)

    @property
    def observer(self) -> Observer | None:
        return self._likelihood.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._likelihood.observer = observer

    def submit(self, request: Request) -> None:
        if isinstance(request, TextRequest):
            self._check_text(request)
        elif not isinstance(request, ChoiceRequest) or not request.choices:
            raise DecoderError(f"{request.decoder.recipe} needs a request with choices or a text")
        decoder = _settings(request)
        check_request(self.model, request)
        self._likelihood.check_settings(decoder.mc_num, decoder.batch, decoder.cfg_scale)
        if isinstance(request, ChoiceRequest):
            for item in _items(request):
                self._likelihood.check(item)
        self._waiting.append(request)

    def _check_text(self, request: TextRequest) -> None:
        """Refuses what would score to nonsense; a text may be longer than the context."""
        decoder, text = _settings(request), request.text
        if not text:
            raise DecoderError("the text has no token")
        if len(request.prompt_ids) != 1:
            raise DecoderError(
                f"a text comes after one token, BOS or EOS; got {len(request.prompt_ids)}"
            )
        if decoder.cfg_scale:
            raise DecoderError("cfg_scale needs a prompt, a whole text has none")
        room = self.model.max_length - 1
        for low in range(0, len(text), room):
            self._likelihood.check(Item("", request.prompt_ids, text[low : low + room]))

    def step(self) -> list[Result]:
        if not self._waiting:
            return []
        entered_s = time.perf_counter()
        kind = _kind(self._waiting[0])
        taken: list[ChoiceRequest | TextRequest] = []
        while self._waiting and len(taken) < self.slots and _kind(self._waiting[0]) == kind:
            taken.append(self._waiting.popleft())
        decoder = _settings(taken[0])
        choices = [request for request in taken if isinstance(request, ChoiceRequest)]
        texts = [request for request in taken if isinstance(request, TextRequest)]
        values = iter(
            self._likelihood.score(
                [item for request in choices for item in _items(request)],
                mc_num=decoder.mc_num,
                batch=decoder.batch,
                cfg_scale=decoder.cfg_scale,
            )
        )
        wholes = corpus_likelihood(
            self._likelihood,
            [request.text for request in texts],
            [request.sid for request in texts],
            prefix=taken[0].prompt_ids if texts else (0,),
            mc_num=decoder.mc_num,
            batch=decoder.batch,
        )
        latency_s = time.perf_counter() - entered_s
        return [
            *(self._result(r, [next(values) for _ in r.choices], latency_s) for r in choices),
            *(self._text(*pair, latency_s) for pair in zip(texts, wholes, strict=True)),
        ]

    def _text(self, request: TextRequest, value: TextValue, latency_s: float) -> Result:
        exact = self._likelihood.is_exact
        return TextResult(
            sid=request.sid,
            output_ids=(),
            nfe=value.forwards,
            nfe_ar=value.forwards if exact else 0,
            token_forwards=value.positions,
            decode_s=value.seconds,
            latency_s=latency_s,
            logprob=value.logprob,
            tokens=value.tokens,
            stderr=value.stderr,
            mc_num=None if exact else _settings(request).mc_num,
            error=value.error,
        )

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


def _kind(request: Request) -> tuple[object, ...]:
    """Equal for requests that can be scored together."""
    before = request.prompt_ids if isinstance(request, TextRequest) else None
    return request.decoder, type(request), before


def _settings(request: Request) -> ByLikelihood:
    if not isinstance(request.decoder, ByLikelihood):
        raise DecoderError(f"{request.decoder.recipe} scores no choices; use the likelihood recipe")
    return request.decoder


def _items(request: ChoiceRequest) -> list[Item]:
    """The choices, all with the request's sid, so that their masks are drawn alike."""
    return [Item(request.sid, request.prompt_ids, choice) for choice in request.choices]
