"""From logits to a token and its confidence. S slots, G positions, V vocabulary."""

import torch
from torch import Tensor


def gumbel_argmax(logits_SGV: Tensor, temperature_S: Tensor, uniform_SGV: Tensor) -> Tensor:
    """LLaDA's sampler: argmax of exp(logits) / (-log U)**temperature in float64, [S, G].

    Rows of temperature 0 take the plain argmax. Source: `add_gumbel_noise` of ML-GSAI/LLaDA,
    which gives categorical samples at temperature 1.
    """
    temperature = temperature_S.double()[:, None, None]
    race = logits_SGV.double().exp() / (-uniform_SGV.log()) ** temperature
    drawn_SG = race.argmax(-1)
    return torch.where(temperature_S[:, None] > 0, drawn_SG, logits_SGV.argmax(-1))


def probability_of(logits_SGV: Tensor, tokens_SG: Tensor) -> Tensor:
    """Softmax probability of each token, [S, G], in the dtype of the logits."""
    return logits_SGV.softmax(-1).gather(-1, tokens_SG[..., None]).squeeze(-1)


def top2_gap(logits_SGV: Tensor) -> Tensor:
    """Difference of the two best logits, float32 [S, G]."""
    best = logits_SGV.topk(2, dim=-1).values.float()
    return best[..., 0] - best[..., 1]


def entropy(logits_SGV: Tensor) -> Tensor:
    """Entropy of the softmax in nats, float32 [S, G]."""
    log_p = logits_SGV.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
