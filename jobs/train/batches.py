"""From documents to packed rows: which documents a step sees, and their tokens on the device.

A batch is one long row of N positions. Documents lie in it one after the other, none sees
another, and each counts its positions from 0. Legend: N positions, R rows (documents) at most.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.train.corpus import KINDS, MAX_TOKENS, Corpus
from jobs.train.documents import SHARES
from jobs.train.tokenizer import EOS_ID

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """Documents as they are laid out, each field [R]."""

    start: Ints
    length: Ints
    """Tokens of the document."""
    real: Ints
    """`length`, and 1 more if end-of-text follows."""
    clean: Ints
    """Leading positions that are context, not target."""
    span: Ints
    """Positions the row takes; those from `length` on hold end-of-text."""
    kind: Ints


class Layout(Protocol):
    """An objective's choice of `clean` and `span` for documents of one kind."""

    def __call__(
        self, rng: np.random.Generator, kind: str, prompt: Ints, real: Ints, ends: Ints
    ) -> tuple[Ints, Ints]: ...


class Mixer:
    """Draws documents without replacement, each kind at its share of the positions."""

    def __init__(self, corpus: Corpus, layout: Layout, batch_tokens: int, seed: int) -> None:
        self.corpus, self.layout, self.seed = corpus, layout, seed
        self.batch_tokens = batch_tokens
        self.max_rows = batch_tokens // 32 + 16
        ids = [np.flatnonzero(corpus.kind == number) for number in range(len(KINDS))]
        weight = np.array([SHARES[kind] * (len(ids[i]) > 0) for i, kind in enumerate(KINDS)])
        self.ids, self.shares = ids, weight / weight.sum()
        self.cursor = [0] * len(KINDS)
        self.carry = [0.0] * len(KINDS)
        self._orders: dict[int, tuple[int, Ints]] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run draws the same documents."""
        return {"cursor": list(self.cursor), "carry": list(self.carry)}

    def restore(self, state: dict[str, Any]) -> None:
        self.cursor, self.carry = list(state["cursor"]), list(state["carry"])

    def _upcoming(self, kind: int, count: int) -> Ints:
        ids = self.ids[kind]
        parts, at = [], self.cursor[kind]
        while count > 0:
            epoch, offset = divmod(at, len(ids))
            if self._orders.get(kind, (-1,))[0] != epoch:
                rng = np.random.default_rng([self.seed, kind, epoch])
                self._orders[kind] = (epoch, rng.permutation(ids))
            part = self._orders[kind][1][offset : offset + count]
            parts.append(part)
            at, count = at + len(part), count - len(part)
        return np.concatenate(parts)

    def rows(self, step: int) -> Rows:
        """The rows of a step; pass steps in order, as each moves the cursors on."""
        rng = np.random.default_rng([self.seed, 1_000_003, step])
        parts = []
        for number, kind in enumerate(KINDS):
            if not len(self.ids[number]):
                continue
            want = self.shares[number] * self.batch_tokens + self.carry[number]
            if want <= 0:
                self.carry[number] = want
                continue
            ids = self._upcoming(number, int(want / 24) + 2)
            length = self.corpus.length[ids].astype(np.int64)
            ends = self.corpus.ends[ids].astype(np.int64)
            prompt = self.corpus.prompt[ids].astype(np.int64)
            clean, span = self.layout(rng, kind, prompt, length + ends, ends)
            total = np.cumsum(span)
            count = min(int(np.searchsorted(total, want)) + 1, len(ids))
            self.cursor[number] += count
            self.carry[number] = float(want - total[count - 1])
            table = (self.corpus.start[ids], length, length + ends, clean, span, ids * 0 + number)
            parts.append(np.stack([column[:count] for column in table]))
        table_6R = np.concatenate(parts, axis=1)
        table_6R = table_6R[:, rng.permutation(table_6R.shape[1])]
        fits = np.cumsum(table_6R[4]) <= self.batch_tokens
        fits[self.max_rows - self.batch_tokens // MAX_TOKENS - 1 :] = False
        return Rows(*table_6R[:, fits])


class Packed(NamedTuple):
    """Rows on the device; fields [N] unless said otherwise."""

    tokens: Tensor
    positions: Tensor
    boundaries: Tensor
    """[R+1] int32: where rows begin, then N."""
    row: Tensor
    clean: Tensor
    real: Tensor
    kind: Tensor


def pack(rows: Rows, tokens: Tensor, batch_tokens: int, max_rows: int) -> Packed:
    """Gathers the rows out of the corpus's `tokens` [T]; what is left over is empty rows."""
    left = batch_tokens - int(rows.span.sum())
    filler = [min(MAX_TOKENS, left - at) for at in range(0, left, MAX_TOKENS)]
    pad = np.zeros((6, max_rows - len(rows.span)), dtype=np.int64)
    pad[4, : len(filler)] = filler
    table = torch.from_numpy(np.concatenate([np.stack(rows), pad], axis=1))
    if tokens.is_cuda:
        table = table.pin_memory()
    start, length, real, clean, span, kind = table.to(tokens.device, non_blocking=True)
    ends_at = span.cumsum(0)
    index = torch.arange(batch_tokens, device=tokens.device)
    row = torch.searchsorted(ends_at, index, right=True)
    positions = index - (ends_at - span)[row]
    source = (start[row] + positions).clamp_(max=len(tokens) - 1)
    text = torch.where(positions < length[row], tokens[source].long(), EOS_ID)
    boundaries = torch.cat([ends_at.new_zeros(1), ends_at]).int()
    return Packed(text, positions, boundaries, row, clean[row], real[row], kind[row])
