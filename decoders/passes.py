"""One pass of some slots on the device: forward, selection, writing, and what is kept of it.

Where the network has a fused forward, a pass is a function of one table of numbers with shapes that
depend on nothing but how much each row feeds: rows without a sample fill it up. So neighbours
change no shape, and a pass that comes again is replayed as a graph. Elsewhere a pass has the rows
that it has.

Legend: B rows of a pass, L positions, Q positions fed, W positions of the window, D width.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from decoders.batch import Batch, Member, batch_of, is_whole, table, window_of
from decoders.canvas import FEW, Canvas, bucket
from decoders.graphs import Graphs, sent
from decoders.models.base import Model, attention_bias
from decoders.noise import Noise
from decoders.proposal import Proposer
from decoders.schedule import Pass
from decoders.trace import Step, Tracer
from decoders.types import DecoderError
from decoders.window import Window

POSITIONS, LONG_POSITIONS = 2048, 1024
"""Positions of a fused forward, if there are slots enough, of short ranges and of longer ones. Both
fill a large GPU; longer ranges are asked for by few slots at a time, and rows without one cost as
much as the others."""


class Answer(NamedTuple):
    """What a selection leaves: which members of the pass it was about, and their rows in it."""

    members: list[int]
    rows: list[int]
    status: Tensor | None
    """The numbers of `Seen`, float64 [B, 8]; None if no schedule wants to know."""
    step: Step | None
    """If a member is traced."""


class Passes:
    """Runs passes over the slots of one model.

    Args:
        model: a model with a mask id.
        slots: samples decoded at once.
        noise: the source of randomness.
        joint: the sampler of recipe `joint`: (tokens, hidden states, seen keys, positions) to
            hidden states.
        graphs: replay passes as CUDA graphs, where there is a GPU and a fused forward.
        fused_head: read logits with a kernel, likewise.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        noise: Noise,
        joint: Callable[..., Tensor] | None,
        graphs: bool,
        fused_head: bool,
    ) -> None:
        assert model.mask_id is not None
        self.model, self._slots, self._joint = model, slots, joint
        self._device = model.device
        self._mask_id: int = model.mask_id
        self.canvas = Canvas(model, slots, model.eos_id)
        self._own, self._is_fixed = self.canvas.own is not None, self.canvas.is_fixed
        self._propose = Proposer(model, noise, slots, fused_head and self._is_fixed)
        self.tracer = Tracer(self.canvas, self._propose, model.mask_id)
        self._graphs = Graphs(model.device, graphs and self._is_fixed)
        self._stops = torch.tensor(sorted(model.stop_ids), device=model.device)

    def key(self, member: Member) -> Hashable:
        """Members of one key share a forward: whole rows together, parts by their length."""
        ask, length = member.ask, member.row.length
        whole, fed = is_whole(member), ask.stop - ask.start
        if self._is_fixed:
            shape = (self.canvas.padded(fed, ask.cached), window_of(ask))
        elif self._own:
            shape = (0, 0)
        else:
            width = bucket([length], self._device) if self._device.type == "cuda" else 0
            shape = (width, 0 if whole else bucket([fed], self._device))
        return whole, ask.cached, ask.guidance > 0, ask.draws > 0, shape

    def size(self, member: Member) -> int:
        """The most rows of a forward over passes like this one."""
        if not self._is_fixed:
            return self._slots
        fed = self.canvas.padded(member.ask.stop - member.ask.start, member.ask.cached)
        most = max(1, (POSITIONS if fed <= FEW else LONG_POSITIONS) // fed)
        # Forwards of equal size, where one does not hold all slots.
        return most if most == 1 else -(-self._slots // -(-self._slots // most))

    def run(self, members: Sequence[Member]) -> list[Answer]:
        """One forward of members of one key, and their selections."""
        asks = [member.ask for member in members]
        kinds: dict[Hashable, list[int]] = {}
        for n, ask in enumerate(asks):
            kinds.setdefault(_selection(ask), []).append(n)
        longest = max(ask.stop - ask.start for ask in asks)
        fed = self.canvas.padded(longest, asks[0].cached)
        traced = any(member.slot.request.trace for member in members)
        narrow = self._own and is_whole(members[0]) and not traced and not asks[0].draws
        size = self.size(members[0]) if self._is_fixed else 0
        host = table(members, size, self._slots)
        batch = batch_of(members, host, fed, narrow)
        self.canvas.widen(batch.reach, batch.length if asks[0].cached else 0)
        if self._own and len(kinds) == 1 and not asks[0].draws:
            return [self._replayed(members, batch, traced)]
        device = self._device
        batch = replace(batch, table_BC=sent(host, device))
        states_BQD = self._hidden(batch, members)
        answers = []
        for same in kinds.values():
            rows, states, some = same, states_BQD, batch
            if self._is_fixed and len(kinds) > 1:
                part = sent(table(members, size, self._slots, same), device)
                some = replace(batch, table_BC=part, asks=[asks[n] for n in same])
            elif len(kinds) > 1:
                rows, half = list(range(len(same))), len(members)
                guided = [half + n for n in same] if asks[0].guidance > 0 else []
                states = states_BQD[same + guided]
                some = batch_of([members[n] for n in same], batch.table_BC[same], fed, narrow)
                some = replace(some, window=batch.window) if narrow else some
            traced = any(members[n].slot.request.trace for n in same)
            answers.append(Answer(same, rows, *self._select(some, states, traced)))
        return answers

    def _replayed(self, members: Sequence[Member], batch: Batch, traced: bool) -> Answer:
        """Forward and selection as one function of the table, which can be a graph."""
        look = (batch.canvas, batch.look) if traced else None
        shape = (batch.fed, batch.window, look, batch.blind)
        key = (self.key(members[0]), _selection(batch.asks[0]), batch.narrow, shape)

        def whole(table_BC: Tensor) -> tuple[Tensor | None, Step | None]:
            sent_batch = replace(batch, table_BC=table_BC)
            return self._select(sent_batch, self._hidden(sent_batch, members), traced)

        layout = (self.canvas.layout, self.tracer.layout, self._propose.layout)
        status, step = self._graphs.run(key, layout, whole, batch.table_BC)
        everyone = list(range(len(members)))
        return Answer(everyone, everyone, status, step)

    def _hidden(self, batch: Batch, members: Sequence[Member]) -> Tensor:
        """Last hidden states [B, Q, D]; with guidance [2B, Q, D], those of masked prompts last."""
        ask, canvas = batch.asks[0], self.canvas
        guided = ask.guidance > 0
        if self._own:
            wanted_BW = None
            if batch.narrow:
                wanted_BW = batch.fed_rows(batch.places(), self.model.shift)
            slots_B, start_B = batch.whole("slot"), batch.whole("start")
            stop_B, length_B, blank_B = batch.whole("stop"), batch.whole("length"), None
            if guided:
                none_B, prompt_B = torch.zeros_like(slots_B), batch.whole("prompt")
                blank_B = torch.cat([none_B, prompt_B])
                slots_B, start_B = slots_B.repeat(2), start_B.repeat(2)
                stop_B, length_B = stop_B.repeat(2), length_B.repeat(2)
                wanted_BW = None if wanted_BW is None else wanted_BW.repeat(2, 1)
            return canvas.forward(
                slots_B, start_B, stop_B, length_B, batch.fed, ask.cached, blank_B, wanted_BW
            )
        numbers = [member.number for member in members]
        starts, stops = [a.start for a in batch.asks], [a.stop for a in batch.asks]
        time_B = self._masked_share(batch) if self.model.time_conditioned else None
        if not guided:
            return canvas.feed(numbers, starts, stops, ask.cached, time_B=time_B)
        blanked = [0] * len(members) + [member.row.prompt for member in members]
        time_B = None if time_B is None else time_B.repeat(2)
        return canvas.feed(numbers * 2, starts * 2, stops * 2, blanked=blanked, time_B=time_B)

    def _masked_share(self, batch: Batch) -> Tensor:
        """The diffusion time of each row: the part of its canvas that is masked, above 0."""
        tokens_BL = self.canvas.tokens_SL[batch.whole("slot")]
        canvas_B = batch.whole("length") - batch.whole("prompt")
        return ((tokens_BL == self._mask_id).sum(1) / canvas_B).clamp(min=1e-3)

    def _select(
        self, batch: Batch, states_BQD: Tensor, traced: bool
    ) -> tuple[Tensor | None, Step | None]:
        """Writes what the rule takes of rows that share it."""
        ask, rows = batch.asks[0], len(batch.table_BC)
        states_BQD, blank_BQD = states_BQD[:rows], states_BQD[rows:]
        window = Window.of(self.canvas, batch, self._mask_id)
        if traced:
            look = self.tracer.look(window, batch, states_BQD)
        if ask.draws:
            advance = None if ask.marginal else self._advance_states(window)
            self._propose.joint(window, batch, states_BQD, advance)
        else:
            self._propose(window, batch, states_BQD, blank_BQD if ask.guidance > 0 else None)
        window.write(self.canvas)
        step = self.tracer.keep(window, batch, look) if traced else None
        return None if batch.blind else window.report(self.canvas, self._stops), step

    def _advance_states(self, window: Window) -> Callable[[Tensor, Tensor], Tensor]:
        """The joint sampler over whole rows: newest tokens and states in, states after them out."""
        sampler = self._joint
        if sampler is None:
            raise DecoderError("recipe joint needs a joint sampler")

        def advance(tokens_BW: Tensor, states_BQD: Tensor) -> Tensor:
            width = states_BQD.shape[1]
            tokens_BL = self.canvas.tokens_SL[window.slots_B].clone()
            tokens_BL.scatter_(1, window.positions_BW, tokens_BW)
            place_L = torch.arange(width, device=tokens_BL.device)
            bias = attention_bias(place_L < window.length_B1, states_BQD.dtype)
            positions_BL = place_L.expand(len(tokens_BL), -1)
            return sampler(tokens_BL[:, :width], states_BQD, bias, positions_BL)

        return advance


def _selection(ask: Pass) -> Hashable:
    """Passes of one selection have one rule and sampler."""
    return ask.rule, ask.sampler, ask.early is None, ask.edit, ask.marginal
