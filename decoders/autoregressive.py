"""Autoregressive decoding over slots with a K/V cache: the baseline that speed is told against.

Legend: S slots, B rows of a pass, Q positions fed, K positions cached, H key heads, D head width.
"""

import time
from collections import deque
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from decoders.models.base import Model, attention_bias
from decoders.noise import CounterNoise, Noise
from decoders.registry import Autoregressive
from decoders.sampling import gumbel_argmax
from decoders.slots import Slot, Timing, bucket, check_request
from decoders.types import DecoderError, Request, Result

PREFILL_POSITIONS = 16_384
"""Padded prompt positions of one prefill: enough to fill a GPU, few enough for its memory."""


class SlotCache(Cache):
    """Keys and values of all slots, written in place at each row's own positions.

    transformers calls `update` once a layer and a pass; before a pass the engine says which rows
    and positions it is about.
    """

    def __init__(self, layers: int, slots: int) -> None:
        super().__init__(layers=[])
        self._slots = slots
        self._store: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._rows_B = self._positions_BQ = torch.empty(0)
        self._width = 0

    def aim(self, rows_B: Tensor, positions_BQ: Tensor, width: int) -> None:
        """The next pass writes these positions of these slots, in their order, and sees keys
        [0, width)."""
        self._rows_B, self._positions_BQ, self._width = rows_B, positions_BQ, width

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores [B, H, Q, D] and returns all cached keys and values of the rows, [B, H, K, D]."""
        found = []
        for kind, fresh in enumerate((keys, values)):
            whole = self._grown(layer_idx, kind, fresh)
            whole[self._rows_B[:, None], :, self._positions_BQ] = fresh.transpose(1, 2)
            rows = whole if self._rows_B.numel() == self._slots else whole[self._rows_B]
            found.append(rows[:, :, : self._width])
        return found[0], found[1]

    def _grown(self, layer: int, kind: int, like: Tensor) -> Tensor:
        """The layer's buffer [S, H, K, D], wide enough for this pass."""
        pair = self._store[layer]
        if pair is None or pair[0].shape[2] < self._width:
            shape = (self._slots, like.shape[1], self._width, like.shape[3])
            fresh = (like.new_zeros(shape), like.new_zeros(shape))
            if pair is not None:
                for new, old in zip(fresh, pair, strict=True):
                    new[:, :, : old.shape[2]] = old
            pair = self._store[layer] = fresh
        return pair[kind]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class AutoregressiveEngine:
    """Greedy or sampled left-to-right decoding of a causal model.

    A row ends at a stop token, when its request says that it is complete, or at `gen_length`. The
    host looks every few tokens; what a row wrote past its end is cut off and not counted.
    """

    def __init__(self, model: Model, slots: int, noise: Noise | None = None) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        self.model, self.slots = model, slots
        self._noise: Noise = noise or CounterNoise()
        self._waiting: deque[Request] = deque()
        self._slots: dict[int, Slot] = {}
        self._cache = SlotCache(model.network.config.num_hidden_layers, slots)
        self._text_SG = torch.zeros(slots, 0, dtype=torch.int64, device=model.device)
        self._look = 8 if model.device.type == "cuda" else 1

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._slots)

    def submit(self, request: Request) -> None:
        check_request(self.model, request)
        if not isinstance(request.decoder, Autoregressive):
            raise DecoderError(f"{request.decoder.recipe} is no autoregressive recipe")
        self._waiting.append(request)

    @torch.inference_mode()
    def step(self) -> list[Result]:
        entering = self._admit()
        if entering:
            self._forward(entering, [slot.request.prompt_ids for slot in entering.values()])
        done = self._finished()
        growing = {i: self._slots[i] for i in sorted(self._slots) if i not in entering}
        if growing:
            self._forward(growing, None)
            done += self._finished()
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
            entering[i] = self._slots[i] = Slot(request, 0, time.perf_counter())
            missing = request.decoder.gen_length - self._text_SG.shape[1]
            if missing > 0:
                self._text_SG = torch.nn.functional.pad(self._text_SG, (0, missing))
        return entering

    def _forward(self, rows: dict[int, Slot], prompts: list[tuple[int, ...]] | None) -> None:
        """One pass over the prompts of some slots, or over the last token of each; every slot of
        it takes its next token."""
        device = self.model.device
        with Timing(device) as timing:
            index_B = torch.tensor(list(rows), device=device)
            count_B = torch.tensor([slot.passes for slot in rows.values()], device=device)
            prompt_B = torch.tensor(
                [len(slot.request.prompt_ids) for slot in rows.values()], device=device
            )
            if prompts is None:
                tokens_BQ = self._text_SG[index_B, count_B - 1][:, None]
                positions_BQ = (prompt_B + count_B - 1)[:, None]
                last_B = torch.zeros_like(count_B)
                longest = max(len(s.request.prompt_ids) + s.passes for s in rows.values())
            else:
                longest = max(map(len, prompts))
                padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
                tokens_BQ = torch.tensor(padded, device=device)
                positions_BQ = torch.arange(longest, device=device).expand(len(prompts), -1)
                last_B = prompt_B - 1
            width = bucket([longest], device)
            self._cache.aim(index_B, positions_BQ, width)
            # Padding is never seen: its keys lie after every real position, until overwritten.
            seen_BQK = torch.arange(width, device=device) <= positions_BQ[..., None]
            hidden_BQD = self.model.cached_hidden(
                tokens_BQ, positions_BQ, attention_bias(seen_BQK, self.model.dtype), self._cache
            )
            logits_BV = self.model.head(hidden_BQD[torch.arange(len(rows), device=device), last_B])
            self._text_SG[index_B, count_B] = self._draw(rows, logits_BV, count_B, prompt_B)
        fed = [len(p) for p in prompts] if prompts is not None else [1] * len(rows)
        for slot, positions in zip(rows.values(), fed, strict=True):
            slot.charge(timing, positions, sum(fed))

    def _draw(
        self, rows: dict[int, Slot], logits_BV: Tensor, count_B: Tensor, prompt_B: Tensor
    ) -> Tensor:
        """The next token of each row, [B]."""
        requests = [slot.request for slot in rows.values()]
        if not any(request.decoder.temperature for request in requests):
            return logits_BV.argmax(-1)
        device, positions_B1 = logits_BV.device, (prompt_B + count_B)[:, None]
        seeds_B = torch.tensor([slot.seed for slot in rows.values()], device=device)
        uniform_B1V = self._noise.over_vocabulary(
            seeds_B, count_B, positions_B1, logits_BV.shape[1], 0
        )
        temperature_B = torch.tensor(
            [request.decoder.temperature for request in requests], device=device
        )
        return gumbel_argmax(logits_BV[:, None], temperature_B, uniform_B1V)[:, 0]

    def _finished(self) -> list[Result]:
        """Ends the rows that are complete. Tokens come to the host only when a row has filled its
        budget or another few of them."""
        due = [i for i, slot in self._slots.items() if self._is_due(slot)]
        if not due:
            return []
        texts = self._text_SG[torch.tensor(due, device=self.model.device)].tolist()
        done = []
        for i, text in zip(due, texts, strict=True):
            slot = self._slots[i]
            tokens = text[: slot.passes]
            end = self._end(slot.request, tokens)
            if end is not None or slot.passes == slot.request.decoder.gen_length:
                done.append(self._result(i, tokens[:end]))
        return done

    def _is_due(self, slot: Slot) -> bool:
        return slot.passes == slot.request.decoder.gen_length or slot.passes % self._look == 0

    def _end(self, request: Request, tokens: list[int]) -> int | None:
        """How many tokens make the answer, stop token included; None if it goes on."""
        stop = next((n for n, t in enumerate(tokens, 1) if t in self.model.stop_ids), None)
        if request.is_complete is None or not request.is_complete(tokens[:stop]):
            return stop
        low, high = 1, stop or len(tokens)
        while low < high:
            middle = (low + high) // 2
            complete = request.is_complete(tokens[:middle])
            low, high = (low, middle) if complete else (middle + 1, high)
        return low

    def _result(self, i: int, tokens: list[int]) -> Result:
        slot = self._slots.pop(i)
        return Result(
            sid=slot.request.sid,
            output_ids=tuple(tokens),
            nfe=slot.passes,
            nfe_ar=slot.passes,
            token_forwards=slot.positions,
            decode_s=sum(slot.seconds()),
            latency_s=slot.latency_s(),
            commit_steps=tuple(range(1, len(tokens) + 1)),
        )
