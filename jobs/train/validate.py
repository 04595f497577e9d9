"""Exact match on the held-out problems while training: plain decoders, to watch by.

The published scores come from `python -m jobs.evaluate`, which decodes with the project's own
engines in float32. Legend: B rows, G canvas positions, L positions of a row, Z of a block.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from jobs.train.data import Problem
from jobs.train.model import hidden_states
from jobs.train.tokenizer import EOS_ID, MASK_ID


class Decoded(NamedTuple):
    """Tokens [B, G], and the passes that a row took on average."""

    tokens: Tensor
    passes: float


class Decoding(Protocol):
    """A greedy decoder; its text names it in the log."""

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> Decoded: ...


class Canvas(NamedTuple):
    """The prompts of a batch, packed, each followed by its canvas."""

    tokens: Tensor
    positions: Tensor
    boundaries: Tensor
    index_BG: Tensor
    """Where the canvas positions lie."""


def _packed(
    prompts: Sequence[Sequence[int]], canvas: int, blank: int, device: torch.device
) -> Canvas:
    spans = torch.tensor([len(prompt) + canvas for prompt in prompts])
    ends = spans.cumsum(0)
    return Canvas(
        torch.tensor([i for p in prompts for i in (*p, *[blank] * canvas)], device=device),
        torch.cat([torch.arange(span) for span in spans.tolist()]).to(device),
        F.pad(ends, (1, 0)).int().to(device),
        (ends[:, None] - canvas + torch.arange(canvas)).to(device),
    )


def _states(model: Any, at: Canvas, causal: bool) -> Tensor:
    attention = {"boundaries": at.boundaries, "causal": causal}
    return hidden_states(model, at.tokens[None], at.positions[None], attention)[0]


class NextTokens(NamedTuple):
    """One token a pass, left to right."""

    canvas: int

    def __str__(self) -> str:
        return f"canvas {self.canvas}, left to right"

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> Decoded:
        at = _packed(prompts, self.canvas, EOS_ID, device)
        for column_B in at.index_BG.unbind(1):
            states = _states(model, at, True)
            logits = F.linear(states[column_B - 1], model.lm_head.weight)
            at.tokens[column_B] = logits.argmax(-1)
        return Decoded(at.tokens[at.index_BG], self.canvas)


class Unmasking(NamedTuple):
    """Masked diffusion, most confident first; `block` None means that the canvas is one block."""

    canvas: int
    steps: int
    block: int | None = None

    def __str__(self) -> str:
        return f"canvas {self.canvas}, {self.steps} steps, block {self.block or self.canvas}"

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> Decoded:
        at = _packed(prompts, self.canvas, MASK_ID, device)
        block = self.block or self.canvas
        steps = self.steps * block // self.canvas
        for begin in range(0, self.canvas, block):
            for step in range(steps):
                quota = block // steps + (step < block % steps)
                logits = F.linear(_states(model, at, False)[at.index_BG], model.lm_head.weight)
                best_BG, choice_BG = logits.float().softmax(-1).max(-1)
                best_BG[at.tokens[at.index_BG] != MASK_ID] = -1.0
                best_BG[:, begin + block :] = -1.0
                top = best_BG.topk(quota, dim=1).indices
                at.tokens[at.index_BG.gather(1, top)] = choice_BG.gather(1, top)
        return Decoded(at.tokens[at.index_BG], self.steps)


class Blockwise(NamedTuple):
    """Fast-dLLM v2's rule without its caches: sub-blocks from left to right, in each pass what is
    likelier than the threshold and at least the best; a full block's last row gives the first
    token of the next one."""

    canvas: int
    block: int
    part: int
    """Positions a sub-block."""
    threshold: float

    def __str__(self) -> str:
        return (
            f"canvas {self.canvas}, block {self.block}, sub-block {self.part}, "
            f"threshold {self.threshold}"
        )

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> Decoded:
        size = self.block
        prompt_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        end_B = -((prompt_B + self.canvas) // -size) * size
        width = int(end_B.max()) + 1  # row z of the last block has a target too, never written
        rows = [[*prompt, *[MASK_ID] * (width - len(prompt))] for prompt in prompts]
        tokens_BL = torch.tensor(rows, device=device)
        positions_BL = torch.arange(width, device=device).expand_as(tokens_BL)
        block_L = positions_BL[0] // size
        attention = {"blocks": block_L[:, None] >= block_L}
        # Row z of a block predicts its position z + 1; the last one the next block's first.
        place_Z = torch.arange(1, size + 1, device=device)
        begin_B = (prompt_B - 1) // size * size
        done_B = torch.zeros_like(begin_B, dtype=torch.bool)
        passes_B = torch.zeros_like(begin_B)
        while not done_B.all():
            passes_B += ~done_B
            states_BLD = hidden_states(model, tokens_BL, positions_BL, attention)
            target_BZ = begin_B[:, None] + place_Z
            row_BZ = target_BZ - 1
            states_BZD = states_BLD.gather(
                1, row_BZ[..., None].expand(-1, -1, states_BLD.shape[-1])
            )
            logits = F.linear(states_BZD, model.lm_head.weight).float()
            logits[..., MASK_ID] = float("-inf")  # written, it would be waited for without end
            best_BZ, choice_BZ = logits.softmax(-1).max(-1)
            held_BZ = tokens_BL.gather(1, target_BZ)
            masked_BZ = (held_BZ == MASK_ID) & (place_Z < size) & ~done_B[:, None]
            full_B = ~masked_BZ.any(1)
            part_BZ = torch.where(masked_BZ, place_Z // self.part, size)
            open_BZ = masked_BZ & (part_BZ == part_BZ.amin(1, keepdim=True))
            best_BZ = torch.where(open_BZ, best_BZ, -1.0)
            commit_BZ = open_BZ & (
                (best_BZ > self.threshold) | (best_BZ == best_BZ.amax(1, keepdim=True))
            )
            next_B = begin_B + size
            written_BL = (tokens_BL == EOS_ID) & (positions_BL >= prompt_B[:, None])
            over_B = full_B & ((next_B >= end_B) | written_BL.any(1))
            moves_B = full_B & ~over_B & ~done_B
            commit_BZ |= moves_B[:, None] & (place_Z == size)
            tokens_BL.scatter_(1, target_BZ, torch.where(commit_BZ, choice_BZ, held_BZ))
            begin_B = torch.where(moves_B, next_B, begin_B)
            done_B |= over_B
        canvas_BG = prompt_B[:, None] + torch.arange(self.canvas, device=device)
        return Decoded(tokens_BL.gather(1, canvas_BG), passes_B.float().mean().item())


def answer_of(text: str) -> str:
    """What follows the last `####`; empty if there is none."""
    return text.rpartition("####")[2].strip() if "####" in text else ""


class Score(NamedTuple):
    right: float
    """Part of the problems whose number after `####` is right."""
    passes: float


@torch.no_grad()
def exact_match(
    decoding: Decoding,
    model: Any,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    device: torch.device,
    batch: int = 250,
) -> Score:
    """Decodes the problems' prompts and reads the numbers."""
    right, passes = 0, 0.0
    for at in range(0, len(problems), batch):
        listed = problems[at : at + batch]
        prompts = [tokenizer.encode(p.prompt, add_special_tokens=False).ids for p in listed]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            decoded = decoding(model, prompts, device)
        passes += decoded.passes * len(listed)
        for problem, row in zip(listed, decoded.tokens.tolist(), strict=True):
            end = row.index(EOS_ID) if EOS_ID in row else len(row)
            right += answer_of(tokenizer.decode(row[:end])) == problem.answer
    count = max(len(problems), 1)
    return Score(right / count, passes / count)
