"""Attention that reads keys and values where they lie: in the store of all slots, by slot number.

Every query sees the keys [0, limit) of its row, which says all three visibilities: the row's length
(bidirectional), the query's own place (causal), the end of its block (block-causal). There is no
mask tensor and no copy of the keys.

Legend: B rows of a pass, Q queries of a row, H query heads, J key heads, S slots, K places of the
store, D head size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_FILL = 264
"""Programs that fill a large GPU twice; with fewer, the keys of a row are split among several."""
_SPLITS = 16


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    slots_B: Tensor,
    limits_BQ: Tensor,
    scale: float,
) -> Tensor:
    """Softmax attention, [B, Q, H, D] in the dtype of the queries; accumulated in float32.

    A row's result depends on its own queries, keys and limits, and on the shapes of the call.

    Args:
        queries: [B, Q, H, D], any strides but the last, which is 1.
        keys: [S, J, K, D], likewise; H is a multiple of J.
        values: as the keys, with the same strides.
        slots_B: int64, contiguous, where the keys of each row lie.
        limits_BQ: int32, contiguous; a query with limit 0 gets zeros.
        scale: what scores are multiplied with.
    """
    rows, count, heads, size = queries.shape
    key_heads = keys.shape[1]
    groups = heads // key_heads
    out = torch.empty((rows, count, heads, size), dtype=queries.dtype, device=queries.device)
    block_m = min(128, max(16, triton.next_power_of_2(count * groups)))
    tiles = triton.cdiv(count * groups, block_m)
    programs = tiles * key_heads * rows
    # By the shape of the pass alone: how wide the store is depends on who was in it before.
    splits = 1
    if programs < _FILL:
        splits = min(_SPLITS, triton.cdiv(2 * _FILL, programs))
    if splits > 1:
        shape = (splits, rows, count, heads)
        part = torch.empty((*shape, size), dtype=torch.float32, device=queries.device)
        peak = torch.empty(shape, dtype=torch.float32, device=queries.device)
        total = torch.empty(shape, dtype=torch.float32, device=queries.device)
    else:
        part, peak, total = out, out, out
    precise = queries.dtype == torch.float32
    block_n, warps, stages = _tile(block_m, precise)
    _attend[(tiles, key_heads * splits, rows)](
        queries,
        keys,
        values,
        out,
        part,
        peak,
        total,
        slots_B,
        limits_BQ,
        scale * 1.4426950408889634,
        count,
        rows,
        *queries.stride()[:3],
        *keys.stride()[:3],
        GROUPS=groups,
        HEADS=heads,
        SIZE=size,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        SPLITS=splits,
        PRECISION="ieee" if precise else "tf32",
        num_warps=warps,
        num_stages=stages,
    )
    if splits > 1:
        _combine[(rows * count, heads)](
            part, peak, total, out, rows * count, HEADS=heads, SIZE=size, SPLITS=splits
        )
    return out


def _tile(block_m: int, precise: bool) -> tuple[int, int, int]:
    """Keys a block, warps and stages of the pipeline; measured on an H100."""
    warps = 8 if block_m == 128 else 4
    if precise:
        return 32, warps, 2
    if block_m >= 64:
        return 64, warps, 3
    return 64, warps, 2 if block_m == 32 else 4


@triton.jit
def _attend(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    part_ptr,
    peak_ptr,
    total_ptr,
    slot_ptr,
    limit_ptr,
    scale,
    count,
    rows,
    q_row,
    q_place,
    q_head,
    k_slot,
    k_head,
    k_place,
    GROUPS: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the queries of one row that share a key head, against one part of its keys."""
    head = tl.program_id(1) // SPLITS
    split = tl.program_id(1) % SPLITS
    row = tl.program_id(2)
    at_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    query_M = at_M // GROUPS
    q_head_M = head * GROUPS + at_M % GROUPS
    real_M = query_M < count
    limit_M = tl.load(limit_ptr + row * count + query_M, mask=real_M, other=0)
    most = tl.max(limit_M)
    least = tl.min(tl.where(real_M, limit_M, 2147483647))
    low = 0
    high = most
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(most, SPLITS), BLOCK_N) * BLOCK_N
        low = split * share
        high = tl.minimum(low + share, most)
    size_D = tl.arange(0, SIZE)
    from_row = row.to(tl.int64) * q_row
    q_MD = tl.load(
        q_ptr
        + from_row
        + query_M[:, None] * q_place
        + q_head_M[:, None] * q_head
        + size_D[None, :],
        mask=real_M[:, None],
        other=0.0,
    )
    base = tl.load(slot_ptr + row).to(tl.int64) * k_slot + head.to(tl.int64) * k_head
    k_base = k_ptr + base + size_D[:, None]
    v_base = v_ptr + base + size_D[None, :]
    peak_M = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total_M = tl.zeros([BLOCK_M], tl.float32)
    sum_MD = tl.zeros([BLOCK_M, SIZE], tl.float32)
    # Whole blocks of keys that every query sees need no mask; what is left does.
    inner = tl.maximum(low + tl.maximum(tl.minimum(high, least) - low, 0) // BLOCK_N * BLOCK_N, low)
    for start in range(low, inner, BLOCK_N):
        key_N = start + tl.arange(0, BLOCK_N)
        k_DN = tl.load(k_base + key_N[None, :] * k_place)
        score_MN = tl.dot(q_MD, k_DN, input_precision=PRECISION)
        new_M = tl.maximum(peak_M, tl.max(score_MN, 1) * scale)
        p_MN = tl.exp2(score_MN * scale - new_M[:, None])
        fade_M = tl.exp2(peak_M - new_M)
        total_M = total_M * fade_M + tl.sum(p_MN, 1)
        v_ND = tl.load(v_base + key_N[:, None] * k_place)
        sum_MD = sum_MD * fade_M[:, None]
        sum_MD = tl.dot(p_MN.to(v_ND.dtype), v_ND, sum_MD, input_precision=PRECISION)
        peak_M = new_M
    for start in range(inner, high, BLOCK_N):
        key_N = start + tl.arange(0, BLOCK_N)
        k_DN = tl.load(k_base + key_N[None, :] * k_place, mask=key_N[None, :] < high, other=0.0)
        score_MN = tl.dot(q_MD, k_DN, input_precision=PRECISION)
        seen_MN = (key_N[None, :] < limit_M[:, None]) & (key_N[None, :] < high)
        score_MN = tl.where(seen_MN, score_MN, -float("inf"))
        new_M = tl.maximum(peak_M, tl.max(score_MN, 1) * scale)
        # A query that has seen nothing yet has no peak to subtract.
        safe_M = tl.where(new_M == -float("inf"), 0.0, new_M)
        p_MN = tl.exp2(score_MN * scale - safe_M[:, None])
        fade_M = tl.exp2(peak_M - safe_M)
        total_M = total_M * fade_M + tl.sum(p_MN, 1)
        v_ND = tl.load(v_base + key_N[:, None] * k_place, mask=key_N[:, None] < high, other=0.0)
        sum_MD = sum_MD * fade_M[:, None]
        sum_MD = tl.dot(p_MN.to(v_ND.dtype), v_ND, sum_MD, input_precision=PRECISION)
        peak_M = new_M
    to_M = (row.to(tl.int64) * count + query_M) * HEADS + q_head_M
    if SPLITS == 1:
        out_MD = sum_MD / tl.where(total_M == 0, 1.0, total_M)[:, None]
        where_MD = out_ptr + to_M[:, None] * SIZE + size_D[None, :]
        tl.store(where_MD, out_MD.to(out_ptr.dtype.element_ty), mask=real_M[:, None])
    else:
        to_M += split.to(tl.int64) * rows * count * HEADS
        where_MD = part_ptr + to_M[:, None] * SIZE + size_D[None, :]
        tl.store(where_MD, sum_MD, mask=real_M[:, None])
        tl.store(peak_ptr + to_M, peak_M, mask=real_M)
        tl.store(total_ptr + to_M, total_M, mask=real_M)


@triton.jit
def _combine(
    part_ptr,
    peak_ptr,
    total_ptr,
    out_ptr,
    queries,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """The parts of one query's and head's keys, weighted by their sums."""
    at = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    size_D = tl.arange(0, SIZE)
    step = queries * HEADS
    peak = -float("inf")
    for split in range(SPLITS):
        peak = tl.maximum(peak, tl.load(peak_ptr + split * step + at))
    safe = tl.where(peak == -float("inf"), 0.0, peak)
    total = 0.0
    sum_D = tl.zeros([SIZE], tl.float32)
    for split in range(SPLITS):
        weight = tl.exp2(tl.load(peak_ptr + split * step + at) - safe)
        total += weight * tl.load(total_ptr + split * step + at)
        sum_D += weight * tl.load(part_ptr + (split * step + at) * SIZE + size_D)
    out_D = sum_D / tl.where(total == 0, 1.0, total)
    tl.store(out_ptr + at * SIZE + size_D, out_D.to(out_ptr.dtype.element_ty))
