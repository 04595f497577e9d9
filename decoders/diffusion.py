"""The denoising loop, over slots.

The host asks each slot's schedule for its next pass; passes of one shape become one forward, those
of one rule and sampler one selection (`decoders.passes`). What differs between rows of a pass is a
table over rows.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from decoders.batch import Member, is_whole
from decoders.models.base import Model
from decoders.noise import CounterNoise, Noise
from decoders.passes import Answer, Passes
from decoders.recipes import DiffusionDecoder
from decoders.schedule import Pass, Row, Schedule, Seen
from decoders.slots import Observer, Ran, Slot, Span, Timing, check_request
from decoders.trace import Step, assemble
from decoders.types import DecoderError, Request, Result, Trace


@dataclass
class _Work:
    """A slot with the schedule that it follows."""

    slot: Slot
    row: Row
    schedule: Schedule
    ask: Pass
    steps: list[tuple[Step, int]] = field(default_factory=list)
    """Of a traced sample: each pass with the sample's row in it."""
    end: int | None = None
    """Where the output ends, once it has."""
    partial: int = 0
    drafts: int = 0
    draft_positions: int = 0
    edits: int = 0
    early: tuple[int, float] | None = None
    """Step and gap of the early commit."""
    gap: float | None = None

    def member(self, number: int) -> Member:
        return Member(number, self.slot, self.row, self.ask)


class DiffusionEngine:
    """Runs the recipes that are a schedule of passes over one canvas.

    Args:
        model: a model with a mask id.
        slots: samples decoded at once.
        noise: the source of randomness; tests replay a reference's generator here.
        joint: the sampler of recipe `joint`: (tokens, hidden states, seen keys, positions) to
            hidden states.
        graphs: replay passes as CUDA graphs, where there is a GPU and a fused forward; tokens are
            the same without.
        fused_head: read logits with a kernel, likewise.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        noise: Noise | None = None,
        joint: Callable[..., Tensor] | None = None,
        graphs: bool = True,
        fused_head: bool = True,
    ) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        if model.mask_id is None:
            raise DecoderError(f"a diffusion decoder needs a mask id; {model.name} has none")
        self.model, self.slots = model, slots
        self._mask_id: int = model.mask_id
        self._device = model.device
        self.observer: Observer | None = None
        self._waiting: deque[Request] = deque()
        self._work: dict[int, _Work] = {}
        self._passes = Passes(model, slots, noise or CounterNoise(), joint, graphs, fused_head)
        self._canvas = self._passes.canvas

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._work)

    def submit(self, request: Request) -> None:
        check_request(self.model, request)
        if not isinstance(request.decoder, DiffusionDecoder):
            raise DecoderError(f"{request.decoder.recipe} is no schedule of passes")
        self._waiting.append(request)

    def peek(self, sid: str) -> tuple[int, ...] | None:
        for i, work in self._work.items():
            if work.slot.request.sid == sid:
                return tuple(self._canvas.tokens_SL[i, work.row.prompt : work.row.length].tolist())
        return None

    @torch.inference_mode()
    def step(self) -> list[Result]:
        """One pass of every slot."""
        self._admit()
        heard = [told for part in self._groups() for told in self._forward(*part)]
        for slots, answer in heard:
            told = None if answer.status is None else answer.status.tolist()
            for i, row in zip(slots, answer.rows, strict=True):
                self._advance(i, None if told is None else told[row])
        return [self._finish(i) for i in sorted(self._work) if self._work[i].end is not None]

    def _admit(self) -> None:
        for i in range(self.slots):
            if i in self._work or not self._waiting:
                continue
            request = self._waiting.popleft()
            decoder, prompt = request.decoder, list(request.prompt_ids)
            assert isinstance(decoder, DiffusionDecoder)
            block = decoder.block if self.model.visibility == "bidirectional" else self.model.block
            row = Row(
                prompt=len(prompt),
                length=decoder.span(len(prompt), block),
                shift=self.model.shift,
                block=block,
            )
            canvas = [self._mask_id] * (row.length - row.prompt)
            for place, token in decoder.given.items():
                canvas[place] = token
            self._canvas.place(i, prompt + canvas)
            schedule = decoder.schedule(row)
            self._passes.tracer.begin(i)
            slot = Slot(request, time.perf_counter())
            self._work[i] = _Work(slot, row, schedule, next(schedule))

    def _groups(self) -> list[tuple[list[int], list[Member]]]:
        """Slots whose passes share a forward."""
        groups: dict[Any, list[int]] = {}
        members = {i: work.member(i) for i, work in sorted(self._work.items())}
        for i, member in members.items():
            groups.setdefault(self._passes.key(member), []).append(i)
        parts = []
        for slots in groups.values():
            size = self._passes.size(members[slots[0]])
            for n in range(0, len(slots), size):
                some = slots[n : n + size]
                parts.append((some, [members[i] for i in some]))
        return parts

    def _forward(self, slots: list[int], members: list[Member]) -> list[tuple[list[int], Answer]]:
        """One pass over some slots; answers by selection, with the slots that each is about."""
        asks = [member.ask for member in members]
        with Timing(self._device) as timing:
            answers = self._passes.run(members)
        if self.observer is not None:
            self.observer(_ran(members, timing))
        passes = 2 if asks[0].guidance > 0 else 1
        total = sum(ask.stop - ask.start for ask in asks)
        for i, ask in zip(slots, asks, strict=True):
            fed, work = ask.stop - ask.start, self._work[i]
            work.slot.charge(timing, fed * passes, total * passes)
            work.partial += fed < work.row.length
            if ask.draws and not ask.marginal:
                work.drafts += ask.draws - 1
                work.draft_positions += (ask.draws - 1) * fed
        for answer in answers:
            for n, row in zip(answer.members, answer.rows, strict=True):
                if answer.step is not None and members[n].slot.request.trace:
                    self._work[slots[n]].steps.append((answer.step, row))
        return [([slots[n] for n in answer.members], answer) for answer in answers]

    def _advance(self, i: int, told: list[float] | None) -> None:
        """Tells the schedule what its pass did and asks for the next one."""
        work = self._work[i]
        seen = Seen(0, 0, 0, False, -1, 0, False, 0.0)
        if told is not None and not work.ask.blind:  # alike, whether a neighbour wants to know
            *whole, gap = told
            masks, committed, edits, still_open, stop, tail, done = map(int, whole)
            seen = Seen(masks, committed, edits, bool(still_open), stop, tail, bool(done), gap)
        work.edits += seen.edits
        if work.ask.early is not None:
            work.gap = seen.gap
            if seen.done:
                work.early = (work.slot.passes, seen.gap)
        try:
            work.ask = work.schedule.send(seen)
        except StopIteration as stop_:
            work.end = work.row.length if stop_.value is None else stop_.value

    def _finish(self, i: int) -> Result:
        work = self._work.pop(i)
        slot, row, end = work.slot, work.row, work.end
        output = self._canvas.tokens_SL[i, row.prompt : end].tolist()
        trace: Trace | None = None
        commit_steps: tuple[int, ...] = ()
        if work.steps:
            trace, commit_steps = assemble(work.steps, slot.seconds(), len(output))
        return Result(
            sid=slot.request.sid,
            output_ids=tuple(output),
            nfe=slot.passes,
            nfe_block=work.partial,
            nfe_draft=work.drafts,
            token_forwards=slot.positions,
            draft_token_forwards=work.draft_positions,
            decode_s=sum(slot.seconds()),
            latency_s=slot.latency_s(),
            early_commit_step=work.early[0] if work.early else None,
            early_commit_gap=work.gap,
            edited_tokens=work.edits,
            commit_steps=commit_steps,
            trace=trace,
        )


def _ran(members: Sequence[Member], timing: Timing) -> Ran:
    spans = (
        Span(ask.stop - ask.start, row.length if ask.cached else ask.stop, ask.high - ask.low)
        for _, _, row, ask in members
        for _ in range(2 if ask.guidance else 1)
    )
    kind: Literal["full pass", "block pass"] = "block pass"
    if is_whole(members[0]):
        kind = "full pass"
    return Ran(kind, timing, tuple(spans))
