"""Guided Diffusion: a causal guider supervises what a diffusion model unmasks.

With the deterministic rule the output is the guider's own greedy decode, token for token, whatever
the diffusion model drafts: a better one only needs fewer forwards.

Source: `speculative_diffusion_generate` of ZhanqiuHu/flash-dlm-experimental, save for its cache,
which keeps an entry too many after a chunk whose drafts all stand.

Legend: B rows, C drafts of a chunk, M masks of a row, Q positions fed, D width, V vocabulary that
both models share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from decoders.canvas import Canvas
from decoders.models.base import Model
from decoders.noise import Noise
from decoders.pairs import PairEngine, PairSlot, all_greedy, chances, charge, draw, put, states_at
from decoders.recipes.guided import Guided
from decoders.sampling import entropy, top2_gap
from decoders.slots import Timing
from decoders.types import DecoderError, Request, Result, Trace
from decoders.verification import leading, tolerated


@dataclass
class _Look:
    """One round of a traced sample, over the whole canvas."""

    tokens_G: npt.NDArray[np.int32]
    confidence_G: npt.NDArray[np.float32]
    top2_gap: float
    entropy: float
    passes: int = 0
    """Forwards of both models up to and with the round."""


class GuidedEngine(PairEngine):
    """Rounds of one full diffusion pass and the guider's chunks over its drafts.

    The guider's best token, or one drawn from its distribution, takes the place of the first draft
    that it does not let pass; the rest are drafted anew. The first token that ends a text of
    either model ends the sample, and the rest of the canvas is EOS.
    """

    def __init__(
        self, model: Model, partner: Model, slots: int, noise: Noise | None = None
    ) -> None:
        super().__init__(model, partner, slots, noise)
        if model.mask_id is None:
            raise DecoderError(f"guided needs a diffusion model; {model.name} has no mask id")
        self._canvas = Canvas(model, slots, model.mask_id)
        self._guide = Canvas(partner, slots, partner.eos_id)
        self._mask_id = model.mask_id
        self._stop_ids = model.stop_ids | partner.stop_ids
        self._looks: dict[int, list[_Look]] = {}

    def _check(self, request: Request) -> None:
        if not isinstance(request.decoder, Guided):
            raise DecoderError(f"{request.decoder.recipe} is no guided recipe")

    def _place(self, i: int, row: PairSlot) -> None:
        prompt = row.request.prompt_ids
        self._canvas.place(i, [*prompt, *[self._mask_id] * row.left])
        self._guide.place(i, prompt)
        self._looks[i] = []

    def _round(self, rows: dict[int, PairSlot]) -> None:
        slots, states = list(rows), list(rows.values())
        stops = [row.length + row.left for row in states]
        device = self.model.device
        with Timing(device) as timing:
            masked = [row.left / row.request.decoder.gen_length for row in states]
            time_B = torch.tensor(masked, device=device)
            hidden_BQD = self._canvas.feed(slots, [0] * len(slots), stops, time_B=time_B)
        charge(states, timing, stops)
        looks = [
            self._look(row, hidden_BQD[n]) if row.request.trace else None
            for n, row in enumerate(states)
        ]
        for row in states:
            row.rounds += 1
        pending = list(range(len(states)))
        first = True
        while pending:
            pending = self._chunk(slots, states, pending, hidden_BQD, looks, first)
            first = False
        for i, row, look in zip(slots, states, looks, strict=True):
            if look is not None:
                look.tokens_G[: len(row.text)] = row.text
                look.passes = row.clock
                self._looks[i].append(look)

    def _chunk(
        self,
        all_slots: Sequence[int],
        all_rows: Sequence[PairSlot],
        pending: Sequence[int],
        hidden_BQD: Tensor,
        looks: Sequence[_Look | None],
        first: bool,
    ) -> list[int]:
        """One forward of the guider over the next drafts of some rows; writes what stands, and
        returns the rows whose drafts all stood and that have more."""
        slots, rows = [all_slots[n] for n in pending], [all_rows[n] for n in pending]
        device, lengths = self.model.device, [row.length for row in rows]
        counts = [min(_guided(row).verify_length, row.left) for row in rows]
        width = max(counts)
        # The guider is fed the token before the drafts and all of them but the last.
        starts = [0 if row.partner_passes == 0 else row.length - 1 for row in rows]
        stops = [length - 1 + count for length, count in zip(lengths, counts, strict=True)]
        fed = [stop - start for start, stop in zip(starts, stops, strict=True)]
        with Timing(device) as timing:
            some_BQD = hidden_BQD[torch.tensor(pending, device=device)]
            logits_BCV = self._drafts(some_BQD, lengths, width)
            drafts_BC = logits_BCV.argmax(-1)
            place_C = torch.arange(width, device=device)
            here_BC = place_C < torch.tensor(counts, device=device)[:, None]
            put(self._guide, slots, lengths, drafts_BC, here_BC)
            guide_BQD = self._guide.feed(slots, starts, stops, cached=True)
            before = [length - 1 - start for length, start in zip(lengths, starts, strict=True)]
            logits_BCV = self.partner.head(states_at(guide_BQD, before, width))[..., : self._shared]
            tolerances = [_guided(row).tolerance for row in rows]
            passed_BC, chance_BC = tolerated(logits_BCV, drafts_BC, tolerances)
            kept_B = leading(passed_BC & here_BC)
            kept_B1 = kept_B[:, None]
            next_B1 = self._instead(rows, logits_BCV, drafts_BC, kept_B)
            emitted_BC = pad(drafts_BC, (0, 1)).scatter_(1, kept_B1, next_B1)[:, :width]
            written_BC = here_BC & (place_C <= kept_B1)
            for canvas in (self._canvas, self._guide):
                put(canvas, slots, lengths, emitted_BC, written_BC)
        charge(rows, timing, fed, partner=True)
        told = torch.cat([kept_B1, drafts_BC[:, :1], emitted_BC], dim=1).tolist()
        going = []
        for k, (n, row, count) in enumerate(zip(pending, rows, counts, strict=True)):
            look = looks[n]
            if look is not None:
                at = len(row.text)
                look.confidence_G[at : at + count] = chance_BC[k, :count].float().cpu().numpy()
            kept, draft, *emitted = told[k]
            self._take(row, count, kept, emitted[: min(kept + 1, count)])
            overruled_eos = first and kept == 0 and draft in self.model.stop_ids
            if overruled_eos and _guided(row).stop_on_draft_eos and not row.done:
                self._fill(row)
            if kept == count and not row.done:
                going.append(n)
        return going

    def _drafts(self, hidden_BQD: Tensor, lengths: Sequence[int], width: int) -> Tensor:
        """Logits [B, W, V] of the positions from `length` on, never of the mask."""
        first = [length - self.model.shift for length in lengths]
        logits_BWV = self.model.head(states_at(hidden_BQD, first, width)).clone()
        logits_BWV[..., self._mask_id] = -torch.inf
        return logits_BWV[..., : self._shared]

    def _instead(
        self, rows: Sequence[PairSlot], logits_BCV: Tensor, drafts_BC: Tensor, kept_B: Tensor
    ) -> Tensor:
        """The guider's token in place of the first draft that does not stand, [B, 1]: its best
        other one, or one drawn from the others. It means nothing where all stand."""
        last_B1 = kept_B.clamp(max=logits_BCV.shape[1] - 1)[:, None]
        row_B1 = torch.arange(len(rows), device=last_B1.device)[:, None]
        logits_B1V = logits_BCV[row_B1, last_B1].clone()
        logits_B1V.scatter_(2, drafts_BC.gather(1, last_B1)[..., None], -torch.inf)
        if all_greedy(rows):
            return logits_B1V.argmax(-1)
        chance_B1V = chances(rows, logits_B1V)
        first_B = torch.tensor([row.length for row in rows], device=kept_B.device) + kept_B
        wanted_B1 = torch.ones_like(last_B1, dtype=torch.bool)
        return draw(self._noise, rows, chance_B1V, first_B, wanted_B1)

    def _take(self, row: PairSlot, count: int, kept: int, emitted: Sequence[int]) -> None:
        """Writes a chunk's tokens up to the end of the text."""
        ends = [n for n, token in enumerate(emitted, 1) if token in self._stop_ids]
        tokens = emitted[: ends[0]] if ends else emitted
        row.write(tokens)
        row.drafted += count
        row.accepted += min(kept, len(tokens))
        row.done = not row.left
        if ends:
            self._fill(row)

    def _fill(self, row: PairSlot) -> None:
        row.write([self.model.eos_id] * row.left)
        row.done = True

    def _look(self, row: PairSlot, hidden_QD: Tensor) -> _Look:
        """The canvas as the pass sees it: its text and the drafts of all masks."""
        logits_1MV = self._drafts(hidden_QD[None], [row.length], row.left)
        tokens = [*row.text, *logits_1MV.argmax(-1)[0].tolist()]
        return _Look(
            tokens_G=np.array(tokens, dtype=np.int32),
            confidence_G=np.full(len(tokens), np.nan, dtype=np.float32),
            top2_gap=float(top2_gap(logits_1MV).mean()),
            entropy=float(entropy(logits_1MV).mean()),
        )

    def _result(self, i: int, row: PairSlot) -> Result:
        return Result(
            sid=row.request.sid,
            output_ids=tuple(row.text),
            nfe=row.passes,
            nfe_ar=row.partner_passes,
            token_forwards=row.positions,
            draft_token_forwards=row.partner_positions,
            drafted_tokens=row.drafted,
            accepted_tokens=row.accepted,
            decode_s=sum(row.seconds()),
            latency_s=row.latency_s(),
            commit_steps=tuple(row.written),
            trace=self._trace(row, self._looks[i]) if row.request.trace else None,
        )

    def _trace(self, row: PairSlot, looks: Sequence[_Look]) -> Trace:
        steps = np.arange(1, len(looks) + 1)
        written = np.array(row.written)
        seconds = np.cumsum(row.seconds())
        return Trace(
            committed=written == steps[:, None],
            tokens=np.stack([look.tokens_G for look in looks]),
            confidence=np.stack([look.confidence_G for look in looks]),
            masked_left=(written > steps[:, None]).sum(1).astype(np.int32),
            top2_gap=np.array([look.top2_gap for look in looks], dtype=np.float32),
            entropy=np.array([look.entropy for look in looks], dtype=np.float32),
            elapsed_s=seconds[[look.passes - 1 for look in looks]],
        )


def _guided(row: PairSlot) -> Guided:
    assert isinstance(row.request.decoder, Guided)  # `submit` lets no other in
    return row.request.decoder
