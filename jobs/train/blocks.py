"""Block diffusion from an autoregressive model, after Fast-dLLM v2 (arXiv 2509.26328).

A document goes through the model three times at once: two noisy streams, of which one masks what
the other keeps, and a clean one. A noisy block sees itself, both ways, and the clean blocks before
it. Rows are shifted as in an autoregressive model: row i - 1 predicts position i. The first
position of a block is predicted by the clean stream's last row of the block before, as decoding
does it; every other one by the noisy stream that masks it.

Legend: N positions of the packed documents, C of their blocks, T tiles of 128 positions.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from jobs.train.batches import Ints, Packed
from jobs.train.config import TrainConfig
from jobs.train.objectives import Batch, kind_weights
from jobs.train.tokenizer import MASK_ID

TILE = 128
CLEAN = 2
"""The clean stream's number; 0 and 1 are the noisy ones."""
FIRST_MASKED = 0.15
"""Part of the blocks whose first token is masked like the others: block-wise decoding always has
it, but likelihoods of a masked answer do not."""

Seen = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def seen_by(begin_C: Tensor, size: int) -> Seen:
    """Whether query `q` of the three streams sees key `k`, as flex attention asks it.

    Args:
        begin_C: of each block, the first block of its document.
        size: positions a block.
    """
    length = len(begin_C) * size

    def seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        block_q, block_k = (q % length) // size, (k % length) // size
        own = (q // length == k // length) & (block_q == block_k)
        earlier = (block_k < block_q) & (block_k >= begin_C[block_q])
        return own | (earlier & (k // length == CLEAN))

    return seen


def tiled(begin_C: Tensor, size: int) -> BlockMask:
    """The same as a sparse mask of 128 x 128 tiles; N must be whole tiles."""
    tiles = len(begin_C) * size // TILE
    at_T = torch.arange(tiles, device=begin_C.device)
    begin_T = begin_C[:: TILE // size] * size // TILE
    earlier_TT = (at_T <= at_T[:, None]) & (at_T >= begin_T[:, None])
    dense = torch.zeros(3, tiles, 3, tiles, dtype=torch.bool, device=begin_C.device)
    for stream in range(CLEAN):
        dense[stream, at_T, stream, at_T] = True
    dense[:, :, CLEAN] = earlier_TT
    table = dense.view(1, 1, 3 * tiles, 3 * tiles).int()
    order = table.argsort(dim=-1, descending=True, stable=True)
    return BlockMask.from_kv_blocks(
        table.sum(-1, dtype=torch.int32),
        order.int(),
        BLOCK_SIZE=TILE,
        mask_mod=seen_by(begin_C, size),
    )


class BlockDiffusion:
    """Complementary masks over the blocks of a response, and the next token at block ends."""

    attention = "unmask_blocks"
    streams = 3

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def layout(
        self, rng: np.random.Generator, kind: str, prompt: Ints, real: Ints, ends: Ints
    ) -> tuple[Ints, Ints]:
        """End-of-text up to the end of the last block; a text that goes on elsewhere is cut to
        whole blocks instead."""
        size = self.config.bd_size
        return prompt, (real + (size - 1) * (ends > 0)) // size * size

    def batch(self, packed: Packed, noise: torch.Generator, kinds: int) -> Batch:
        config, size = self.config, self.config.bd_size
        tokens, positions = packed.tokens, packed.positions
        length, device = len(tokens), tokens.device
        count = length // size
        # Stratified: the blocks of a batch cover (0, 1) evenly, in random order.
        order = torch.rand(count, generator=noise, device=device).argsort()
        offset = torch.rand(1, generator=noise, device=device)
        rate = ((order + offset) / count).repeat_interleave(size)
        bare = torch.rand(count, generator=noise, device=device) < FIRST_MASKED
        first = positions % size == 0
        answer = (positions >= packed.clean) & (packed.real > 0)
        maskable = answer & (~first | bare.repeat_interleave(size))
        masked = maskable & (torch.rand(length, generator=noise, device=device) < rate)
        streams = (
            torch.where(masked, MASK_ID, tokens),
            torch.where(maskable & ~masked, MASK_ID, tokens),
            tokens,
        )
        index = torch.arange(length, device=device)
        stream = torch.where(first, CLEAN, (~masked).long())
        weights = torch.where(positions < packed.real, 1.0, config.fill_weight) * answer
        asked = first & (positions < packed.clean)
        weights = torch.where(asked, config.question_weight, weights) * (positions > 0)
        weights = weights * kind_weights(config, packed)
        mass = torch.zeros(kinds, device=device)
        mass.index_add_(0, packed.kind, weights)
        begin_C = ((index - positions) // size)[::size]
        if tokens.is_cuda:
            blocks: BlockMask | Tensor = tiled(begin_C, size)
        else:
            every = torch.arange(3 * length)
            blocks = seen_by(begin_C, size)(every, every, every[:, None], every)
        return Batch(
            torch.cat(streams),
            positions.repeat(3),
            {"blocks": blocks},
            (stream * length + index - 1).clamp(min=0),
            tokens,
            weights,
            packed.kind,
            mass,
        )
