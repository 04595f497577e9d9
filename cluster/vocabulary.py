"""What the token ids of a run stand for, so that its tables can be read without any tokenizer."""

import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.cells import Cell
from decoders import ModelError, find_checkpoint, load_tokenizer
from reports.schema import VOCABULARY

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

log = logging.getLogger(__name__)


class Vocabulary:
    """Takes the rows of a run and keeps which ids occur in each model's outputs and steps."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._sources = {cell.model.name: cell.model.source for cell in cells}
        self._ids: dict[str, set[int]] = {name: set() for name in self._sources}

    def add(self, samples: pa.Table, steps: pa.Table) -> None:
        for model in samples["model"].unique().to_pylist():
            mine = samples.filter(pc.equal(samples["model"], model))
            of_mine = steps.filter(pc.is_in(steps["sid"], mine["sid"].combine_chunks()))
            for column in (mine["output_ids"], of_mine["tokens"]):
                found = pc.unique(pc.list_flatten(column)).drop_null()
                self._ids[model].update(found.to_pylist())

    def table(self) -> pa.Table:
        """Those ids in the layout of VOCABULARY. A model whose tokenizer cannot be loaded here has
        none, with a warning: the run is whole without them."""
        rows: list[dict[str, Any]] = []
        for model, ids in self._ids.items():
            if not ids:
                continue
            try:
                tokenizer = load_tokenizer(find_checkpoint(self._sources[model]))
            except ModelError as error:
                log.warning("no token texts of %s in the run: %s", model, error)
                continue
            rows += (
                {"model": model, "token_id": token, **entry}
                for token, entry in zip(sorted(ids), entries(tokenizer, sorted(ids)), strict=True)
            )
        return pa.Table.from_pylist(rows, schema=VOCABULARY)


def entries(tokenizer: Any, ids: Sequence[int]) -> list[dict[str, Any]]:
    """`text`, `bytes` and `special` of each token of a fast tokenizer.

    A byte-level token is the bytes that its letters stand for (GPT-2's table), a byte fallback
    the one that it names, any other the UTF-8 of its piece. `text` is None where the bytes are no
    whole characters, both are where the id is beyond the vocabulary.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    kinds = set(re.findall(r'"type":"(\w+)"', json.dumps(_state(decoder), separators=(",", ":"))))
    added = tokenizer.added_tokens_decoder
    found = []
    for token, piece in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        special = token in added and bool(added[token].special)
        data = None
        if piece is not None:
            data = piece.encode() if token in added else _bytes(piece, kinds)
        found.append({"text": _text(data), "bytes": data, "special": special})
    return found


def _state(decoder: Any) -> Any:
    return None if decoder is None else json.loads(decoder.__getstate__())


def _bytes(piece: str, kinds: set[str]) -> bytes:
    if "ByteLevel" in kinds and all(letter in _LETTERS for letter in piece):
        return bytes(_LETTERS[letter] for letter in piece)
    if "ByteFallback" in kinds and (named := _BYTE.fullmatch(piece)):
        return bytes([int(named[1], 16)])
    return (piece.replace("\u2581", " ") if kinds & {"Metaspace", "Replace"} else piece).encode()


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _letters() -> dict[str, int]:
    """The byte of each letter of byte-level BPE: printable Latin-1 stands for itself, the other
    bytes for U+0100 and on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {chr(0x100 + at): byte for at, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_LETTERS = _letters()
