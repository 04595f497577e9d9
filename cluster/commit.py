"""The end of a run: parts become tables, and `_SUCCESS.json` says that they are whole.

Everything here goes a few thousand rows at a time, so that the driver's memory does not grow with
the run but for some tens of bytes a row.
"""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import manifest
from cluster.aggregate import Aggregates
from cluster.cells import Cell
from cluster.errors import CommitError
from cluster.parts import PART, SAMPLES_PART, STEPS_PART, read_parts, set_aside
from cluster.sids import SID, Sids, as_bytes
from cluster.store import Store
from cluster.vocabulary import Vocabulary
from reports.schema import CELLS, SAMPLES, SCHEMA_VERSION, STEPS

SUCCESS = "_SUCCESS.json"
MANIFEST_FILE = "manifest.parquet"

CHUNK_ROWS = 4096
LONG = ("prompt", "target", "output_text", "error", "answer")
"""Columns without statistics, which would keep two of their texts a row group in memory."""

HELD_BYTES = 32 * 2**20
"""Of parts that the next rows may need too."""


def commit(
    run: Store, run_id: str, cells: Iterable[Cell], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the tables of a run from its manifest and its parts, then `_SUCCESS.json`, and drops
    the parts.

    Every sid of the manifest has exactly one row: of several (a block that Ray ran again) the
    first is kept, and they are equal but for their timings.

    Returns:
        What `_SUCCESS.json` says.

    Raises:
        CommitError: a sid has no row, or a part turned out broken.
    """
    cells = list(cells)
    merged = _Merge(run)
    if merged.missing:
        raise CommitError(f"{merged.missing} of {merged.rows} rows are missing")
    aggregates = Aggregates(run_id, cells, merged.rows_of_cells())
    vocabulary = Vocabulary(cells)
    written: dict[str, int] = {}
    with ExitStack() as stack:
        tables = {"samples": SAMPLES, "steps": STEPS}
        writers = {name: stack.enter_context(_Writer(run, name, tables[name])) for name in tables}
        for samples, steps in merged.chunks():
            aggregates.add(samples)
            vocabulary.add(samples, steps)
            writers["samples"].write(samples.select(SAMPLES.names))
            writers["steps"].write(steps)
            pa.default_memory_pool().release_unused()  # chunks of other sizes leave holes
        written = {name: writer.rows for name, writer in writers.items()}
    of_cells = pa.Table.from_pylist(aggregates.rows(), schema=CELLS)
    for name, table in (("cells", of_cells), ("vocabulary", vocabulary.table())):
        with _Writer(run, name, table.schema) as writer:
            writer.write(table)
            written[name] = writer.rows
    success = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        **facts,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": merged.rows,
        "statuses": dict(aggregates.statuses),
        "files": [_entry(run, name, rows) for name, rows in written.items()],
    }
    run.put_json(SUCCESS, success)
    run.child("parts").delete_all()
    return success


def read_success(run: Store) -> dict[str, Any] | None:
    """What `_SUCCESS.json` says, or None if the run has not ended."""
    try:
        success: dict[str, Any] = json.loads(run.read(SUCCESS))
    except FileNotFoundError:
        return None
    return success


class _Merge:
    """Where the row of each sid of the manifest lies, and the rows in the manifest's order."""

    def __init__(self, run: Store) -> None:
        self._run, self._parts = run, run.child("parts")
        self.rows = manifest.count(run, MANIFEST_FILE)
        sids, filled = np.empty(self.rows, SID), 0
        for table in manifest.read(run, MANIFEST_FILE, ["sid"]):
            sids[filled : filled + table.num_rows] = as_bytes(table["sid"])
            filled += table.num_rows
        index = Sids(sids)
        del sids
        self._part_of: npt.NDArray[np.int32] = np.full(self.rows, -1, np.int32)
        self._row_of: npt.NDArray[np.int32] = np.zeros(self.rows, np.int32)
        self._stems: list[str] = []
        for stem, table in read_parts(self._parts, ["sid"]):
            places = index.places(table["sid"])
            places, rows = np.unique(places, return_index=True)
            fresh = (places >= 0) & (self._part_of[places] < 0)
            self._part_of[places[fresh]] = len(self._stems)
            self._row_of[places[fresh]] = rows[fresh]
            self._stems.append(stem)
        pa.default_memory_pool().release_unused()
        self.missing = int((self._part_of < 0).sum())
        self._held: OrderedDict[int, tuple[pa.Table, pa.Table]] = OrderedDict()
        self._held_bytes = 0

    def rows_of_cells(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for table in manifest.read(self._run, MANIFEST_FILE, ["cell_id"]):
            for entry in table["cell_id"].value_counts().to_pylist():
                found[entry["values"]] += entry["counts"]
        return found

    def chunks(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Samples and their steps, in the order of the manifest and of the steps."""
        for start in range(0, self.rows, CHUNK_ROWS):
            parts = self._part_of[start : start + CHUNK_ROWS]
            rows = self._row_of[start : start + CHUNK_ROWS]
            samples, steps, order = [], [STEPS.empty_table()], []
            for part in np.unique(parts):
                (places,) = (parts == part).nonzero()
                whole, of_part = self._read(int(part))
                taken = whole.take(pa.array(rows[places]))
                samples.append(taken)
                order.append(places)
                if of_part.num_rows:
                    wanted = taken["sid"].combine_chunks()
                    steps.append(of_part.filter(pc.is_in(of_part["sid"], wanted)))
            place = np.concatenate(order)
            joined = pa.concat_tables(samples).take(pa.array(np.argsort(place)))
            yield joined, _in_order(pa.concat_tables(steps), joined["sid"].combine_chunks())

    def _read(self, part: int) -> tuple[pa.Table, pa.Table]:
        if part not in self._held:
            stem = self._stems[part]
            try:
                self._held[part] = self._table(stem, SAMPLES_PART), self._table(stem, STEPS_PART)
            except (pa.ArrowException, OSError) as error:
                set_aside(self._parts, stem, error)
                raise CommitError(f"part {stem} is broken and was set aside: {error}") from error
            self._held_bytes += _bytes(self._held[part])
            while len(self._held) > 1 and self._held_bytes > HELD_BYTES:
                self._held_bytes -= _bytes(self._held.popitem(last=False)[1])
        self._held.move_to_end(part)
        return self._held[part]

    def _table(self, stem: str, suffix: str) -> pa.Table:
        """A part's table; none of steps where nothing was traced."""
        if suffix == STEPS_PART and not self._parts.exists(f"{stem}{suffix}"):
            return STEPS.empty_table()
        schema = PART if suffix == SAMPLES_PART else STEPS
        with self._parts.input(f"{stem}{suffix}") as source:
            return pq.read_table(source, schema=schema)


class _Writer:
    """One file of a table."""

    def __init__(self, run: Store, table: str, schema: pa.Schema) -> None:
        self._folder, self._schema, self.rows = run.child(table), schema, 0
        self._stack = ExitStack()

    def __enter__(self) -> "_Writer":
        self._folder.make()
        stream = self._stack.enter_context(self._folder.writing("part-00000.parquet"))
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(
                stream,
                self._schema,
                compression="zstd",
                write_statistics=[name for name in self._schema.names if name not in LONG],
            )
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)
        self.rows += table.num_rows


def _bytes(part: tuple[pa.Table, pa.Table]) -> int:
    return int(part[0].nbytes + part[1].nbytes)


def _in_order(steps: pa.Table, sids: pa.Array) -> pa.Table:
    """By the samples' order, then by step."""
    order = pc.index_in(steps["sid"], sids)
    keys = [("order", "ascending"), ("step", "ascending")]
    return steps.append_column("order", order).sort_by(keys).drop_columns("order")


def _entry(run: Store, table: str, rows: int) -> dict[str, Any]:
    """What `_SUCCESS.json` says of a table's file."""
    folder, name = run.child(table), "part-00000.parquet"
    with folder.filesystem.open_input_stream(folder.path(name)) as stream:
        digest = hashlib.sha256()
        while piece := stream.read(2**20):
            digest.update(piece)
    return {
        "table": table,
        "path": f"{table}/{name}",
        "bytes": folder.size(name),
        "sha256": digest.hexdigest(),
        "rows": rows,
    }
