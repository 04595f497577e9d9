"""The manifest: every row that a run owes, written once before any actor starts.

Prompts and their token ids are made here, on the driver and in document order, so that no shard,
worker or batch can change them.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.cells import Cell, Mode
from cluster.sids import Sids
from cluster.store import Store
from evaluators import Prompt, Sample

MANIFEST = pa.schema(
    [
        pa.field("sid", pa.string(), nullable=False),
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),  # which of the sample's outputs, from 0
        pa.field("category", pa.string()),
        pa.field("target", pa.string()),
        pa.field("fields", pa.string(), nullable=False),  # the sample's own columns, JSON
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("until", pa.list_(pa.string()), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("truncated_tokens", pa.int32(), nullable=False),  # cut off before prompt_ids
        pa.field("choices", pa.list_(pa.list_(pa.int32())), nullable=False),  # to be scored
        pa.field("length", pa.int32(), nullable=False),  # positions that it takes in all
    ]
)


@dataclass(frozen=True)
class Item:
    """A sample with its prompt, as one model reads it."""

    sample: Sample
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    block: int | None = None
    """Positions a block of the model, where it has blocks."""
    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of the answers to score after the prompt."""
    truncated_tokens: int = 0
    """Tokens of the prompt that were cut off before `prompt_ids`, for want of positions."""
    repeat: int = 0
    """Which of the sample's outputs, from 0."""


Items = Callable[[Cell], Sequence[Item]]


ROW_GROUP = 2048
CHUNK_ROWS = 1024
"""Rows that are Python objects at once."""


def build(cells: Iterable[Cell], items: Items) -> pa.Table:
    """The whole manifest as one table."""
    return pa.concat_tables([MANIFEST.empty_table(), *batches(cells, items)])


def batches(cells: Iterable[Cell], items: Items) -> Iterator[pa.Table]:
    """One row for each (cell, sample, repeat): by engine, then by cell, the longest rows first; a
    few tables a cell.

    Rows of one engine stand together, so that its slots drain once; rows of one cell, so that a
    batch is of one kind and its time is that cell's own; and neighbours of like length leave little
    padding. Of the cells of an engine those with the most steps come first, as what comes last
    should be short, so that workers end together.
    """
    for cell in _by_engine(cells):
        of_cell = [(_length(cell, item), item) for item in items(cell)]
        of_cell.sort(key=lambda found: -found[0])
        for start in range(0, len(of_cell), CHUNK_ROWS):
            rows = [_row(cell, *found) for found in of_cell[start : start + CHUNK_ROWS]]
            yield pa.Table.from_pylist(rows, schema=MANIFEST)


def _length(cell: Cell, item: Item) -> int:
    """Positions that an item takes in all."""
    span = cell.decoder.span(len(item.prompt_ids), item.block)
    return span + max(map(len, item.choices), default=0)


def _row(cell: Cell, length: int, item: Item) -> dict[str, Any]:
    sample, prompt = item.sample, item.prompt
    return {
        "sid": cell.sid(sample, prompt, item.repeat),
        "cell_id": cell.cell_id,
        "model": cell.model.name,
        "mode": cell.mode,
        "sample_id": sample.sample_id,
        "repeat": item.repeat,
        "category": sample.category,
        "target": sample.target,
        "fields": json.dumps(dict(sample.fields)),
        "prompt": prompt.text,
        "prompt_sha256": prompt.sha256,
        "until": list(prompt.until),
        "prompt_ids": list(item.prompt_ids),
        "truncated_tokens": item.truncated_tokens,
        "choices": [list(choice) for choice in item.choices],
        "length": length,
    }


def write(tables: Iterable[pa.Table], store: Store, name: str) -> int:
    """Writes a manifest in one atomic step, as its tables come; returns the number of rows."""
    rows = 0
    with (
        store.writing(name) as stream,
        # Statistics would keep two prompts a row group in memory, and nobody asks for them.
        pq.ParquetWriter(stream, MANIFEST, compression="zstd", write_statistics=False) as writer,
    ):
        for table in _regrouped(tables):
            writer.write_table(table)
            rows += table.num_rows
    pa.default_memory_pool().release_unused()  # the driver lives on beside the workers
    return rows


def count(store: Store, name: str) -> int:
    """The rows of a manifest."""
    with store.input(name) as source:
        return int(pq.read_metadata(source).num_rows)


def read(store: Store, name: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A manifest, some thousand rows at once."""
    with store.input(name) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROW_GROUP, columns=columns):
            yield pa.Table.from_batches([batch])


def missing(store: Store, name: str, mode: Mode, done: Sids) -> Iterator[pa.Table]:
    """The manifest's rows of a mode that have no result yet."""
    for table in read(store, name):
        lacking = pa.array(done.places(table["sid"]) < 0)
        yield table.filter(pc.and_(pc.equal(table["mode"], mode), lacking))


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Joins small tables, as each that is written costs a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(held.num_rows for held in waiting) >= ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _by_engine(cells: Iterable[Cell]) -> list[Cell]:
    def order(cell: Cell) -> tuple[Any, ...]:
        return cell.mode, cell.engine_key, cell.task, -cell.decoder.budget

    return sorted(cells, key=order)
