"""The manifest: every row that a run owes, written once before any actor starts.

Prompts and their token ids are made here, on the driver and in document order, so that no shard,
worker or batch can change them.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.cells import Cell
from cluster.files import write_atomically
from evaluators import Prompt, Sample

MANIFEST = pa.schema(
    [
        pa.field("sid", pa.string(), nullable=False),
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("target", pa.string()),
        pa.field("fields", pa.string(), nullable=False),  # the sample's own columns, JSON
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("until", pa.list_(pa.string()), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("length", pa.int32(), nullable=False),  # prompt and canvas, in positions
    ]
)


@dataclass(frozen=True)
class Item:
    """A sample with its prompt, as one model reads it."""

    sample: Sample
    prompt: Prompt
    prompt_ids: tuple[int, ...]


Items = Callable[[Cell], Sequence[Item]]


def build(cells: Iterable[Cell], items: Items) -> pa.Table:
    """One row for each (cell, sample): by model, the longest rows first and of equal ones those
    with the most steps. Neighbours of like length leave little padding in a batch, and what
    comes last is short, so that workers end together."""
    rows: list[dict[str, Any]] = []
    for order, cell in enumerate(_by_model(cells)):
        for item in items(cell):
            sample, prompt = item.sample, item.prompt
            length = len(item.prompt_ids) + cell.decoder.gen_length
            rows.append(
                {
                    "sid": cell.sid(sample, prompt),
                    "cell_id": cell.cell_id,
                    "model": cell.model.name,
                    "mode": cell.mode,
                    "sample_id": sample.sample_id,
                    "category": sample.category,
                    "target": sample.target,
                    "fields": json.dumps(dict(sample.fields)),
                    "prompt": prompt.text,
                    "prompt_sha256": prompt.sha256,
                    "until": list(prompt.until),
                    "prompt_ids": list(item.prompt_ids),
                    "length": length,
                    "order": (cell.mode, cell.model.name, -length, -cell.decoder.budget, order),
                }
            )
    rows.sort(key=lambda row: row.pop("order"))
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def write(table: pa.Table, path: Path) -> None:
    """Writes the manifest in one atomic step."""
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def _by_model(cells: Iterable[Cell]) -> list[Cell]:
    return sorted(cells, key=lambda cell: (cell.mode, cell.model.name))
