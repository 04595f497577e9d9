"""Noise that belongs to a sample, not to a process.

Every number is a hash of (the sample's seed, its own step, position, vocabulary index), so what a
sample draws does not depend on its slot, its neighbours, the order of work or the device. Tests
put a reference's generator in its place to replay a published decoder.
"""

import hashlib
from typing import Protocol

import torch
from torch import Tensor

# Odd constants of the SplitMix64 generator (Steele, Lea, Flood 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

TOKENS, SELECTION = 1, 2
"""Streams of one step: which token is drawn, and which position is chosen."""


def seed_of(sid: str) -> int:
    """A signed 64-bit seed from a sample's identity."""
    digest = hashlib.sha256(sid.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class Noise(Protocol):
    """Uniform draws for S rows. `positions_SG` are absolute; `length` is the row's width in the
    reference that is being replayed."""

    def over_vocabulary(
        self, seeds_S: Tensor, steps_S: Tensor, positions_SG: Tensor, vocabulary: int, length: int
    ) -> Tensor:
        """Float64 [S, G, V] in (0, 1)."""
        ...

    def over_positions(
        self, seeds_S: Tensor, steps_S: Tensor, positions_SG: Tensor, length: int
    ) -> Tensor:
        """Float32 [S, G] in [0, 1)."""
        ...


class CounterNoise:
    """The engine's own noise: stateless, the same on every device."""

    def over_vocabulary(
        self, seeds_S: Tensor, steps_S: Tensor, positions_SG: Tensor, vocabulary: int, length: int
    ) -> Tensor:
        keys_SG = self._keys(seeds_S, steps_S, positions_SG, TOKENS)
        index_V = torch.arange(1, vocabulary + 1, device=keys_SG.device)
        return _unit(_mix(keys_SG[..., None] + index_V * _GOLDEN))

    def over_positions(
        self, seeds_S: Tensor, steps_S: Tensor, positions_SG: Tensor, length: int
    ) -> Tensor:
        return _unit(self._keys(seeds_S, steps_S, positions_SG, SELECTION)).float().clamp_(max=1.0)

    def _keys(self, seeds_S: Tensor, steps_S: Tensor, positions_SG: Tensor, stream: int) -> Tensor:
        rows_S = _mix(_mix(seeds_S + stream) + steps_S * _MIX_1)
        return _mix(rows_S[:, None] + (positions_SG + 1) * _MIX_2)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap, and shifts are made logical by a mask."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def _unit(x: Tensor) -> Tensor:
    """The upper 53 bits as a float64 in (0, 1), never exactly 0 or 1."""
    return (((x >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
