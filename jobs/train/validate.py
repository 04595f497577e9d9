"""Exact match on the held-out problems while training: a plain decoder, to watch by.

The published scores come from `python -m jobs.evaluate`, which decodes with the project's own
engine in float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from jobs.train.data import Problem
from jobs.train.model import hidden_states
from jobs.train.tokenizer import EOS_ID, MASK_ID


class Decoding(NamedTuple):
    """How to decode; `block` None means that the canvas is one block."""

    canvas: int
    steps: int
    block: int | None = None

    def __str__(self) -> str:
        return f"canvas {self.canvas}, {self.steps} steps, block {self.block or self.canvas}"


def answer_of(text: str) -> str:
    """What follows the last `####`; empty if there is none."""
    return text.rpartition("####")[2].strip() if "####" in text else ""


def _decode(
    model: Any, prompts: Sequence[Sequence[int]], how: Decoding, causal: bool, device: torch.device
) -> Tensor:
    """Greedy decoding of [B] prompts to [B, canvas] tokens, all rows in one packed batch."""
    blank = EOS_ID if causal else MASK_ID
    spans = torch.tensor([len(prompt) + how.canvas for prompt in prompts])
    ends = spans.cumsum(0)
    tokens = torch.tensor([i for p in prompts for i in (*p, *[blank] * how.canvas)], device=device)
    positions = torch.cat([torch.arange(span) for span in spans.tolist()]).to(device)
    boundaries = F.pad(ends, (1, 0)).int().to(device)
    canvas_BG = (ends[:, None] - how.canvas + torch.arange(how.canvas)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        if causal:
            for at in range(how.canvas):
                states = hidden_states(model, tokens, positions, boundaries, True)
                logits = F.linear(states[canvas_BG[:, at] - 1], model.lm_head.weight)
                tokens[canvas_BG[:, at]] = logits.argmax(-1)
            return tokens[canvas_BG]
        block = how.block or how.canvas
        steps = how.steps * block // how.canvas
        for begin in range(0, how.canvas, block):
            for step in range(steps):
                quota = block // steps + (step < block % steps)
                states = hidden_states(model, tokens, positions, boundaries, False)
                logits = F.linear(states[canvas_BG], model.lm_head.weight).float()
                best_BG, choice_BG = logits.softmax(-1).max(-1)
                best_BG[tokens[canvas_BG] != MASK_ID] = -1.0
                best_BG[:, begin + block :] = -1.0
                top = best_BG.topk(quota, dim=1).indices
                tokens[canvas_BG.gather(1, top)] = choice_BG.gather(1, top)
    return tokens[canvas_BG]


@torch.no_grad()
def exact_match(
    model: Any,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    how: Decoding,
    causal: bool,
    device: torch.device,
    batch: int = 250,
) -> float:
    """Part of the problems whose number after `####` is right."""
    right = 0
    for at in range(0, len(problems), batch):
        listed = problems[at : at + batch]
        prompts = [tokenizer.encode(p.prompt, add_special_tokens=False).ids for p in listed]
        for problem, row in zip(
            listed, _decode(model, prompts, how, causal, device).tolist(), strict=True
        ):
            end = row.index(EOS_ID) if EOS_ID in row else len(row)
            right += answer_of(tokenizer.decode(row[:end])) == problem.answer
    return right / max(len(problems), 1)
