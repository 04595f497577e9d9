"""The tokens of all slots and, where a recipe wants them, their keys and values.

Legend: S slots, L positions, B rows of a pass, Q positions fed, K keys seen, H key heads, D width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from decoders.graphs import sent
from decoders.models.base import Model, attention_bias
from decoders.models.forward import Store, own_forward


class SlotCache(Cache):
    """Keys and values of all slots, written in place at each row's own positions.

    transformers calls `update` once a layer and a pass; before a pass the engine says which rows
    and positions it is about.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(layers=[])
        self._slots = slots
        self._store: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows_B = self._positions_BQ = torch.empty(0)
        self._width = 0

    def aim(self, rows_B: Tensor, positions_BQ: Tensor, width: int) -> None:
        """The next pass writes these positions of these slots, in their order, and sees keys
        [0, width). Position -1 is written to a place that nothing sees."""
        self._rows_B, self._positions_BQ, self._width = rows_B, positions_BQ, width

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores [B, H, Q, D] and returns all cached keys and values of the rows, [B, H, K, D].

        Keys are kept in the dtype of the values: a model that rotates them in float32 casts them
        so before it uses them.
        """
        found = []
        for kind, fresh in enumerate((keys.to(values.dtype), values)):
            whole = self._grown(layer_idx, kind, fresh)
            whole[self._rows_B[:, None], :, self._positions_BQ] = fresh.transpose(1, 2)
            all_rows = self._rows_B.numel() == self._slots
            rows = whole if all_rows else whole.index_select(0, self._rows_B)
            found.append(rows[:, :, : self._width])
        return found[0], found[1]

    def _grown(self, layer: int, kind: int, like: Tensor) -> Tensor:
        """The layer's buffer [S, H, K + 1, D], wide enough for this pass; the last place is the
        one that nothing sees."""
        pair = self._store.get(layer)
        if pair is None or pair[0].shape[2] <= self._width:
            shape = (self._slots, like.shape[1], self._width + 1, like.shape[3])
            fresh = (like.new_zeros(shape), like.new_zeros(shape))
            if pair is not None:
                for new, old in zip(fresh, pair, strict=True):
                    new[:, :, : old.shape[2]] = old
            pair = self._store[layer] = fresh
        return pair[kind]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class Canvas:
    """Tokens [S + 1, L] of the slots on the model's device, and passes over them.

    Rows have lengths of their own; what lies beyond a row's length is never seen. Keys and values
    of a cached pass are written in place, so that a stale one is whatever the last pass that fed
    its position left: prefix, dual, frozen and block caches differ only in what they feed. The last
    row belongs to no slot: rows of a pass that have no sample read and write it.
    """

    def __init__(self, model: Model, slots: int, fill: int) -> None:
        self.model, self.slots, self._fill = model, slots, fill
        self._device = model.device
        self.own = own_forward(model)
        self.is_fixed = self.own is not None and self.own.is_fixed
        self.tokens_SL = torch.full((slots + 1, 0), fill, dtype=torch.int64, device=model.device)
        self.lengths = [0] * slots
        self._cache: SlotCache | None = None
        self._store = Store(slots)

    def place(self, slot: int, tokens: Sequence[int]) -> None:
        """Gives a slot a new row."""
        self.widen(len(tokens))
        row = torch.full((self.tokens_SL.shape[1],), self._fill)
        row[: len(tokens)] = torch.tensor(tokens)
        self.tokens_SL[slot] = sent(row, self.tokens_SL.device)
        self.lengths[slot] = len(tokens)

    def widen(self, length: int, kept: int = 0) -> None:
        """Makes room for rows of `length` positions, and for the keys and values of `kept`."""
        missing = bucket([length], self._device) - self.tokens_SL.shape[1]
        if missing > 0:
            if self.is_fixed:  # graphs are void when memory moves, so that it moves rarely
                missing = -(-missing // 1024) * 1024
            self.tokens_SL = torch.nn.functional.pad(self.tokens_SL, (0, missing), value=self._fill)
        if self.own is not None:
            self._store.widen(-(-kept // ROOM) * ROOM, self.own)

    def padded(self, fed: int, cached: bool) -> int:
        """Positions fed where the longest range has `fed`."""
        if (cached and fed <= FEW) or (self.own is not None and not self.is_fixed):
            return fed
        return max(fed, min(bucket([fed], self._device), self.model.max_length))

    @property
    def layout(self) -> tuple[int, int]:
        """Changes when the memory of tokens, keys or values moves."""
        return self.tokens_SL.data_ptr(), self._store.places

    def feed(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        stops: Sequence[int],
        cached: bool = False,
        blanked: Sequence[int] | None = None,
        time_B: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, Q, D] of positions [start, stop) of each row; Q covers the longest
        range, and what lies past a row's own `stop` means nothing.

        Args:
            rows: slots; a slot may occur twice where nothing is cached.
            starts: first position fed; 0 where nothing is cached.
            stops: one past the last.
            cached: keep keys and values, and see those that earlier passes left.
            blanked: of each row the number of leading positions that are fed as masks (classifier-
                free guidance).
            time_B: diffusion time of each row, for models conditioned on it.
        """
        model, device = self.model, self._device
        longest = max(stop - start for start, stop in zip(starts, stops, strict=True))
        fed = self.padded(longest, cached)
        reach = max(max(starts) + fed, self._reach(rows, stops))
        self.widen(reach, reach if cached else 0)
        lengths = [self.lengths[row] for row in rows]
        numbers = torch.tensor([rows, starts, stops, lengths, blanked or lengths])
        index_B, start_B, stop_B, length_B, blank_B = sent(numbers, device)
        blank_B = None if blanked is None else blank_B
        if self.own is not None:
            return self.forward(index_B, start_B, stop_B, length_B, fed, cached, blank_B)
        tokens_BQ, positions_BQ = self._tokens(index_B, start_B, fed, blank_B)
        width = bucket([reach], device)
        keys = width if cached else fed
        bias = attention_bias(self._seen(positions_BQ, length_B, keys), model.dtype)
        if not cached:
            return model.hidden(tokens_BQ, bias, time_B)
        if self._cache is None:
            self._cache = SlotCache(self.slots)
        written_BQ = torch.where(positions_BQ < stop_B[:, None], positions_BQ, -1)
        self._cache.aim(index_B, written_BQ, width)
        # What lies past a row's end may lie past the positions that a model has learned, too.
        known_BQ = positions_BQ.clamp(max=model.max_length - 1)
        return model.cached_hidden(tokens_BQ, known_BQ, bias, self._cache)

    def forward(
        self,
        slots_B: Tensor,
        start_B: Tensor,
        stop_B: Tensor,
        length_B: Tensor,
        fed: int,
        cached: bool,
        blank_B: Tensor | None = None,
        wanted_BW: Tensor | None = None,
    ) -> Tensor:
        """`feed` by a forward of our own, with all numbers on the device: waits for nothing there.

        Args:
            slots_B: of each row.
            start_B: as in `feed`, as `stop_B`, `cached` and `blank_B` are.
            stop_B: one past the last.
            length_B: of each row's sample; 0 where there is none.
            fed: positions fed of each row.
            cached: keep and see keys and values.
            blank_B: leading positions fed as masks.
            wanted_BW: as in `Forward`.
        """
        network = self.own
        assert network is not None
        tokens_BQ, positions_BQ = self._tokens(slots_B, start_B, fed, blank_B)
        visibility, block = self.model.visibility, self.model.block or 1
        if visibility == "bidirectional":
            limits_BQ = length_B[:, None].expand(-1, fed)
        else:
            size = 1 if visibility == "causal" else block
            limits_BQ = (positions_BQ // size + 1) * size
        known_BQ = positions_BQ.clamp(max=self.model.max_length - 1)
        fed_B = None if self.is_fixed else stop_B - start_B
        if not cached:
            limits_BQ = limits_BQ.clamp(max=fed)
            return network(tokens_BQ, known_BQ, limits_BQ, wanted_BW=wanted_BW, fed_B=fed_B)
        written_BQ = torch.where(positions_BQ < stop_B[:, None], positions_BQ, -1)
        limits_BQ = limits_BQ.clamp(max=self._store.places)
        where = (self._store, slots_B, written_BQ)
        return network(tokens_BQ, known_BQ, limits_BQ, *where, wanted_BW, fed_B)

    def _tokens(
        self, slots_B: Tensor, start_B: Tensor, fed: int, blank_B: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What is fed and its positions, both [B, Q]."""
        positions_BQ = start_B[:, None] + torch.arange(fed, device=start_B.device)
        tokens_BQ = self.tokens_SL[slots_B[:, None], positions_BQ]
        if blank_B is not None:
            assert self.model.mask_id is not None
            blanked_BQ = positions_BQ < blank_B[:, None]
            tokens_BQ = tokens_BQ.masked_fill(blanked_BQ, self.model.mask_id)
        return tokens_BQ, positions_BQ

    def _reach(self, rows: Sequence[int], stops: Sequence[int]) -> int:
        """One past the last key that any of the rows sees."""
        if self.model.visibility == "bidirectional":
            return max(self.lengths[row] for row in rows)
        block = self.model.block or 1
        return -(-max(stops) // block) * block

    def _seen(self, positions_BQ: Tensor, length_B: Tensor, keys: int) -> Tensor:
        """Which keys a fed position sees: bool [B, K] if all queries of a row see the same, else
        [B, Q, K]."""
        key_K = torch.arange(keys, device=positions_BQ.device)
        visibility = self.model.visibility
        if visibility == "bidirectional":
            return key_K < length_B[:, None]
        if visibility == "causal":
            return key_K <= positions_BQ[..., None]
        block = self.model.block
        assert block is not None
        return key_K // block <= (positions_BQ // block)[..., None]


FEW = 64
"""Ranges up to this are fed as they are; longer ones are rounded up, so that few shapes occur."""


ROOM = 128
"""Places that a store of keys and values grows by."""


def bucket(lengths: Iterable[int], device: torch.device) -> int:
    """The width of a batch: the longest row rounded up, so that few shapes occur."""
    step = 64 if device.type == "cuda" else 16
    return -(-max(lengths) // step) * step
