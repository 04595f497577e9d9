"""Which masked positions a step commits. S slots, G canvas positions.

A rule is a function of tensors over slots: fixed shapes, no Python over rows, no host sync.
"""

import torch
from torch import Tensor


def quota(block_masks_S: Tensor, step_S: Tensor, steps_S: Tensor) -> Tensor:
    """How many positions to commit at `step` (from 0) of the `steps` of a block, [S].

    The remainder goes to the first steps, as LLaDA's `get_num_transfer_tokens` has it.
    """
    return block_masks_S // steps_S + (step_S < block_masks_S % steps_S)


def top_quota(confidence_SG: Tensor, quota_S: Tensor) -> Tensor:
    """The `quota` most confident positions of each row, bool [S, G].

    Positions of confidence -inf are never taken; of equal ones the leftmost goes first.
    """
    order_SG = confidence_SG.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(confidence_SG.shape[1], device=confidence_SG.device)
    rank_SG = torch.empty_like(order_SG).scatter_(1, order_SG, places.expand_as(order_SG))
    return (rank_SG < quota_S[:, None]) & (confidence_SG > -torch.inf)
