"""LLaDA's Monte Carlo estimate, as the authors draw it: one answer, one batch after another.

Legend: M samples, N answer tokens, B rows of a forward, L positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from decoders.models.base import Model, attention_bias
from decoders.types import DecoderError


@torch.inference_mode()
def masked_likelihood(
    model: Model,
    prompt: Sequence[int],
    answer: Sequence[int],
    mc_num: int,
    batch: int,
    generator: torch.Generator,
    cfg_scale: float = 0.0,
) -> tuple[float, int]:
    """LLaDA's estimate of log p(answer | prompt) in nats, and the forwards that it took.

    Each of `mc_num` samples masks a number of answer tokens, stratified over a batch from a random
    start, at random places; the cross entropy of the masked tokens is weighted by the inverse of
    the masked share. Source: `get_log_likelihood` of ML-GSAI/LLaDA. `Likelihood` gives the same
    value for many answers at once.

    Args:
        model: bidirectional, with a mask id.
        prompt: token ids; may be empty.
        answer: token ids, at least one.
        mc_num: samples in all, a multiple of `batch`.
        batch: samples of one forward.
        generator: of the CPU; the draws are the reference's, in its order.
        cfg_scale: classifier-free guidance against a masked prompt; 0: none.

    Raises:
        DecoderError: the model has no mask id, the answer is empty, or `mc_num` does not divide.
    """
    if model.mask_id is None:
        raise DecoderError(f"{model.name} has no mask id")
    if not answer:
        raise DecoderError("a likelihood needs an answer of at least one token")
    start, length = len(prompt), len(answer)
    masked_MN = draw_masks(length, mc_num, batch, generator)
    sequence_BL = torch.tensor([[*prompt, *answer]]).repeat(batch, 1)
    bias = attention_bias(torch.ones_like(sequence_BL, dtype=torch.bool), model.dtype)
    bias = bias.to(model.device)
    total, rounds = 0.0, mc_num // batch
    for drawn_BN in masked_MN.reshape(rounds, batch, length):
        masked_BL = torch.zeros_like(sequence_BL, dtype=torch.bool)
        masked_BL[:, start:] = drawn_BN
        counts_B = drawn_BN.sum(-1)
        noisy_BL = sequence_BL.masked_fill(masked_BL, model.mask_id).to(model.device)
        time_B = counts_B.to(model.device) / length
        logits = model.head(model.hidden(noisy_BL, bias, time_B))
        if cfg_scale > 0:
            noisy_BL[:, :start] = model.mask_id
            blank = model.head(model.hidden(noisy_BL, bias, time_B))
            logits = blank + (cfg_scale + 1) * (logits - blank)
        if model.shift:
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        target_BL = sequence_BL.to(model.device)
        loss_BL = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), target_BL, reduction="none"
        )
        weighted_BL = loss_BL.cpu() * masked_BL * (length / counts_B)[:, None]
        total += float(weighted_BL.sum()) / batch
    return -total / rounds, rounds


def draw_masks(length: int, mc_num: int, batch: int, generator: torch.Generator) -> Tensor:
    """Which answer tokens each sample masks, bool [M, N]; at least one a sample.

    Within a batch the numbers of masked tokens are evenly spread over 1..N from a random start.

    Raises:
        DecoderError: `mc_num` is no positive multiple of `batch`.
    """
    if mc_num < 1 or batch < 1 or mc_num % batch:
        raise DecoderError(f"mc_num must be a multiple of the batch, got {mc_num} and {batch}")
    drawn = []
    for _ in range(mc_num // batch):
        first = int(torch.randint(1, length + 1, (), generator=generator))
        spread = torch.linspace(first, first + (batch - 1) * (length / batch), batch)
        for count in ((spread.round().long() - 1) % length + 1).tolist():
            order = torch.randperm(length, generator=generator)
            drawn.append((torch.arange(length) < count)[order])
    return torch.stack(drawn)
