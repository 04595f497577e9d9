"""The denoising loop, over slots.

Rows of any prompt length, canvas, block and budget share a batch: what differs between them is a
tensor over slots. Legend: S slots, L positions of a row (prompt, canvas, padding), G canvas
positions, V vocabulary.
"""

import time
from collections import deque
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from decoders.models.base import Model, attention_bias
from decoders.noise import CounterNoise, Noise
from decoders.registry import Llada
from decoders.sampling import entropy, gumbel_argmax, probability_of, top2_gap
from decoders.selection import quota, top_quota
from decoders.slots import Slot, Timing, bucket, check_request
from decoders.types import DecoderError, Request, Result, Trace


@dataclass
class _State:
    """The slots on the device; one row each."""

    tokens_SL: Tensor
    prompt_S: Tensor
    canvas_S: Tensor
    block_S: Tensor
    steps_per_block_S: Tensor
    step_S: Tensor
    block_masks_S: Tensor
    """Masks of the current block when it began."""
    temperature_S: Tensor
    random_S: Tensor
    no_eos_S: Tensor
    eos_last_S: Tensor
    seed_S: Tensor

    @staticmethod
    def empty(slots: int, pad: int, device: torch.device) -> "_State":
        def column(kind: torch.dtype, value: int = 0) -> Tensor:
            return torch.full((slots,), value, dtype=kind, device=device)

        whole, flag = torch.int64, torch.bool
        return _State(
            tokens_SL=torch.full((slots, 0), pad, dtype=whole, device=device),
            prompt_S=column(whole),
            canvas_S=column(whole),
            block_S=column(whole, 1),
            steps_per_block_S=column(whole, 1),
            step_S=column(whole),
            block_masks_S=column(whole),
            temperature_S=column(torch.float32),
            random_S=column(flag),
            no_eos_S=column(flag),
            eos_last_S=column(flag),
            seed_S=column(whole),
        )

    def rows(self, index: Tensor) -> "_State":
        return _State(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def put(self, index: Tensor, rows: "_State") -> None:
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(rows, f.name)


@dataclass(frozen=True)
class _Step:
    """What one pass did, left on the device until a traced sample ends."""

    rows: dict[int, int]
    """Slot -> row of the tensors below."""
    committed_SG: Tensor
    tokens_SG: Tensor
    confidence_SG: Tensor
    gap_S: Tensor
    entropy_S: Tensor


class DiffusionEngine:
    """Runs masked-diffusion recipes on a bidirectional model.

    Args:
        model: a model with a mask id.
        slots: samples decoded at once. On a GPU every pass has this many rows; on a CPU only the
            occupied ones are computed.
        noise: the source of randomness; tests replay a reference's generator here.
    """

    def __init__(self, model: Model, slots: int, noise: Noise | None = None) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        if model.mask_id is None:
            raise DecoderError(f"a diffusion decoder needs a mask id; {model.name} has none")
        self.model, self.slots = model, slots
        self._mask_id: int = model.mask_id
        self._noise: Noise = noise or CounterNoise()
        self._waiting: deque[Request] = deque()
        self._slots: dict[int, Slot] = {}
        self._state = _State.empty(slots, model.eos_id, model.device)
        self._history: dict[int, _Step] = {}
        self._passes = 0

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._slots)

    def submit(self, request: Request) -> None:
        check_request(self.model, request)
        if not isinstance(request.decoder, Llada):
            raise DecoderError(f"{request.decoder.recipe} is no masked-diffusion recipe")
        self._waiting.append(request)

    @torch.inference_mode()
    def step(self) -> list[Result]:
        self._admit()
        if not self._slots:
            return []
        occupied = sorted(self._slots)
        whole = self.model.device.type == "cuda"
        order = list(range(self.slots)) if whole else occupied
        index = torch.tensor(order, device=self.model.device)
        traced = any(self._slots[i].request.trace for i in occupied)
        with Timing(self.model.device) as timing:
            state = self._state.rows(index)
            step = self._denoise(state, {slot: row for row, slot in enumerate(order)}, traced)
            self._state.put(index, state)
        if step is not None:
            self._history[self._passes] = step
        self._passes += 1
        total = sum(_length(self._slots[i].request) for i in occupied)
        for i in occupied:
            self._slots[i].charge(timing, _length(self._slots[i].request), total)
        return [
            self._finish(i) for i in occupied if self._slots[i].passes == _budget(self._slots[i])
        ]

    def _admit(self) -> None:
        free = [i for i in range(self.slots) if i not in self._slots]
        entering = {i: self._waiting.popleft() for i in free[: len(self._waiting)]}
        for i, request in entering.items():
            self._slots[i] = Slot(request, self._passes, time.perf_counter())
        if not entering:
            return
        width = bucket((_length(s.request) for s in self._slots.values()), self.model.device)
        self._resize(width)
        for i, request in entering.items():
            self._place(i, request)

    def _resize(self, width: int) -> None:
        old = self._state.tokens_SL
        if old.shape[1] >= width:
            self._state.tokens_SL = old[:, :width].contiguous()
        else:
            grown = old.new_full((self.slots, width), self.model.eos_id)
            grown[:, : old.shape[1]] = old
            self._state.tokens_SL = grown

    def _place(self, i: int, request: Request) -> None:
        decoder, state = _llada(request), self._state
        assert decoder.block_length is not None
        prompt, canvas = len(request.prompt_ids), decoder.gen_length
        row = torch.full((state.tokens_SL.shape[1],), self.model.eos_id)
        row[:prompt] = torch.tensor(request.prompt_ids)
        row[prompt : prompt + canvas] = self._mask_id
        state.tokens_SL[i] = row.to(state.tokens_SL.device)
        state.prompt_S[i] = prompt
        state.canvas_S[i] = canvas
        state.block_S[i] = decoder.block_length
        state.steps_per_block_S[i] = decoder.steps_per_block
        state.step_S[i] = 0
        state.temperature_S[i] = decoder.temperature
        state.random_S[i] = decoder.remasking == "random"
        state.no_eos_S[i] = decoder.logits_eos_inf
        state.eos_last_S[i] = decoder.confidence_eos_eot_inf
        state.seed_S[i] = self._slots[i].seed

    def _denoise(self, s: _State, rows: dict[int, int], traced: bool) -> _Step | None:
        """One pass: predicts every masked position and commits the best; updates `s` in place."""
        width, device = s.tokens_SL.shape[1], s.tokens_SL.device
        decoders = [_llada(slot.request) for slot in self._slots.values()]
        canvas = max(decoder.gen_length for decoder in decoders)
        place_G = torch.arange(canvas, device=device)
        position_SG = (s.prompt_S[:, None] + place_G).clamp_(max=width - 1)
        inside_SG = place_G < s.canvas_S[:, None]

        valid_SL = torch.arange(width, device=device) < (s.prompt_S + s.canvas_S)[:, None]
        hidden_SLD = self.model.hidden(s.tokens_SL, attention_bias(valid_SL, self.model.dtype))
        logits_SGV = self.model.head(
            hidden_SLD.gather(1, position_SG[..., None].expand(-1, -1, hidden_SLD.shape[2]))
        )
        window_SG = s.tokens_SL.gather(1, position_SG)
        masked_SG = (window_SG == self._mask_id) & inside_SG

        in_block_S = s.step_S % s.steps_per_block_S
        end_S = (s.step_S // s.steps_per_block_S + 1) * s.block_S
        reach_SG = place_G < end_S[:, None]
        block_SG = masked_SG & reach_SG & (place_G >= (end_S - s.block_S)[:, None])
        s.block_masks_S = torch.where(in_block_S == 0, block_SG.sum(1), s.block_masks_S)

        tokens_SG, confidence_SG = self._propose(s, logits_SGV, position_SG, decoders)
        confidence_SG = confidence_SG.masked_fill(~(masked_SG & reach_SG), -torch.inf)
        commit_SG = top_quota(
            confidence_SG, quota(s.block_masks_S, in_block_S, s.steps_per_block_S)
        )
        filled_SG = torch.where(masked_SG, tokens_SG, window_SG)
        canvas_SL = (torch.arange(width, device=device) - s.prompt_S[:, None]).clamp_(0, canvas - 1)
        written_SL = commit_SG.gather(1, canvas_SL) & (s.tokens_SL == self._mask_id) & valid_SL
        s.tokens_SL = torch.where(written_SL, tokens_SG.gather(1, canvas_SL), s.tokens_SL)
        s.step_S = s.step_S + 1
        if not traced:
            return None
        count_S = masked_SG.sum(1).clamp(min=1)
        return _Step(
            rows=rows,
            committed_SG=commit_SG,
            tokens_SG=filled_SG.int(),
            confidence_SG=confidence_SG.float(),
            gap_S=(top2_gap(logits_SGV) * masked_SG).sum(1) / count_S,
            entropy_S=(entropy(logits_SGV) * masked_SG).sum(1) / count_S,
        )

    def _propose(
        self, s: _State, logits_SGV: Tensor, position_SG: Tensor, decoders: list[Llada]
    ) -> tuple[Tensor, Tensor]:
        """Each position's token and confidence, with LLaDA's treatment of EOS and noise."""
        eos, eot, width = self.model.eos_id, self.model.eot_id, s.tokens_SL.shape[1]
        if any(decoder.logits_eos_inf for decoder in decoders):
            logits_SGV[..., eos].masked_fill_(s.no_eos_S[:, None], -torch.inf)
        if any(decoder.temperature for decoder in decoders):
            uniform_SGV = self._noise.over_vocabulary(
                s.seed_S, s.step_S, position_SG, logits_SGV.shape[2], width
            )
            tokens_SG = gumbel_argmax(logits_SGV, s.temperature_S, uniform_SGV)
        else:
            tokens_SG = logits_SGV.argmax(-1)
        if any(decoder.confidence_eos_eot_inf for decoder in decoders):
            # As published: at temperature 0 EOS and EoT both leave the softmax, else only EoT does.
            greedy_S = s.eos_last_S & (s.temperature_S == 0)
            logits_SGV = logits_SGV.clone()
            logits_SGV[..., eos].masked_fill_(greedy_S[:, None], -torch.inf)
            if eot is not None:
                logits_SGV[..., eot].masked_fill_(s.eos_last_S[:, None], -torch.inf)
        confidence_SG = probability_of(logits_SGV, tokens_SG)
        if any(decoder.remasking == "random" for decoder in decoders):
            drawn_SG = self._noise.over_positions(s.seed_S, s.step_S, position_SG, width)
            confidence_SG = torch.where(
                s.random_S[:, None], drawn_SG.to(confidence_SG.dtype), confidence_SG
            )
        return tokens_SG, confidence_SG

    def _finish(self, i: int) -> Result:
        slot = self._slots.pop(i)
        request, decoder = slot.request, slot.request.decoder
        prompt = len(request.prompt_ids)
        output = self._state.tokens_SL[i, prompt : prompt + decoder.gen_length].tolist()
        trace, commit_steps = self._trace(i, slot) if request.trace else (None, ())
        oldest = min((other.first_pass for other in self._slots.values()), default=self._passes)
        for done in [p for p in self._history if p < oldest]:
            del self._history[done]
        return Result(
            sid=request.sid,
            output_ids=tuple(output),
            nfe=slot.passes,
            token_forwards=slot.positions,
            decode_s=sum(slot.seconds()),
            latency_s=slot.latency_s(),
            commit_steps=commit_steps,
            trace=trace,
        )

    def _trace(self, i: int, slot: Slot) -> tuple[Trace, tuple[int, ...]]:
        steps = [self._history[p] for p in range(slot.first_pass, self._passes)]
        canvas = slot.request.decoder.gen_length

        def stack(name: str) -> Tensor:
            return torch.stack([getattr(step, name)[step.rows[i]][:canvas] for step in steps]).cpu()

        committed = stack("committed_SG").numpy()
        ranked = stack("confidence_SG")
        confidence = ranked.masked_fill(ranked == -torch.inf, float("nan")).numpy()
        written = np.where(committed.any(0), committed.argmax(0) + 1, 0)
        trace = Trace(
            committed=committed,
            tokens=stack("tokens_SG").numpy(),
            confidence=confidence,
            top2_gap=torch.stack([step.gap_S[step.rows[i]] for step in steps]).cpu().numpy(),
            entropy=torch.stack([step.entropy_S[step.rows[i]] for step in steps]).cpu().numpy(),
            elapsed_s=np.cumsum(slot.seconds()),
        )
        return trace, tuple(int(step) for step in written)


def _llada(request: Request) -> Llada:
    assert isinstance(request.decoder, Llada)  # `submit` lets no other in
    return request.decoder


def _length(request: Request) -> int:
    return len(request.prompt_ids) + request.decoder.gen_length


def _budget(slot: Slot) -> int:
    return slot.request.decoder.budget
