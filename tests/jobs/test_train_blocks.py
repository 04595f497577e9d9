"""Block diffusion's objective and its plain decoder, against rules written out position by
position."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.train.batches import Packed, Rows, pack
from jobs.train.blocks import FIRST_MASKED, BlockDiffusion, seen_by, tiled
from jobs.train.config import Shape, TrainConfig
from jobs.train.corpus import KINDS
from jobs.train.model import build_model, hidden_states
from jobs.train.tokenizer import EOS_ID, MASK_ID
from jobs.train.validate import Blockwise

SIZE = 8
TINY = Shape(vocab_size=50, hidden_size=16, layers=2, heads=2, intermediate_size=32)
CONFIG = TrainConfig(shape=TINY, bd_size=SIZE)
LENGTH = 128


def laid_out(lengths: Sequence[int], prompts: Sequence[int], ends: Sequence[int]) -> Packed:
    """Documents of the given lengths, packed as the objective asks for."""
    length, prompt, end = (np.array(x, dtype=np.int64) for x in (lengths, prompts, ends))
    objective = BlockDiffusion(CONFIG)
    rng = np.random.default_rng(0)
    clean, span = objective.layout(rng, "problems", prompt, length + end, end)
    start = np.cumsum(length) - length
    rows = Rows(start, length, length + end, clean, span, length * 0)
    text = torch.arange(int(length.sum())) % 40 + 2
    return pack(rows, text, LENGTH, 16)


@pytest.fixture()
def packed() -> Packed:
    return laid_out((21, 30, 16), (10, 0, 3), (1, 0, 1))


def test_rows_are_whole_blocks(packed: Packed) -> None:
    """21 and end-of-text take 3 blocks, 30 without an end are cut to 3, 16 and an end take 3."""
    assert packed.boundaries[:4].tolist() == [0, 24, 48, 72]
    assert packed.tokens[21:24].tolist() == [EOS_ID] * 3
    assert EOS_ID not in packed.tokens[24:48]


def test_who_sees_whom_by_brute_force(packed: Packed) -> None:
    index = torch.arange(LENGTH)
    begin_C = ((index - packed.positions) // SIZE)[::SIZE]
    every = torch.arange(3 * LENGTH)
    ours = seen_by(begin_C, SIZE)(every, every, every[:, None], every)
    for q in range(0, 3 * LENGTH, 5):
        stream_q, at_q = divmod(q, LENGTH)
        for k in range(3 * LENGTH):
            stream_k, at_k = divmod(k, LENGTH)
            block_q = int(packed.positions[at_q]) // SIZE
            block_k = int(packed.positions[at_k]) // SIZE
            wanted = packed.row[at_q] == packed.row[at_k] and (
                (stream_q == stream_k and block_q == block_k)
                or (stream_k == 2 and block_k < block_q)
            )
            assert bool(ours[q, k]) == bool(wanted), (q, k)


def test_sparse_tiles_leave_out_nothing_that_is_seen() -> None:
    """Also where a document spans tiles: one tile here is 128 positions, the documents 512."""
    positions = torch.cat([torch.arange(320), torch.arange(512), torch.arange(192)])
    index = torch.arange(len(positions))
    begin_C = ((index - positions) // SIZE)[::SIZE]
    every = torch.arange(3 * len(positions))
    seen = seen_by(begin_C, SIZE)(every, every, every[:, None], every)
    tiles = tiled(begin_C, SIZE).to_dense()[0, 0].bool()
    used = seen.view(len(tiles), 128, len(tiles), 128).any(3).any(1)
    assert torch.equal(tiles, used)


def test_streams_mask_what_the_other_keeps(packed: Packed) -> None:
    batch = BlockDiffusion(CONFIG).batch(packed, torch.Generator().manual_seed(3), len(KINDS))
    one, other, clean = batch.inputs.view(3, LENGTH)
    assert torch.equal(clean, packed.tokens)
    assert torch.equal(batch.positions, packed.positions.repeat(3))
    answer = (packed.positions >= packed.clean) & (packed.real > 0)
    first = packed.positions % SIZE == 0
    masked = (one == MASK_ID).int() + (other == MASK_ID).int()
    assert (masked[answer & ~first] == 1).all() and (masked[~answer] == 0).all()
    assert set(masked[answer & first].tolist()) <= {0, 1}
    for stream in (one, other):
        assert torch.equal(stream[stream != MASK_ID], packed.tokens[stream != MASK_ID])


def test_firsts_are_masked_now_and_then() -> None:
    packed = laid_out((127,), (0,), (1,))
    objective, noise = BlockDiffusion(CONFIG), torch.Generator().manual_seed(0)
    batches = [objective.batch(packed, noise, len(KINDS)) for _ in range(100)]
    masked = torch.stack([(b.inputs.view(3, LENGTH)[:2] == MASK_ID).any(0) for b in batches])
    assert masked[:, ::SIZE].float().mean() == pytest.approx(FIRST_MASKED, abs=0.03)


def test_each_target_is_asked_where_decoding_asks(packed: Packed) -> None:
    """Row i - 1, in the stream that masks i; a block's first one in the clean stream."""
    config = CONFIG
    batch = BlockDiffusion(config).batch(packed, torch.Generator().manual_seed(5), len(KINDS))
    streams = batch.inputs.view(3, LENGTH)
    assert torch.equal(batch.targets, packed.tokens)
    for i in range(LENGTH):
        place, clean = int(packed.positions[i]), int(packed.clean[i])
        real, weight = int(packed.real[i]), float(batch.weights[i])
        first = place % SIZE == 0
        if place == 0 or real == 0 or (place < clean and not first):
            assert weight == 0
            continue
        base = 1.0 if place < real else config.fill_weight
        base = config.question_weight if place < clean else base
        assert weight == pytest.approx(base * config.problem_weight)
        stream, row = divmod(int(batch.select[i]), LENGTH)
        assert row == i - 1
        assert stream == 2 if first else streams[stream][i] == MASK_ID
    assert batch.kind_mass.sum() == pytest.approx(batch.weights.sum())


def model() -> Any:
    made = build_model(TINY, 0, "unmask_blocks")
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return made


def test_training_rows_are_those_of_a_plain_block_causal_pass(packed: Packed) -> None:
    """The clean stream of a document, and a noisy block after its clean blocks, alone."""
    batch = BlockDiffusion(CONFIG).batch(packed, torch.Generator().manual_seed(1), len(KINDS))
    network = model()
    with torch.no_grad():
        ours = hidden_states(network, batch.inputs[None], batch.positions[None], batch.attention)
        noisy, _, clean = ours[0].view(3, LENGTH, -1)
        place = torch.arange(24)
        plain = {"blocks": place[:, None] // SIZE >= place // SIZE}
        whole = hidden_states(network, packed.tokens[None, :24], place[None], plain)[0]
        torch.testing.assert_close(clean[:24], whole)
        mixed = torch.cat([packed.tokens[:16], batch.inputs[16:24]])
        whole = hidden_states(network, mixed[None], place[None], plain)[0]
        torch.testing.assert_close(noisy[16:24], whole[16:])


def slowly(network: Any, prompt: list[int], how: Blockwise) -> list[int]:
    """One row, one list: the rule as it is told."""

    def logits(tokens: list[int]) -> Tensor:
        place = torch.arange(len(tokens))
        seen = {"blocks": place[:, None] // how.block >= place // how.block}
        states = hidden_states(network, torch.tensor([tokens]), place[None], seen)[0]
        rows = states @ network.lm_head.weight.T
        rows[:, MASK_ID] = float("-inf")
        return rows.softmax(-1)

    tokens = list(prompt)
    end = -(-(len(prompt) + how.canvas) // how.block) * how.block
    if len(tokens) % how.block == 0:
        tokens.append(int(logits(tokens)[-1].argmax()))
    while True:
        begin = (len(tokens) - 1) // how.block * how.block
        tokens += [MASK_ID] * (begin + how.block - len(tokens))
        for part in range(begin, begin + how.block, how.part):
            while MASK_ID in tokens[part : part + how.part]:
                best, choice = logits(tokens).max(-1)
                left = [i for i in range(part, part + how.part) if tokens[i] == MASK_ID]
                top = max(left, key=lambda i: float(best[i - 1]))
                for i in left:
                    if i == top or best[i - 1] > how.threshold:
                        tokens[i] = int(choice[i - 1])
        if EOS_ID in tokens[len(prompt) :] or len(tokens) >= end:
            break
        tokens.append(int(logits(tokens)[-1].argmax()))
    return tokens[len(prompt) : len(prompt) + how.canvas]


@torch.no_grad()
@pytest.mark.parametrize(("part", "threshold"), [(8, 0.9), (4, 0.3), (2, 1.0)])
def test_plain_decoder_follows_the_rule(part: int, threshold: float) -> None:
    network, how = model(), Blockwise(20, SIZE, part, threshold)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 50, size).tolist() for size in (3, 8, 13, 16)]
    decoded = how(network, prompts, torch.device("cpu"))
    assert decoded.passes > 1
    for prompt, row in zip(prompts, decoded.tokens.tolist(), strict=True):
        wanted = slowly(network, prompt, how)
        assert row[: len(wanted)] == wanted
