"""What this device can do: how fast it copies and multiplies, measured now."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rates:
    """Of one device, in one precision."""

    copy_bytes_s: float
    """Bytes read and bytes written a second by a large copy."""
    matrix_flops_s: float
    """Floating-point operations a second of a large matrix product."""


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Medians over random data; about a second on a CPU, less on a GPU."""
    on_gpu = device.type == "cuda"
    repeats = 20 if on_gpu else 7
    count = (2**30 if on_gpu else 2**27) // dtype.itemsize
    copy_s = _copy_s(count, device, dtype, repeats)
    side = 8192 if on_gpu else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    if not on_gpu:
        # As a layer has its weight. Untransposed, CPUs without bfloat16 multiply by a slow loop.
        right = right.t()
    product = torch.empty_like(left)
    product_s = median_s(lambda: torch.mm(left, right, out=product), device, repeats)
    return Rates(2 * count * dtype.itemsize / copy_s, 2 * side**3 / product_s)


def _copy_s(count: int, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    source = torch.randn(count // 16, device=device).to(dtype).repeat(16)
    target = torch.empty_like(source)
    return median_s(lambda: target.copy_(source), device, repeats)


def median_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of some work, after three times unmeasured."""
    for _ in range(3):
        work()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
