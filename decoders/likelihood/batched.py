"""Log-likelihoods of many answers in few forwards.

Legend: B rows of a forward, L positions, N positions read, P values picked, D width, V vocabulary.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from decoders.canvas import bucket
from decoders.graphs import sent
from decoders.likelihood.reference import draw_masks
from decoders.models.base import Model, attention_bias
from decoders.models.forward import own_forward
from decoders.noise import seed_of
from decoders.slots import Observer, Ran, Span, Timing
from decoders.types import DecoderError

POSITIONS = 16_384
"""Padded positions of one forward: enough to fill a GPU, few enough for its memory."""
HEAD_ROWS = 1024
"""Positions whose logits are held at once: 0.5 GB in float32 at 126,464 tokens."""


class Item(NamedTuple):
    """An answer to score after a prompt."""

    sid: str
    """Seeds the draws; items of one sid that feed the same tokens share a forward, as the choices
    of a question do."""
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What an item came to, and what it cost."""

    logprob: float
    """Nats; NaN where `error` says why."""
    stderr: float | None = None
    """Of a Monte Carlo estimate: over its batches, or, if there is one alone, over its samples,
    which overstates the error of stratified draws. 0 where nothing was drawn, None where one
    sample tells nothing."""
    is_greedy: bool | None = None
    """Whether every answer token is the likeliest; None for masked models."""
    tokens: tuple[float, ...] | None = None
    """Nats of each answer token, where asked for; None for masked models."""
    forwards: int = 0
    """Sequences pushed through the model, however they were batched; a guided pair is one. What
    several items share is charged to the first of them."""
    positions: int = 0
    """Their positions, without padding."""
    seconds: float = 0.0
    """Share of the forwards' time, device-synchronised."""
    error: str | None = None


@dataclass(slots=True)
class _Row:
    """One sequence to feed."""

    tokens: list[int]
    prompt: int
    time: float
    """Share of the answer that is masked, in (0, 1]."""
    read: list[int]
    """Positions whose logits are wanted."""
    picks: list[tuple[int, list[int]]]
    """Item number and the tokens that it picks at `read`."""


@dataclass(slots=True)
class _Tally:
    """What has been found out about an item so far."""

    samples: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    is_greedy: bool = False
    forwards: int = 0
    positions: int = 0
    shares: list[tuple[Timing, float]] = field(default_factory=list)


class Likelihood:
    """Scores answers under one model: exactly if it is causal, by LLaDA's estimate if it is masked
    and bidirectional.

    A value belongs to its item alone: the draws come from the item's sid, so neighbours, batches
    and order change nothing but the rounding of the forward.

    Args:
        model: causal, or bidirectional with a mask id.
        positions: most padded positions of a forward; a longer row goes alone.

    Raises:
        DecoderError: the model is of neither kind.
    """

    def __init__(self, model: Model, positions: int = POSITIONS) -> None:
        if model.visibility == "block-causal":
            raise DecoderError(
                f"likelihood needs a causal or a bidirectional model; {model.name} is "
                "block-causal: it reads finished blocks otherwise than the one being written"
            )
        if model.visibility == "bidirectional" and model.mask_id is None:
            raise DecoderError(f"likelihood needs a mask id, {model.name} has none")
        if positions < 1:
            raise DecoderError(f"positions must be at least 1, got {positions}")
        self.model, self._limit = model, positions
        self._network = own_forward(model)
        self.observer: Observer | None = None

    @property
    def is_exact(self) -> bool:
        """Whether values are exact; else they are estimates of a lower bound."""
        return self.model.visibility == "causal"

    def check(self, item: Item) -> None:
        """Refuses what would score to nonsense.

        Raises:
            DecoderError: there is no answer, or no prompt before a causal one; a token is the mask
                or outside the vocabulary; or both together do not fit the model's context.
        """
        model, tokens = self.model, (*item.prompt, *item.answer)
        if not item.answer:
            raise DecoderError("a likelihood needs an answer of at least one token")
        if self.is_exact and not item.prompt:
            raise DecoderError("an answer's likelihood needs a prompt of at least one token")
        if model.mask_id is not None and model.mask_id in tokens:
            raise DecoderError(f"prompt or answer holds the mask token (id {model.mask_id})")
        if min(tokens) < 0 or max(tokens) >= model.vocabulary:
            raise DecoderError(
                f"prompt or answer holds a token outside the {model.vocabulary} of the model"
            )
        fed = len(tokens) - self.is_exact
        if fed > model.max_length:
            raise DecoderError(
                f"prompt and answer take {len(item.prompt)} + {len(item.answer)} tokens, "
                f"{model.name} has {model.max_length} positions"
            )

    @torch.inference_mode()
    def score(
        self,
        items: Sequence[Item],
        *,
        mc_num: int = 128,
        batch: int = 8,
        cfg_scale: float = 0.0,
        per_token: bool = False,
    ) -> list[Value]:
        """The items' values, in their order. What is wrong with one item is its `error`; the others
        go on.

        Args:
            items: in any order; they are fed by length.
            mc_num: Monte Carlo samples of an item under a masked model. An answer of one token
                needs but one, whatever stands here.
            batch: samples that share a stratified draw; divides `mc_num`.
            cfg_scale: classifier-free guidance against a masked prompt; 0: none.
            per_token: keep every token's value (causal models).

        Raises:
            DecoderError: the settings do not fit each other or the model.
        """
        self.check_settings(mc_num, batch, cfg_scale)
        tallies = [_Tally() for _ in items]
        errors: dict[int, str] = {}
        for number, item in enumerate(items):
            try:
                self.check(item)
            except DecoderError as error:
                errors[number] = str(error)
        valid = [number for number in range(len(items)) if number not in errors]
        rows = self._rows(items, valid, mc_num, batch)
        for chunk in _packed(rows, self._limit):
            self._forward(chunk, tallies, cfg_scale)
        rounds = mc_num // batch
        return [
            Value(math.nan, error=errors[number])
            if number in errors
            else self._value(tally, len(items[number].answer), rounds, per_token)
            for number, tally in enumerate(tallies)
        ]

    def check_settings(self, mc_num: int, batch: int, cfg_scale: float) -> None:
        """Refuses settings under which nothing can be scored.

        Raises:
            DecoderError: `batch` does not divide `mc_num`, or there is no prompt to mask.
        """
        if mc_num < 1 or batch < 1 or mc_num % batch:
            raise DecoderError(f"mc_num must be a multiple of the batch, got {mc_num} and {batch}")
        if not 0 <= cfg_scale < math.inf:
            raise DecoderError(f"cfg_scale must be >= 0, got {cfg_scale}")
        if cfg_scale and self.is_exact:
            raise DecoderError(f"cfg_scale needs a masked model, {self.model.name} is causal")

    def _rows(
        self, items: Sequence[Item], valid: Iterable[int], mc_num: int, batch: int
    ) -> Iterator[_Row]:
        """The rows of all items, longest first, each made when it is needed."""
        groups: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for number in valid:
            sid, prompt, answer = items[number]
            kept = answer[:-1] if self.is_exact or len(answer) == 1 else answer
            groups.setdefault((sid, prompt, kept), []).append(number)
        for group in sorted(groups.values(), key=lambda g: -_length(items[g[0]])):
            if self.is_exact:
                yield _causal_row(items, group)
            else:
                yield from self._masked_rows(items, group, mc_num, batch)

    def _masked_rows(
        self, items: Sequence[Item], group: list[int], mc_num: int, batch: int
    ) -> Iterator[_Row]:
        """The Monte Carlo samples of items that have one token and the prompt in common, or of
        several that are the same."""
        sid, prompt, answer = items[group[0]]
        mask_id = self.model.mask_id
        assert mask_id is not None
        start, length = len(prompt), len(answer)
        if length == 1:
            drawn = [[True]]
        else:
            generator = torch.Generator().manual_seed(seed_of(sid))
            drawn = draw_masks(length, mc_num, batch, generator).tolist()
        for masked in drawn:
            places = [place for place, is_masked in enumerate(masked) if is_masked]
            pairs = zip(answer, masked, strict=True)
            noisy = [mask_id if is_masked else token for token, is_masked in pairs]
            yield _Row(
                tokens=[*prompt, *noisy],
                prompt=start,
                time=len(places) / length,
                read=[max(start + place - self.model.shift, 0) for place in places],
                picks=[(n, [items[n].answer[place] for place in places]) for n in group],
            )

    def _forward(self, rows: list[_Row], tallies: list[_Tally], cfg_scale: float) -> None:
        """One forward of some rows, or a guided pair of them, and what their items pick."""
        lengths = [len(row.tokens) for row in rows]
        passes = 2 if cfg_scale else 1
        with Timing(self.model.device) as timing:
            hidden_ND, blank_ND = self._hidden(rows, lengths, cfg_scale)
            values, greedy = self._picked(rows, hidden_ND, blank_ND, cfg_scale)
        if self.observer is not None:
            spans = [
                Span(length, length, len(row.read))
                for row, length in zip(rows, lengths, strict=True)
            ]
            self.observer(
                Ran("prefill" if self.is_exact else "full pass", timing, tuple(spans * passes))
            )
        at = 0
        for row, length in zip(rows, lengths, strict=True):
            first = tallies[row.picks[0][0]]
            first.forwards += 1
            first.positions += length * passes
            first.shares.append((timing, length / sum(lengths)))
            for number, picked in row.picks:
                part = slice(at, at + len(picked))
                at += len(picked)
                tally = tallies[number]
                tally.samples.append(math.fsum(values[part]) / row.time)
                if self.is_exact:
                    tally.tokens, tally.is_greedy = values[part], all(greedy[part])

    def _hidden(
        self, rows: list[_Row], lengths: list[int], cfg_scale: float
    ) -> tuple[Tensor, Tensor | None]:
        """Last hidden states [N, D] of the positions that are read, row by row; and, for guidance,
        those with masked prompts."""
        model, device = self.model, self.model.device
        width = max(max(lengths), min(bucket(lengths, device), model.max_length))
        padded = [[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows]
        tokens_BL = sent(torch.tensor(padded), device)
        position_L = torch.arange(width, device=device)
        length_B1 = sent(torch.tensor(lengths), device)[:, None]
        flat = [n * width + position for n, row in enumerate(rows) for position in row.read]
        read_N = sent(torch.tensor(flat), device)
        time_B = sent(torch.tensor([row.time for row in rows]), device)

        def states(tokens_BL: Tensor) -> Tensor:
            if self._network is None:
                found = model.hidden(tokens_BL, bias, time_B)
            else:
                positions_BL = position_L.expand(len(rows), -1)
                limits_BL = positions_BL + 1 if self.is_exact else length_B1.expand(-1, width)
                found = self._network(tokens_BL, positions_BL, limits_BL, fed_B=length_B1[:, 0])
            return found.flatten(0, 1)[read_N]

        if self._network is None:
            causal_1LL = (position_L <= position_L[:, None])[None]
            seen = causal_1LL if self.is_exact else position_L < length_B1
            bias = attention_bias(seen, model.dtype)
        hidden_ND = states(tokens_BL)
        if not cfg_scale:
            return hidden_ND, None
        assert model.mask_id is not None
        prompt_B1 = sent(torch.tensor([row.prompt for row in rows]), device)[:, None]
        return hidden_ND, states(tokens_BL.masked_fill(position_L < prompt_B1, model.mask_id))

    def _picked(
        self, rows: list[_Row], hidden_ND: Tensor, blank_ND: Tensor | None, cfg_scale: float
    ) -> tuple[list[float], list[bool]]:
        """Log-probability of each picked token, row by row and item by item, and whether it is the
        likeliest."""
        place: list[int] = []
        token: list[int] = []
        read = 0
        for row in rows:
            for _, picked in row.picks:
                place += range(read, read + len(picked))
                token += picked
            read += len(row.read)
        device = hidden_ND.device
        place_P, token_P = sent(torch.tensor([place, token]), device)
        value_P = torch.empty(len(place), device=device)
        greedy_P = torch.empty(len(place), dtype=torch.bool, device=device)
        for low in range(0, read, HEAD_ROWS):
            part = slice(low, low + HEAD_ROWS)
            logits_NV = self.model.head(hidden_ND[part])
            if blank_ND is not None:
                blank_NV = self.model.head(blank_ND[part])
                logits_NV = blank_NV + (cfg_scale + 1) * (logits_NV - blank_NV)
            logits_NV = logits_NV.float()
            at = ((place_P >= low) & (place_P < low + HEAD_ROWS)).nonzero()[:, 0]
            here, wanted = place_P[at] - low, token_P[at]
            value_P[at] = logits_NV[here, wanted] - logits_NV.logsumexp(-1)[here]
            greedy_P[at] = logits_NV.argmax(-1)[here] == wanted
        return value_P.double().tolist(), greedy_P.tolist()

    def _value(self, tally: _Tally, length: int, rounds: int, per_token: bool) -> Value:
        logprob = math.fsum(tally.samples) / len(tally.samples)
        seconds = sum(timing.seconds() * share for timing, share in tally.shares)
        cost = Value(math.nan, None, None, None, tally.forwards, tally.positions, seconds)
        if not math.isfinite(logprob):
            return replace(cost, error=f"the model gave a log-likelihood of {logprob}")
        drawn = not self.is_exact and length > 1
        return replace(
            cost,
            logprob=logprob,
            stderr=_stderr(tally.samples, rounds) if drawn else 0.0,
            is_greedy=tally.is_greedy if self.is_exact else None,
            tokens=tuple(tally.tokens) if per_token and self.is_exact else None,
        )


def _causal_row(items: Sequence[Item], group: list[int]) -> _Row:
    """Answers that differ in their last token at most."""
    _, prompt, answer = items[group[0]]
    tokens = [*prompt, *answer[:-1]]
    return _Row(
        tokens=tokens,
        prompt=len(prompt),
        time=1.0,
        read=list(range(len(prompt) - 1, len(tokens))),
        picks=[(number, list(items[number].answer)) for number in group],
    )


def _packed(rows: Iterable[_Row], limit: int) -> Iterator[list[_Row]]:
    """Rows that come longest first, as many together as their padded positions allow."""
    chunk: list[_Row] = []
    for row in rows:
        if chunk and (len(chunk) + 1) * len(chunk[0].tokens) > limit:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _length(item: Item) -> int:
    return len(item.prompt) + len(item.answer)


def _stderr(samples: Sequence[float], rounds: int) -> float | None:
    """Standard error of the samples' mean; those of a round are not independent."""
    if len(samples) == 1:
        return None
    size = len(samples) // rounds if rounds > 1 else 1
    means = [math.fsum(samples[n : n + size]) / size for n in range(0, len(samples), size)]
    return statistics.stdev(means) / math.sqrt(len(means))
