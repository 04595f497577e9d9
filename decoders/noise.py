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
    """Draws for B rows. `positions_BW` are absolute; `wanted_BW` says where a number is used, which
    the replay of a reference's generator needs to know."""

    def race(
        self,
        seeds_B: Tensor,
        steps_B: Tensor,
        positions_BW: Tensor,
        vocabulary: int,
        wanted_BW: Tensor,
    ) -> Tensor:
        """Exponential variates [B, W, V], one a token: the source of every draw of a token."""
        ...

    def uniform(
        self, seeds_B: Tensor, steps_B: Tensor, positions_BW: Tensor, wanted_BW: Tensor
    ) -> Tensor:
        """Float32 [B, W] in [0, 1)."""
        ...

    def exponential(
        self, seeds_B: Tensor, steps_B: Tensor, positions_BW: Tensor, wanted_BW: Tensor
    ) -> Tensor:
        """Exponential variates [B, W], one a position."""
        ...


class CounterNoise:
    """The engine's own noise: stateless, the same on every device."""

    def race(
        self,
        seeds_B: Tensor,
        steps_B: Tensor,
        positions_BW: Tensor,
        vocabulary: int,
        wanted_BW: Tensor | None = None,
    ) -> Tensor:
        return self.race_of(seeds_B, steps_B, positions_BW, range(vocabulary))

    def race_of(
        self, seeds_B: Tensor, steps_B: Tensor, positions_BW: Tensor, tokens: range
    ) -> Tensor:
        """`race` of some tokens, [B, W, V']."""
        keys_BW = self._keys(seeds_B, steps_B, positions_BW, TOKENS)
        index_V = torch.arange(tokens.start + 1, tokens.stop + 1, device=keys_BW.device)
        return -_unit(_mix(keys_BW[..., None] + index_V * _GOLDEN)).log()

    def uniform(
        self,
        seeds_B: Tensor,
        steps_B: Tensor,
        positions_BW: Tensor,
        wanted_BW: Tensor | None = None,
    ) -> Tensor:
        drawn_BW = _unit(self._keys(seeds_B, steps_B, positions_BW, SELECTION)).float()
        return drawn_BW.clamp_(max=1 - 2**-24)

    def exponential(
        self,
        seeds_B: Tensor,
        steps_B: Tensor,
        positions_BW: Tensor,
        wanted_BW: Tensor | None = None,
    ) -> Tensor:
        return -_unit(self._keys(seeds_B, steps_B, positions_BW, SELECTION)).log()

    def _keys(self, seeds_B: Tensor, steps_B: Tensor, positions_BW: Tensor, stream: int) -> Tensor:
        rows_B = _mix(_mix(seeds_B + stream) + steps_B * _MIX_1)
        return _mix(rows_B[:, None] + (positions_BW + 1) * _MIX_2)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; int64 products wrap, and shifts are made logical by a mask."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def _unit(x: Tensor) -> Tensor:
    """The upper 53 bits as a float64 in (0, 1), never exactly 0 or 1."""
    return (((x >> 11) & (2**53 - 1)).double() + 0.5) * 2.0**-53
