"""How near a joint sampler comes to its base model, on texts that neither was trained on.

    python -m jobs.train.joint_score --sampler tiny-joint --base tiny-mdlm --text news

prints it for a finished sampler, in float32: on the bundled held-out problems, or on sentences of
the LM1B test file. Legend: B rows, L positions, D hidden size, V vocabulary.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from decoders import DecoderError, Model, find_checkpoint, load_model
from decoders.joint import JointSampler, load_sampler
from decoders.models.base import attention_bias
from evaluators import get_task
from evaluators.store import read
from jobs.train.data import Problem
from jobs.train.tokenizer import EOS_ID, MASK_ID, load_tokenizer
from jobs.train.validate import Decoded, exact_match

CANVAS = 64
BATCH = 125
WRITTEN = 3
"""How many tokens are written, one after the other."""
RESAMPLES = 2000

Encoded = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Prompts and responses as token ids."""


def _interval(values: NDArray[np.float64]) -> list[float]:
    """Mean, and the 95 % percentile bootstrap interval of the mean over rows."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(x), 5) for x in (values.mean(), low, high)]


@torch.no_grad()
def divergences(base: Model, sampler: JointSampler, encoded: Encoded) -> dict[str, Any]:
    """Distance from the full model's distributions after 1, 2, 3 tokens, by row: the sampler's,
    and that of the full model's own distributions before any of them (stale).

    Each response, in a canvas of 64, is masked at a random rate. Positions are written in random
    order or by least entropy; their tokens, and the entropy, are the full model's, so that both are
    judged on canvases that neither of them chose. A row's distance is the mean over the positions
    that are masked still: Kullback-Leibler divergence in nats, and total variation.
    """
    table: dict[str, Any] = {"rows": 0}
    for order in ("random", "least entropy"):
        rng = np.random.default_rng(0)
        noise = torch.Generator(base.device).manual_seed(0)
        rows: dict[tuple[str, int, str], list[Tensor]] = {}
        for begin in range(0, len(encoded), BATCH):
            start = _masked(encoded[begin : begin + BATCH], rng, base)
            if start is None:
                continue
            tokens_BL, masked_BL, bias = start
            place_1L = torch.arange(tokens_BL.shape[1], device=base.device)[None]
            state_BLD = base.hidden(tokens_BL, bias)
            full_BLV = stale_BLV = base.head(state_BLD).log_softmax(-1)
            for step in range(1, WRITTEN + 1):
                rank_BL = -(full_BLV.exp() * full_BLV).sum(-1)
                if order == "random":
                    rank_BL = torch.rand(rank_BL.shape, generator=noise, device=base.device)
                pick_B1 = torch.where(masked_BL, rank_BL, torch.inf).argmin(1, keepdim=True)
                index = pick_B1[..., None].expand(-1, -1, full_BLV.shape[-1])
                chosen_BV = full_BLV.gather(1, index)[:, 0].exp()
                chosen_BV[:, MASK_ID] = 0.0
                token_B1 = chosen_BV.multinomial(1, generator=noise)
                tokens_BL = tokens_BL.scatter(1, pick_B1, token_B1)
                masked_BL = masked_BL.scatter(1, pick_B1, False)
                state_BLD = sampler(tokens_BL, state_BLD, bias, place_1L)
                joint_BLV = base.head(state_BLD).log_softmax(-1)
                full_BLV = base.head(base.hidden(tokens_BL, bias)).log_softmax(-1)
                for name, other in (("sampler", joint_BLV), ("stale", stale_BLV)):
                    kl_BL = (full_BLV.exp() * (full_BLV - other)).sum(-1)
                    tv_BL = (full_BLV.exp() - other.exp()).abs().sum(-1) / 2
                    for kind, value in (("kl", kl_BL), ("tv", tv_BL)):
                        mean_B = (value * masked_BL).sum(1) / masked_BL.sum(1)
                        rows.setdefault((kind, step, name), []).append(mean_B.cpu().double())
        found = {key: torch.cat(parts).numpy() for key, parts in rows.items()}
        for (kind, step, name), values in found.items():
            table["rows"] = len(values)
            entry = table.setdefault(f"{order}, {step} written, {kind}", {})
            entry[name] = _interval(values)
            if name == "stale":
                entry["stale - sampler"] = _interval(values - found[kind, step, "sampler"])
    return table


def _masked(
    encoded: Encoded, rng: np.random.Generator, base: Model
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Tokens and masks [B, L] of the responses that fit a canvas, and the attention bias."""
    part = [(prompt, response) for prompt, response in encoded if len(response) <= CANVAS]
    if not part:
        return None
    width = max(len(prompt) for prompt, _ in part) + CANVAS
    truth = np.full((len(part), width), EOS_ID)
    real = np.zeros((len(part), width), dtype=bool)
    mask = np.zeros((len(part), width), dtype=bool)
    for row, (prompt, response) in enumerate(part):
        truth[row, : len(prompt) + len(response)] = [*prompt, *response]
        real[row, : len(prompt) + CANVAS] = True
        hidden = max(WRITTEN + 1, int(rng.uniform() * CANVAS))
        mask[row, len(prompt) + rng.permutation(CANVAS)[:hidden]] = True
    tokens, masked, seen = (
        torch.from_numpy(x).to(base.device) for x in (np.where(mask, MASK_ID, truth), mask, real)
    )
    return tokens, masked, attention_bias(seen, base.dtype)


class _Parallel:
    """ADJUST's loop, greedy: after each full pass several tokens, least entropy first."""

    def __init__(self, base: Model, sampler: JointSampler | None, tokens_a_pass: int) -> None:
        self.base, self.sampler, self.tokens_a_pass = base, sampler, tokens_a_pass

    def __call__(
        self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device
    ) -> Decoded:
        base, mask = self.base, MASK_ID
        width = max(len(prompt) for prompt in prompts) + CANVAS
        rows = [[*p, *[mask] * CANVAS, *[EOS_ID] * (width - len(p) - CANVAS)] for p in prompts]
        tokens_BL = torch.tensor(rows, device=device)
        ends_B1 = torch.tensor([[len(prompt) + CANVAS] for prompt in prompts], device=device)
        place_1L = torch.arange(width, device=device)[None]
        bias = attention_bias(place_1L < ends_B1, base.dtype)
        canvas_BG = ends_B1 - CANVAS + torch.arange(CANVAS, device=device)
        index = canvas_BG[..., None]
        for written in range(CANVAS):
            if written % self.tokens_a_pass == 0:
                state_BLD = base.hidden(tokens_BL, bias)
            elif self.sampler is not None:
                state_BLD = self.sampler(tokens_BL, state_BLD, bias, place_1L)
            logits_BGV = base.head(state_BLD.gather(1, index.expand(-1, -1, state_BLD.shape[-1])))
            logits_BGV[..., mask] = -1e4
            log_BGV = logits_BGV.float().log_softmax(-1)
            entropy_BG = -(log_BGV.exp() * log_BGV).sum(-1)
            open_BG = tokens_BL.gather(1, canvas_BG) == mask
            pick_B1 = torch.where(open_BG, entropy_BG, torch.inf).argmin(1, keepdim=True)
            token_B1 = log_BGV.argmax(-1).gather(1, pick_B1)
            tokens_BL = tokens_BL.scatter(1, canvas_BG.gather(1, pick_B1), token_B1)
        return Decoded(tokens_BL.gather(1, canvas_BG), -(CANVAS // -self.tokens_a_pass))


def decoded(
    base: Model, sampler: JointSampler, tokenizer: Tokenizer, problems: Sequence[Problem]
) -> dict[str, Any]:
    """Part of the problems solved in a canvas of 64 by one, 4, 8 and 16 tokens a full pass, with
    and without the sampler."""
    found = {"1": exact_match(_Parallel(base, None, 1), base, tokenizer, problems, base.device)}
    for count in (4, 8, 16):
        for name, used in (("sampler", sampler), ("stale", None)):
            how = _Parallel(base, used, count)
            found[f"{count} {name}"] = exact_match(how, base, tokenizer, problems, base.device)
    return {name: score.right for name, score in found.items()}


def texts(kind: str, rows: int) -> list[tuple[str, str]]:
    """Prompts and what follows them, that no bundled model was trained on."""
    if kind == "problems":
        found = [
            Problem(row["template"], row["question"], tuple(row["steps"]), row["answer"])
            for row in read("gsm8k_resampled")
        ]
        return [(problem.prompt, problem.response) for problem in found[:rows]]
    samples = get_task("lm1b").load()[:rows]
    return [(sample.fields["prefix"], f" {sample.target}") for sample in samples]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train.joint_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sampler", required=True, help="a bundled name, a folder, a hub name")
    parser.add_argument("--base", required=True, help="the model that it was trained for")
    parser.add_argument("--text", choices=("problems", "news"), default="problems")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    try:
        checkpoint = find_checkpoint(args.base)
        base = load_model(checkpoint, args.device)
        sampler = load_sampler(args.sampler, base)
    except DecoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokenizer = load_tokenizer(checkpoint.folder)

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    encoded = [(ids(prompt), ids(rest)) for prompt, rest in texts(args.text, args.rows)]
    print(json.dumps(divergences(base, sampler, encoded), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
