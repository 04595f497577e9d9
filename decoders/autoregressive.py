"""Autoregressive decoding over slots with a K/V cache: the baseline that speed is told against.

Legend: S slots, B rows of a pass, Q positions fed, G tokens written, K positions cached, D width.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoders.canvas import ROOM, SlotCache, bucket
from decoders.graphs import Graphs, sent
from decoders.models.base import Model, attention_bias
from decoders.models.forward import Store, own_forward
from decoders.noise import CounterNoise, Noise
from decoders.recipes.autoregressive import Autoregressive
from decoders.sampling import gumbel_argmax
from decoders.slots import Observer, Ran, Slot, Span, Timing, check_request, end_of
from decoders.types import DecoderError, Request, Result

PREFILL_POSITIONS = 16_384
"""Padded prompt positions of one prefill: enough to fill a GPU, few enough for its memory."""
FUSED_POSITIONS = 2_048
"""The same of a fused one, whose rows are as many whoever waits; a longer prompt goes alone."""


@dataclass
class _Look:
    """The slots' text on its way to the host."""

    text_SG: Tensor
    slots: dict[int, tuple[Slot, int]]
    """Whose text it is, and how many tokens it had."""
    arrived: torch.Event | None

    def rows(self) -> Iterator[tuple[int, Slot, list[int]]]:
        if self.arrived is not None:
            self.arrived.synchronize()
        for i, (slot, count) in self.slots.items():
            yield i, slot, self.text_SG[i, :count].tolist()


class AutoregressiveEngine:
    """Greedy or sampled left-to-right decoding of a causal model.

    A row ends at a stop token, when its request says that it is complete, or at `gen_length`. On a
    GPU the host looks every few tokens, at what was written by the step before; what a row wrote
    past its end is cut off and not counted.

    Args:
        model: a causal model.
        slots: samples decoded at once.
        noise: the source of randomness.
        graphs: replay steps as CUDA graphs, where there is a GPU and a fused forward.
    """

    def __init__(
        self, model: Model, slots: int, noise: Noise | None = None, graphs: bool = True
    ) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        self.model, self.slots = model, slots
        self.observer: Observer | None = None
        self._noise: Noise = noise or CounterNoise()
        self._waiting: deque[Request] = deque()
        self._slots: dict[int, Slot] = {}
        self._network = own_forward(model)
        self._is_fixed = self._network is not None and self._network.is_fixed
        self._cache, self._store = SlotCache(slots), Store(slots)
        self._text_SG = torch.zeros(slots + 1, 0, dtype=torch.int64, device=model.device)
        self._gpu = model.device.type == "cuda"
        self._graphs = Graphs(model.device, graphs and self._is_fixed)
        self._every = 8 if self._gpu else 1
        self._steps = 0
        self._look: _Look | None = None

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._slots)

    def submit(self, request: Request) -> None:
        check_request(self.model, request)
        if not isinstance(request.decoder, Autoregressive):
            raise DecoderError(f"{request.decoder.recipe} is no autoregressive recipe")
        self._waiting.append(request)

    def peek(self, sid: str) -> tuple[int, ...] | None:
        for i, slot in self._slots.items():
            if slot.request.sid == sid:
                return tuple(self._text_SG[i, : slot.passes].tolist())
        return None

    @torch.inference_mode()
    def step(self) -> list[Result]:
        entering = self._admit()
        for rows in self._prefills(entering):
            self._forward(rows, True)
        growing = {
            i: slot
            for i, slot in sorted(self._slots.items())
            if i not in entering and slot.passes < slot.request.decoder.gen_length
        }
        if growing:
            self._forward(growing, False)
        self._steps += 1
        # The last look is read while the device is busy with this step.
        done = self._read()
        if self._steps % self._every == 0 or any(map(_is_full, self._slots.values())):
            self._begin_look()
        if not self._gpu or not growing:
            done += self._read()
        return done

    def _admit(self) -> dict[int, Slot]:
        """Puts waiting requests into free slots, as many as one prefill should hold."""
        entering: dict[int, Slot] = {}
        for i in (i for i in range(self.slots) if i not in self._slots):
            if not self._waiting:
                break
            rows = [*(slot.request for slot in entering.values()), self._waiting[0]]
            widest = max(len(request.prompt_ids) for request in rows)
            if entering and len(rows) * widest > PREFILL_POSITIONS:
                break
            request = self._waiting.popleft()
            entering[i] = self._slots[i] = Slot(request, time.perf_counter())
            missing = request.decoder.gen_length - self._text_SG.shape[1]
            if missing > 0:
                self._text_SG = torch.nn.functional.pad(self._text_SG, (0, missing))
            if self._network is not None:
                reach = len(request.prompt_ids) + request.decoder.gen_length
                self._store.widen(-(-reach // ROOM) * ROOM, self._network)
        return entering

    def _prefills(self, entering: dict[int, Slot]) -> list[dict[int, Slot]]:
        """The forwards that read the new prompts."""
        if not self._is_fixed:
            return [entering] if entering else []
        groups: dict[int, list[int]] = {}
        for i, slot in entering.items():
            width = bucket([len(slot.request.prompt_ids)], self.model.device)
            groups.setdefault(width, []).append(i)
        return [
            {i: entering[i] for i in numbers[n : n + self._rows(width)]}
            for width, numbers in groups.items()
            for n in range(0, len(numbers), self._rows(width))
        ]

    def _rows(self, width: int) -> int:
        """Rows of a fused prefill of prompts so wide."""
        return max(1, min(self.slots, FUSED_POSITIONS // width))

    def _forward(self, rows: dict[int, Slot], prefill: bool) -> None:
        """One pass over the prompts of some slots, or over the last token of each; every slot of
        it takes its next token."""
        slots = list(rows.values())
        sampled = any(slot.request.decoder.temperature for slot in slots)
        lengths = [len(slot.request.prompt_ids) for slot in slots]
        device = self.model.device
        with Timing(device) as timing:
            if self._is_fixed and not prefill:
                host = self._table(rows, self.slots)
                layout = (self._store.places, self._text_SG.data_ptr())
                self._graphs.run(sampled, layout, self._sampled if sampled else self._greedy, host)
            else:
                width = max(lengths) if prefill else 0
                if self._is_fixed:
                    width = bucket([width], device)
                size = self._rows(width) if self._is_fixed else 0
                table_BC = sent(self._table(rows, size), device)
                prompts_BQ = None
                if prefill:
                    padded = np.zeros((len(table_BC), width), dtype=np.int64)
                    for n, slot in enumerate(slots):
                        padded[n, : lengths[n]] = slot.request.prompt_ids
                    prompts_BQ = sent(torch.from_numpy(padded), device)
                reach = max(n + slot.passes for n, slot in zip(lengths, slots, strict=True))
                self._next(table_BC, prompts_BQ, sampled, reach)
        fed = lengths if prefill else [1] * len(rows)
        if self.observer is not None:
            seen = [n + slot.passes for n, slot in zip(lengths, slots, strict=True)]
            spans = tuple(Span(n, keys, 1) for n, keys in zip(fed, seen, strict=True))
            self.observer(Ran("prefill" if prefill else "decode step", timing, spans))
        for slot, positions in zip(slots, fed, strict=True):
            slot.charge(timing, positions, sum(fed))

    def _table(self, rows: dict[int, Slot], size: int) -> Tensor:
        """Slot, prompt length, tokens written, seed and temperature (bits of a float64) of each
        row, int64 [B, 5]; rows without a sample belong to the slot after the last."""
        numbers = np.zeros((max(size, len(rows)), 5), dtype=np.int64)
        numbers[:, :2] = self.slots, 1
        for n, (i, slot) in enumerate(rows.items()):
            request = slot.request
            numbers[n, :4] = i, len(request.prompt_ids), slot.passes, slot.seed
            numbers[n, 4:].view(np.float64)[0] = request.decoder.temperature
        return torch.from_numpy(numbers)

    def _greedy(self, table_BC: Tensor) -> None:
        self._next(table_BC, None, False, self._store.places)

    def _sampled(self, table_BC: Tensor) -> None:
        self._next(table_BC, None, True, self._store.places)

    def _next(self, table_BC: Tensor, prompts_BQ: Tensor | None, sampled: bool, reach: int) -> None:
        """Writes the next token of each row. `reach` is one past the last position that any row
        feeds."""
        slots_B, prompt_B, count_B = table_BC[:, 0], table_BC[:, 1], table_BC[:, 2]
        device = table_BC.device
        if prompts_BQ is None:
            tokens_BQ = self._text_SG[slots_B, count_B - 1][:, None]
            positions_BQ = (prompt_B + count_B - 1)[:, None]
            last_B = torch.zeros_like(count_B)
        else:
            tokens_BQ = prompts_BQ
            positions_BQ = torch.arange(tokens_BQ.shape[1], device=device).expand(
                len(tokens_BQ), -1
            )
            last_B = prompt_B - 1
        if self._network is not None:
            places_BQ = torch.where(positions_BQ < (prompt_B + count_B)[:, None], positions_BQ, -1)
            where = (self._store, slots_B, places_BQ)
            limits_BQ = (positions_BQ + 1).clamp(max=self._store.places)
            fed_B = None if self._is_fixed else last_B + 1
            hidden_B1D = self._network(
                tokens_BQ, positions_BQ, limits_BQ, *where, last_B[:, None], fed_B
            )
            logits_BV = self.model.head(hidden_B1D[:, 0])
        else:
            width = bucket([reach], device)
            self._cache.aim(slots_B, positions_BQ, width)
            # Padding is never seen: its keys lie after every real position, until overwritten.
            seen_BQK = torch.arange(width, device=device) <= positions_BQ[..., None]
            hidden_BQD = self.model.cached_hidden(
                tokens_BQ, positions_BQ, attention_bias(seen_BQK, self.model.dtype), self._cache
            )
            row_B = torch.arange(len(slots_B), device=device)
            logits_BV = self.model.head(hidden_BQD[row_B, last_B])
        drawn_B = self._draw(table_BC, logits_BV) if sampled else logits_BV.argmax(-1)
        self._text_SG[slots_B, count_B] = drawn_B

    def _draw(self, table_BC: Tensor, logits_BV: Tensor) -> Tensor:
        """The next token of each row, [B]."""
        prompt_B, count_B, seeds_B = table_BC[:, 1], table_BC[:, 2], table_BC[:, 3]
        temperature_B = table_BC[:, 4].view(torch.float64).float()
        positions_B1 = (prompt_B + count_B)[:, None]
        race_BV = self._noise.race(
            seeds_B, count_B, positions_B1, logits_BV.shape[1], torch.ones_like(positions_B1)
        )[:, 0]
        drawn_B = gumbel_argmax(logits_BV, temperature_B[:, None], race_BV)
        return torch.where(temperature_B > 0, drawn_B, logits_BV.argmax(-1))

    def _begin_look(self) -> None:
        """Sends the text of all slots on its way to the host."""
        text_SG, arrived = self._text_SG, None
        if self._gpu:
            text_SG = torch.empty(text_SG.shape, dtype=text_SG.dtype, pin_memory=True)
            text_SG.copy_(self._text_SG, non_blocking=True)
            arrived = torch.Event("cuda")
            arrived.record()
        held = {i: (slot, slot.passes) for i, slot in self._slots.items()}
        self._look = _Look(text_SG, held, arrived)

    def _read(self) -> list[Result]:
        """Ends the rows that are complete by the last look."""
        look, self._look = self._look, None
        done = []
        for i, slot, tokens in look.rows() if look is not None else ():
            end = end_of(slot.request, tokens, self.model.stop_ids)
            if end is not None or len(tokens) == slot.request.decoder.gen_length:
                done.append(self._result(i, tokens[:end]))
        return done

    def _result(self, i: int, tokens: list[int]) -> Result:
        slot = self._slots.pop(i)
        return Result(
            sid=slot.request.sid,
            output_ids=tuple(tokens),
            nfe=len(tokens),
            nfe_ar=len(tokens),
            token_forwards=slot.positions - (slot.passes - len(tokens)),
            decode_s=sum(slot.seconds()),
            latency_s=slot.latency_s(),
            commit_steps=tuple(range(1, len(tokens) + 1)),
        )


def _is_full(slot: Slot) -> bool:
    return slot.passes == slot.request.decoder.gen_length
