"""Which drafts stand: the acceptance rules of speculative and of guided decoding.

Pure functions of distributions, so that a test can enumerate what the engines only draw from.

Legend: B rows, G drafts, W positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from decoders.selection import ranks


def tempered(logits_BWV: Tensor, temperatures: Sequence[float]) -> Tensor:
    """What tokens are drawn from, float64 [B, W, V]: softmax(logits / temperature), or all weight
    on the likeliest token at temperature 0."""
    scales = [temperature or 1.0 for temperature in temperatures]
    scale_B11 = torch.tensor(scales, dtype=torch.float64, device=logits_BWV.device)[:, None, None]
    drawn_BWV = (logits_BWV.double() / scale_B11).softmax(-1)
    if all(temperatures):
        return drawn_BWV
    cold_B = torch.tensor([not temperature for temperature in temperatures])
    cold_B11 = cold_B.to(logits_BWV.device)[:, None, None]
    return torch.where(cold_B11, points(logits_BWV.argmax(-1), drawn_BWV), drawn_BWV)


def fixed_now(open_BG: Tensor, confidence_BG: Tensor, count_B: Tensor) -> Tensor:
    """The `count` most confident open drafts, which a denoising step fixes, bool [B, G]; of equal
    ones the leftmost come first."""
    places_BG = ranks(confidence_BG.masked_fill(~open_BG, -torch.inf))
    return (places_BG < count_B[:, None]) & open_BG


def drawn_from(last_BGV: Tensor, drafts_BG: Tensor, early_BG: Tensor) -> Tensor:
    """The distribution q of each draft of a denoised row as a verifier must see it, [B, G, V].

    A draft fixed before the last denoising step (`early`) is a point mass; the others were drawn
    independently from the last step's categoricals, `last_BGV`, given everything fixed before.
    Taking for an early draft the distribution that it was drawn from is biased: positions to its
    left were drawn later, with it in view, and the verifier reads from left to right.
    """
    return torch.where(early_BG[..., None], points(drafts_BG, last_BGV), last_BGV)


def acceptance(p_BGV: Tensor, q_BGV: Tensor, drafts_BG: Tensor) -> Tensor:
    """Chance of each draft to be accepted if those before it were, [B, G]: min(1, p(x) / q(x)).

    Leviathan et al. 2023, section 2.3. It means nothing where q(x) is 0, which no draft has.
    """
    index_BG1 = drafts_BG[..., None]
    ratio_BG1 = p_BGV.gather(-1, index_BG1) / q_BGV.gather(-1, index_BG1)
    return ratio_BG1.squeeze(-1).clamp(max=1)


def residual(p_BV: Tensor, q_BV: Tensor) -> Tensor:
    """What the token in place of the first refused draft is drawn from, [B, V]: max(0, p - q),
    normalised. With q = 0, after the last draft, it is p itself."""
    rest_BV = (p_BV - q_BV).clamp(min=0)
    total_B1 = rest_BV.sum(-1, keepdim=True)
    return torch.where(total_B1 > 0, rest_BV / total_B1, p_BV)


def following(p_BWV: Tensor, q_BGV: Tensor, kept_B: Tensor) -> Tensor:
    """What the token after the `kept` drafts of each row is drawn from, [B, V]; `p` has one
    position more than the drafts."""
    row_B = torch.arange(kept_B.shape[0], device=kept_B.device)
    q_BWV = pad(q_BGV, (0, 0, 0, 1))
    return residual(p_BWV[row_B, kept_B], q_BWV[row_B, kept_B])


def leading(accepted_BG: Tensor) -> Tensor:
    """How many drafts stand before the first one that does not, [B]."""
    return accepted_BG.int().cumprod(-1).sum(-1)


class Tolerance(NamedTuple):
    """What a guider lets pass: the draft is its own best token or among its `top_k`, it has at
    least `relative` of the best token's probability, and more than `threshold`."""

    top_k: int = 0
    relative: float = 0.0
    threshold: float = -1.0


def tolerated(
    logits_BWV: Tensor, drafts_BW: Tensor, tolerances: Sequence[Tolerance]
) -> tuple[Tensor, Tensor]:
    """Which drafts a guider lets pass, bool [B, W], and its probability of each, float32 [B, W].

    Of equally likely tokens all are in the top k if one is.
    """
    device = logits_BWV.device
    number_B3 = torch.tensor(tolerances, dtype=torch.float64, device=device)
    top_k_B1, relative_B1, threshold_B1 = (number_B3[:, n : n + 1] for n in range(3))
    index_BW1 = drafts_BW[..., None]
    above_BW = (logits_BWV > logits_BWV.gather(-1, index_BW1)).sum(-1)
    chance_BWV = logits_BWV.float().softmax(-1)
    chance_BW = chance_BWV.gather(-1, index_BW1).squeeze(-1)
    among_BW = (drafts_BW == logits_BWV.argmax(-1)) | (above_BW < top_k_B1)
    near_BW = chance_BW >= relative_B1 * chance_BWV.amax(-1)
    return among_BW & near_BW & (chance_BW > threshold_B1), chance_BW


def points(tokens_BW: Tensor, like_BWV: Tensor) -> Tensor:
    """Point masses on tokens, [B, W, V]."""
    return torch.zeros_like(like_BWV).scatter_(-1, tokens_BW[..., None], 1.0)
