"""Autoregressive decoding over slots with a K/V cache: the baseline that speed is told against.

Legend: S slots, B rows of a pass, Q positions fed, K positions cached, H key heads, D head width.
"""

import time
from collections import deque
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from decoders.models.base import Model, key_bias
from decoders.noise import CounterNoise, Noise, seed_of
from decoders.registry import Autoregressive
from decoders.sampling import gumbel_argmax
from decoders.slots import Slot, Timing, bucket, check_request
from decoders.types import DecoderError, Request, Result


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
        """The next pass writes these positions of these slots and sees keys [0, width)."""
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
    host looks every `look` tokens; what a row wrote past its end is cut off and not counted.
    """

    def __init__(self, model: Model, slots: int, noise: Noise | None = None) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        self.model, self.slots = model, slots
        self._noise: Noise = noise or CounterNoise()
        self._waiting: deque[Request] = deque()
        self._slots: dict[int, Slot] = {}
        network: Any = model.network
        self._cache = SlotCache(network.config.num_hidden_layers, slots)
        self._written: dict[int, list[Tensor]] = {}
        self._last_S = torch.zeros(slots, dtype=torch.int64, device=model.device)
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
        free = [i for i in range(self.slots) if i not in self._slots]
        for i in free[: len(self._waiting)]:
            self._prefill(i, self._waiting.popleft())
        done = self._finished()
        growing = sorted(self._slots)
        if growing:
            self._decode(growing)
            done += self._finished()
        return done

    def _prefill(self, i: int, request: Request) -> None:
        """Feeds the prompt of one sample and takes its first token."""
        slot = self._slots[i] = Slot(request, 0, time.perf_counter())
        device, prompt = self.model.device, len(request.prompt_ids)
        with Timing(device) as timing:
            tokens_1Q = torch.tensor([request.prompt_ids], device=device)
            positions_1Q = torch.arange(prompt, device=device)[None]
            causal_QK = positions_1Q.mT >= positions_1Q
            self._cache.aim(torch.tensor([i], device=device), positions_1Q, prompt)
            bias = key_bias(causal_QK, self.model.dtype).transpose(0, 2)
            logits_1V = self.model.cached_logits(tokens_1Q, positions_1Q, bias, self._cache)
            self._last_S[i] = self._draw([i], logits_1V)[0]
        slot.charge(timing, prompt, prompt)
        self._written[i] = [self._last_S[i].clone()]

    def _decode(self, rows: list[int]) -> None:
        """Feeds the last token of every row and takes the next one."""
        device = self.model.device
        with Timing(device) as timing:
            index = torch.tensor(rows, device=device)
            lengths = [len(self._slots[i].request.prompt_ids) + len(self._written[i]) for i in rows]
            positions_B1 = torch.tensor(lengths, device=device)[:, None] - 1
            width = bucket(lengths, device)
            self._cache.aim(index, positions_B1, width)
            seen_BK = torch.arange(width, device=device) <= positions_B1
            logits_BV = self.model.cached_logits(
                self._last_S[index, None],
                positions_B1,
                key_bias(seen_BK, self.model.dtype),
                self._cache,
            )
            self._last_S[index] = self._draw(rows, logits_BV)
            for i in rows:
                self._written[i].append(self._last_S[i].clone())
        for i in rows:
            self._slots[i].charge(timing, 1, len(rows))

    def _draw(self, rows: list[int], logits_BV: Tensor) -> Tensor:
        """The next token of each row, [B]."""
        requests = [self._slots[i].request for i in rows]
        if not any(request.decoder.temperature for request in requests):
            return logits_BV.argmax(-1)
        device = logits_BV.device
        steps_B = torch.tensor([len(self._written.get(i, ())) for i in rows], device=device)
        prompts_B = torch.tensor([len(request.prompt_ids) for request in requests], device=device)
        positions_B1 = (prompts_B + steps_B)[:, None]
        uniform_B1V = self._noise.over_vocabulary(
            torch.tensor([seed_of(request.sid) for request in requests], device=device),
            steps_B,
            positions_B1,
            logits_BV.shape[1],
            int(positions_B1.max()) + 1,
        )
        temperature_B = torch.tensor(
            [request.decoder.temperature for request in requests], device=device
        )
        return gumbel_argmax(logits_BV[:, None], temperature_B, uniform_B1V)[:, 0]

    def _finished(self) -> list[Result]:
        """Ends the rows that are complete; looks at tokens only every `look` of them."""
        done = []
        for i, slot in list(self._slots.items()):
            count, most = len(self._written[i]), slot.request.decoder.gen_length
            if count < most and count % self._look:
                continue
            tokens = torch.stack(self._written[i]).tolist()
            end = self._end(slot.request, tokens)
            if end is not None or count >= most:
                done.append(self._result(i, tokens[: most if end is None else end]))
        return done

    def _end(self, request: Request, tokens: list[int]) -> int | None:
        """How many tokens make the answer, stop token included; None if it goes on."""
        stop = next((n for n, t in enumerate(tokens, 1) if t in self.model.stop_ids), None)
        if request.is_complete is None or not request.is_complete(tokens[:stop]):
            return stop
        low, high = 1, stop or len(tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if request.is_complete(tokens[:middle]) else (middle + 1, high)
            )
        return low

    def _result(self, i: int, tokens: list[int]) -> Result:
        slot = self._slots.pop(i)
        del self._written[i]
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
