"""From logits to a token and its confidence. B rows, W positions, V vocabulary."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Confidence = Literal["probability", "margin", "entropy", "random", "position"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """dInfer's credit: what was likeliest at a position in earlier steps gains weight.

    Source: `CreditThresholdParallelDecoder` of inclusionAI/dInfer.
    """

    weight: float = 0.7
    power: float = 0.2
    decay: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How a position's token is chosen and how sure of it the model is."""

    temperature: float = 0.0
    style: Literal["gumbel", "categorical"] = "gumbel"
    """gumbel: LLaDA's race in float64; confidence is of the logits as they are. categorical:
    Dream's draw from the tempered, filtered distribution, which gives the confidence too."""
    top_p: float | None = None
    top_k: int | None = None
    confidence: Confidence = "probability"
    double: bool = False
    """Confidence in float64."""
    no_eos: bool = False
    """EOS is never chosen."""
    eos_last: bool = False
    """EOS and end-of-turn have no confidence."""
    no_mask: bool = False
    """The mask token is never chosen."""
    skip_mask: bool = False
    """A position where the mask token is likeliest is not written."""
    credit: Credit | None = None


def gumbel_argmax(logits_BWV: Tensor, temperature: Tensor | float, race_BWV: Tensor) -> Tensor:
    """LLaDA's sampler: argmax of exp(logits) / E**temperature in float64, [B, W].

    `race_BWV` are exponential variates E; `temperature` is a number or broadcastable to [B, W, V].
    Source: `add_gumbel_noise` of ML-GSAI/LLaDA, categorical at temperature 1.
    """
    return gumbel_scores(logits_BWV, temperature, race_BWV).argmax(-1)


def gumbel_scores(logits_BWV: Tensor, temperature: Tensor | float, race_BWV: Tensor) -> Tensor:
    """What `gumbel_argmax` compares, float64."""
    return logits_BWV.double().exp() / race_BWV.double() ** temperature


def categorical(probabilities_BWV: Tensor, race_BWV: Tensor) -> Tensor:
    """One draw from each distribution, [B, W]: argmax of p / E, as torch.multinomial does it."""
    return categorical_scores(probabilities_BWV, race_BWV).argmax(-1)


def categorical_scores(probabilities_BWV: Tensor, race_BWV: Tensor) -> Tensor:
    """What `categorical` compares, in the dtype of the probabilities."""
    return probabilities_BWV / race_BWV.to(probabilities_BWV.dtype)


def leader(parts: Iterable[tuple[int, Tensor]]) -> Tensor:
    """argmax over a vocabulary whose scores come part by part, [B, W]: of equal ones the first
    part's. Each part is where it begins and its scores [B, W, V']."""
    found: tuple[Tensor, Tensor] | None = None
    for low, scores_BWV in parts:
        place_BW = scores_BWV.argmax(-1)
        score_BW = scores_BWV.gather(-1, place_BW[..., None]).squeeze(-1)
        token_BW = place_BW + low
        if found is not None:
            ahead_BW = score_BW > found[1]
            token_BW = torch.where(ahead_BW, token_BW, found[0])
            score_BW = torch.where(ahead_BW, score_BW, found[1])
        found = token_BW, score_BW
    if found is None:
        raise ValueError("a vocabulary has at least one part")
    return found[0]


def filtered(logits_BWV: Tensor, top_p: float | None, top_k: int | None) -> Tensor:
    """Logits with all but the nucleus and the k best at the least finite value.

    Source: `top_p_logits` and `top_k_logits` of Dream's generation code: top_p first; the token
    that crosses `top_p` stays.
    """
    least = torch.finfo(logits_BWV.dtype).min
    if top_p is not None and top_p < 1:
        ordered, order = logits_BWV.sort(dim=-1, descending=True)
        beyond = ordered.softmax(-1).cumsum(-1) > top_p
        beyond = torch.cat([torch.zeros_like(beyond[..., :1]), beyond[..., :-1]], dim=-1)
        dropped = torch.zeros_like(beyond).scatter(-1, order, beyond)
        logits_BWV = logits_BWV.masked_fill(dropped, least)
    if top_k is not None and top_k < logits_BWV.shape[-1]:
        edge = logits_BWV.topk(top_k, dim=-1).values[..., -1:]
        logits_BWV = logits_BWV.masked_fill(logits_BWV < edge, least)
    return logits_BWV


def probability_of(logits_BWV: Tensor, tokens_BW: Tensor, double: bool = False) -> Tensor:
    """Softmax probability of each token, [B, W], in the dtype of the logits or in float64."""
    logits = logits_BWV.double() if double else logits_BWV
    return logits.softmax(-1).gather(-1, tokens_BW[..., None]).squeeze(-1)


def categorical_confidence(
    probabilities_BWV: Tensor, tokens_BW: Tensor, kind: Confidence
) -> Tensor:
    """Dream's confidences of a distribution: of the token drawn, the margin of the two best, or
    the negative entropy; [B, W]."""
    if kind == "margin":
        best = probabilities_BWV.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    if kind == "entropy":
        return (probabilities_BWV * torch.log(probabilities_BWV + 1e-10)).sum(-1)
    return probabilities_BWV.gather(-1, tokens_BW[..., None]).squeeze(-1)


def top2_gap(logits_BWV: Tensor) -> Tensor:
    """Difference of the two best logits, float32 [B, W]."""
    best = logits_BWV.topk(2, dim=-1).values.float()
    return best[..., 0] - best[..., 1]


def entropy(logits_BWV: Tensor) -> Tensor:
    """Entropy of the softmax in nats, float32 [B, W]."""
    p_BWV = logits_BWV.float().softmax(-1)
    return -torch.xlogy(p_BWV, p_BWV).sum(-1)
