"""Speculative decoding over slots: drafts by a second model, verified by the row's causal model.

The output is distributed as the row's model alone would write it (`decoders.verification` has the
rules, tests enumerate them). Every draw is keyed by the sample, its own count of forwards and the
position, so that a sample's tokens do not depend on its neighbours.

Legend: B rows, G drafts, W = G + 1 positions that the target predicts, Q positions fed, D width,
V vocabulary of the target.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from decoders.canvas import Canvas
from decoders.models.base import Model
from decoders.noise import Noise
from decoders.pairs import (
    PairEngine,
    PairSlot,
    all_greedy,
    chances,
    charge,
    draw,
    noise_keys,
    put,
    states_at,
)
from decoders.recipes.speculative import SpecDiff, Speculative
from decoders.sampling import probability_of
from decoders.selection import share_of
from decoders.slots import Timing, end_of
from decoders.types import DecoderError, Request, Result
from decoders.verification import acceptance, drawn_from, fixed_now, following, leading


class Drafts(NamedTuple):
    """What a drafter proposes."""

    tokens_BG: Tensor
    chance_BGV: Tensor | None
    """The distribution of each draft given those before it, 0 past a row's last; None where every
    row is greedy and it does not matter."""


class Drafter(Protocol):
    canvas: Canvas

    def draft(self, rows: dict[int, PairSlot], counts: Sequence[int]) -> Drafts:
        """Drafts `count` tokens after the text of each row, which the canvas holds."""
        ...


class SpeculativeEngine(PairEngine):
    """Rounds of drafts and one forward of the target over them.

    The target and a causal drafter keep their keys and values; those of refused drafts are
    overwritten by what comes in their place before anything sees them.
    """

    def __init__(
        self, model: Model, partner: Model, slots: int, noise: Noise | None = None
    ) -> None:
        super().__init__(model, partner, slots, noise)
        kind = CausalDrafter if partner.mask_id is None else DiffusionDrafter
        self._drafter: Drafter = kind(partner, slots, self._noise, model.vocabulary)
        self._canvas = Canvas(model, slots, model.eos_id)

    def _check(self, request: Request) -> None:
        if not isinstance(request.decoder, Speculative):
            raise DecoderError(f"{request.decoder.recipe} is no speculative recipe")

    def _place(self, i: int, row: PairSlot) -> None:
        for canvas in (self._canvas, self._drafter.canvas):
            canvas.place(i, row.request.prompt_ids)

    def _round(self, rows: dict[int, PairSlot]) -> None:
        slots, states = list(rows), list(rows.values())
        # The target adds a token of its own, so the last one needs no draft.
        counts = [min(_speculative(row).gamma, row.left - 1) for row in states]
        drafts = self._drafter.draft(rows, counts)
        device, lengths = self.model.device, [row.length for row in states]
        width = max(counts)
        place_W = torch.arange(width + 1, device=device)
        proposed_BG = place_W[:width] < torch.tensor(counts, device=device)[:, None]
        with Timing(device) as timing:
            put(self._canvas, slots, lengths, drafts.tokens_BG, proposed_BG)
            starts = [row.length - 1 if row.rounds else 0 for row in states]
            stops = [length + count for length, count in zip(lengths, counts, strict=True)]
            hidden_BQD = self._canvas.feed(slots, starts, stops, cached=True)
            first = [length - 1 - start for length, start in zip(lengths, starts, strict=True)]
            logits_BWV = self.model.head(states_at(hidden_BQD, first, width + 1))
            kept_B, next_B = self._judge(states, logits_BWV, drafts, proposed_BG)
            kept_B1 = kept_B[:, None]
            emitted_BW = pad(drafts.tokens_BG, (0, 1)).scatter_(1, kept_B1, next_B[:, None])
            for canvas in (self._canvas, self._drafter.canvas):
                put(canvas, slots, lengths, emitted_BW, place_W <= kept_B1)
        charge(states, timing, [stop - start for start, stop in zip(starts, stops, strict=True)])
        told = torch.cat([kept_B1, emitted_BW], dim=1).tolist()
        for row, count, (kept, *emitted) in zip(states, counts, told, strict=True):
            self._take(row, count, kept, emitted[: kept + 1])

    def _judge(
        self,
        rows: Sequence[PairSlot],
        logits_BWV: Tensor,
        drafts: Drafts,
        proposed_BG: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """How many drafts of each row stand, and the token after them, both [B]."""
        if drafts.chance_BGV is None:
            best_BW = logits_BWV.argmax(-1)
            kept_B = leading((drafts.tokens_BG == best_BW[:, :-1]) & proposed_BG)
            return kept_B, best_BW.gather(1, kept_B[:, None])[:, 0]
        p_BWV, q_BGV = chances(rows, logits_BWV), drafts.chance_BGV
        lengths = [row.length for row in rows]
        keys = noise_keys(rows, lengths, proposed_BG)
        uniform_BG = (-self._noise.exponential(*keys, proposed_BG).double()).exp()
        chance_BG = acceptance(p_BWV[:, :-1], q_BGV, drafts.tokens_BG)
        kept_B = leading((uniform_BG <= chance_BG) & proposed_BG)
        next_B1V = following(p_BWV, q_BGV, kept_B)[:, None]
        after_B = torch.tensor(lengths, device=kept_B.device) + kept_B
        wanted_B1 = torch.ones_like(kept_B, dtype=torch.bool)[:, None]
        return kept_B, draw(self._noise, rows, next_B1V, after_B, wanted_B1)[:, 0]

    def _take(self, row: PairSlot, count: int, kept: int, emitted: Sequence[int]) -> None:
        """Writes a round's tokens up to where the answer ends."""
        before = len(row.text)
        # The last draft was not fed to a drafter that is causal.
        row.partner_known = row.length + min(kept, count - 1)
        row.rounds += 1
        row.write(emitted)
        end = end_of(row.request, row.text, self.model.stop_ids)
        row.done = end is not None or not row.left
        if end is not None:
            del row.text[end:], row.written[end:]
        row.drafted += count
        row.accepted += min(kept, len(row.text) - before)

    def _result(self, i: int, row: PairSlot) -> Result:
        return Result(
            sid=row.request.sid,
            output_ids=tuple(row.text),
            nfe=row.passes,
            nfe_ar=row.passes,
            nfe_draft=row.partner_passes,
            token_forwards=row.positions,
            draft_token_forwards=row.partner_positions,
            drafted_tokens=row.drafted,
            accepted_tokens=row.accepted,
            decode_s=sum(row.seconds()),
            latency_s=row.latency_s(),
            commit_steps=tuple(row.written),
        )


class CausalDrafter:
    """Drafts token by token with a cache."""

    def __init__(self, model: Model, slots: int, noise: Noise, vocabulary: int) -> None:
        self.canvas = Canvas(model, slots, model.eos_id)
        self._model, self._noise, self._vocabulary = model, noise, vocabulary

    def draft(self, rows: dict[int, PairSlot], counts: Sequence[int]) -> Drafts:
        states, slots = list(rows.values()), list(rows)
        drafts = _empty(states, max(counts), self._vocabulary, self._model.device)
        for step in range(max(counts)):
            active = [n for n, count in enumerate(counts) if count > step]
            some = [states[n] for n in active]
            starts = [row.length + step - 1 if step else row.partner_known for row in some]
            stops = [row.length + step for row in some]
            fed = [stop - start for start, stop in zip(starts, stops, strict=True)]
            with Timing(self._model.device) as timing:
                ids = [slots[n] for n in active]
                hidden_BQD = self.canvas.feed(ids, starts, stops, cached=True)
                last_B1D = states_at(hidden_BQD, [count - 1 for count in fed], 1)
                logits_B1V = _over(self._vocabulary, self._model.head(last_B1D))
                here_B1 = torch.ones_like(logits_B1V[..., 0], dtype=torch.bool)
                index_B = torch.tensor(active, device=here_B1.device)
                if drafts.chance_BGV is None:
                    drawn_B1 = logits_B1V.argmax(-1)
                else:
                    chance_B1V = chances(some, logits_B1V)
                    drawn_B1 = draw(self._noise, some, chance_B1V, stops, here_B1)
                    drafts.chance_BGV[index_B, step] = chance_B1V[:, 0]
                drafts.tokens_BG[index_B, step] = drawn_B1[:, 0]
                put(self.canvas, ids, stops, drawn_B1, here_B1)
            charge(some, timing, fed, partner=True)
        return drafts


class DiffusionDrafter:
    """Drafts in parallel: masks after the text, denoised in a few full passes."""

    def __init__(self, model: Model, slots: int, noise: Noise, vocabulary: int) -> None:
        assert model.mask_id is not None
        self.canvas = Canvas(model, slots, model.mask_id)
        self._mask_id = model.mask_id
        self._model, self._noise, self._vocabulary = model, noise, vocabulary

    def draft(self, rows: dict[int, PairSlot], counts: Sequence[int]) -> Drafts:
        states, slots, width = list(rows.values()), list(rows), max(counts)
        device = self._model.device
        drafts = _empty(states, width, self._vocabulary, device)
        count_B1 = torch.tensor(counts, device=device)[:, None]
        open_BG = torch.arange(width, device=device) < count_B1
        early_BG = torch.zeros_like(open_BG)
        steps = [
            min(_specdiff(row).steps, count) for row, count in zip(states, counts, strict=True)
        ]
        left = list(counts)
        masks_BG = torch.full_like(drafts.tokens_BG, self._mask_id)
        put(self.canvas, slots, [row.length for row in states], masks_BG, open_BG)
        for i, row, count in zip(slots, states, counts, strict=True):
            self.canvas.lengths[i] = row.length + count
        for step in range(max(steps)):
            active = [n for n, most in enumerate(steps) if step < most]
            some, ids = [states[n] for n in active], [slots[n] for n in active]
            index_B = torch.tensor(active, device=device)
            fixing = [share_of(counts[n], steps[n], step) for n in active]
            with Timing(device) as timing:
                masked = [left[n] / counts[n] for n in active]
                logits_BGV = self._logits(ids, some, width, masked)
                starts = [row.length for row in some]
                open_bG, early_bG = open_BG[index_B], early_BG[index_B]
                if drafts.chance_BGV is None:
                    drawn_bG = logits_BGV.argmax(-1)
                else:
                    chance_bGV = chances(some, logits_BGV)
                    drawn_bG = draw(self._noise, some, chance_bGV, starts, open_bG)
                if any(step + 1 < steps[n] for n in active):
                    ranked_bG = self._ranked(some, logits_BGV, drawn_bG, open_bG)
                    now_bG = fixed_now(open_bG, ranked_bG, torch.tensor(fixing, device=device))
                else:
                    now_bG = open_bG
                tokens_bG = torch.where(now_bG, drawn_bG, drafts.tokens_BG[index_B])
                drafts.tokens_BG[index_B] = tokens_bG
                if drafts.chance_BGV is not None:
                    # Right after a row's last step; before it, overwritten by the next.
                    q_bGV = drawn_from(chance_bGV, tokens_bG, early_bG)
                    drafts.chance_BGV[index_B] = q_bGV * (open_bG | early_bG)[..., None]
                early_BG[index_B] |= now_bG
                open_BG[index_B] &= ~now_bG
                put(self.canvas, ids, starts, drawn_bG, now_bG)
            charge(some, timing, [self.canvas.lengths[i] for i in ids], partner=True)
            for n, fixed in zip(active, fixing, strict=True):
                left[n] -= fixed
        return drafts

    def _logits(
        self, slots: Sequence[int], rows: Sequence[PairSlot], width: int, masked: Sequence[float]
    ) -> Tensor:
        """Logits of the drafts, [B, G, V], never of the mask. The diffusion time is the part of
        them that is masked."""
        model = self._model
        stops = [self.canvas.lengths[i] for i in slots]
        time_B = torch.tensor(masked, device=model.device)
        hidden_BQD = self.canvas.feed(slots, [0] * len(slots), stops, time_B=time_B)
        first = [row.length - model.shift for row in rows]
        return _over(
            self._vocabulary, model.head(states_at(hidden_BQD, first, width)), self._mask_id
        )

    def _ranked(
        self,
        rows: Sequence[PairSlot],
        logits_BGV: Tensor,
        drawn_BG: Tensor,
        open_BG: Tensor,
    ) -> Tensor:
        """What is fixed first: the drafts that the model is surest of, or any."""
        sure_BG = probability_of(logits_BGV.float(), drawn_BG)
        random = [_specdiff(row).order == "random" for row in rows]
        if not any(random):
            return sure_BG
        keys = noise_keys(rows, [row.length for row in rows], open_BG)
        random_B1 = torch.tensor(random, device=sure_BG.device)[:, None]
        return torch.where(random_B1, self._noise.uniform(*keys, open_BG), sure_BG)


def _empty(rows: Sequence[PairSlot], width: int, vocabulary: int, device: torch.device) -> Drafts:
    shape = (len(rows), width)
    tokens_BG = torch.zeros(shape, dtype=torch.int64, device=device)
    if all_greedy(rows):
        return Drafts(tokens_BG, None)
    return Drafts(tokens_BG, torch.zeros(*shape, vocabulary, dtype=torch.float64, device=device))


def _over(vocabulary: int, logits_BGV: Tensor, mask_id: int | None = None) -> Tensor:
    """Logits over the target's vocabulary: cut, or padded with what is never drawn."""
    if mask_id is not None:
        logits_BGV = logits_BGV.clone()
        logits_BGV[..., mask_id] = -torch.inf
    return pad(logits_BGV, (0, vocabulary - logits_BGV.shape[-1]), value=-torch.inf)


def _speculative(row: PairSlot) -> Speculative:
    assert isinstance(row.request.decoder, Speculative)  # `submit` lets no other in
    return row.request.decoder


def _specdiff(row: PairSlot) -> SpecDiff:
    assert isinstance(row.request.decoder, SpecDiff)  # only its drafter is a diffusion model
    return row.request.decoder
