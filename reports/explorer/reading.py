"""Reading what the explorer shows of its rows: texts, steps, and what token ids stand for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.load import Run
from reports.schema import STEPS, TABLES
from reports.text import visible

TEXTS = ("prompt", "target", "output_text", "output_ids", "commit_steps")
LISTS = ("committed", "tokens", "confidence")
SHOWN = (
    "sid",
    "cell_id",
    "task",
    "sample_id",
    "repeat",
    "category",
    "model",
    "status",
    "error",
    "correct",
    "detail",
    "answer",
    "generated_tokens",
    "nfe",
    "decode_s",
    "converged_step",
    "first_correct_step",
    "oscillated",
    "early_commit_step",
    "edited_tokens",
    "drafted_tokens",
    "accepted_tokens",
)
"""Columns of `samples` that the page tells of a row, beside TEXTS."""
PARTS = {"correct": 1, "top1_share": 1000, "top2_gap": 1000, "entropy": 1000, "elapsed_s": 100_000}
"""Columns of `steps` that a trace has as whole numbers: how many make one. None is -1."""

Found = dict[str, Any]


def vocabulary(run: Run) -> dict[tuple[str, int], Any]:
    """Of each (model, token id) its text; [0, hexadecimal bytes] of a part of a character,
    [1, text] of a special token. Empty for a run that was made before vocabularies were kept."""
    found: dict[tuple[str, int], Any] = {}
    for path in run.files["vocabulary"]:
        for entry in pq.read_table(path).to_pylist():
            form: Any = None
            if entry["text"] is not None:
                text = visible(entry["text"])
                form = [1, text] if entry["special"] else text
            elif entry["bytes"] is not None:
                form = [0, entry["bytes"].hex()]
            if form is not None:
                found[entry["model"], entry["token_id"]] = form
    return found


def details(run: Run, rows: pd.DataFrame) -> Iterator[tuple[Found, Found]]:
    """Texts and steps of these rows of the samples table, one by one in their order: the row
    with SHOWN, and its entry of each of TEXTS with `trace`, its steps by column."""
    sids = pa.array(rows["sid"], pa.string())
    texts = _rows_of(run.files["samples"], "samples", TEXTS, sids)
    texts = texts.take(pc.index_in(sids, texts["sid"].combine_chunks()))
    columns = {name: texts[name].combine_chunks() for name in TEXTS}
    traces = _Traces(run.files["steps"], sids)
    for at, row in enumerate(rows[list(SHOWN)].to_dict("records")):
        found = {name: column[at].as_py() for name, column in columns.items()}
        found["trace"] = traces.of(at)
        yield {str(name): value for name, value in row.items()}, found


class _Traces:
    """The step rows of some samples, as arrays."""

    def __init__(self, paths: Sequence[Path], sids: pa.Array) -> None:
        names = [name for name in STEPS.names if name not in ("sid", "step")]
        steps = _rows_of(paths, "steps", ["step", *names], sids)
        order = pc.index_in(steps["sid"], sids)
        steps = steps.append_column("order", order).drop_columns("sid")
        steps = steps.sort_by([("order", "ascending"), ("step", "ascending")]).combine_chunks()
        order_N = steps["order"].to_numpy()
        self._ends = np.searchsorted(order_N, np.arange(len(sids) + 1))
        self._flat = {name: steps[name].to_numpy() for name in ("nfe", "masked_left", "answer")}
        self._flat |= {name: whole(steps[name].to_numpy(), parts) for name, parts in PARTS.items()}
        self._lists = {name: _flattened(steps[name]) for name in LISTS}

    def of(self, at: int) -> Found | None:
        """The columns of the at-th sample's steps, lists as one array and `counts` of it."""
        low, high = self._ends[at : at + 2]
        if low == high:
            return None
        found: Found = {name: column[low:high] for name, column in self._flat.items()}
        for name, (offsets, values) in self._lists.items():
            found[name] = values[offsets[low] : offsets[high]]
        offsets = self._lists["committed"][0]
        found["counts"] = np.diff(offsets[low : high + 1])
        return found


def whole(values: npt.NDArray[Any], parts: int) -> npt.NDArray[np.int64]:
    """So many parts of one as whole numbers; -1 for what is no number."""
    scaled = np.asarray(values, dtype=np.float64) * parts
    found: npt.NDArray[np.int64] = np.where(np.isfinite(scaled), np.rint(scaled), -1).astype(int)
    return found


def _flattened(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Offsets [N + 1] and values of a list column."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = pc.list_flatten(column).to_numpy()
    return np.concatenate([[0], np.cumsum(lengths)]), values


def _rows_of(paths: Sequence[Path], table: str, columns: Sequence[str], sids: pa.Array) -> pa.Table:
    """`sid` and these columns of the samples' rows, a row group at a time: of one that holds none
    only the sids are read."""
    names = ["sid", *columns]
    parts = [pa.schema([TABLES[table].field(name) for name in names]).empty_table()]
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                found = pc.is_in(file.read_row_group(group, ["sid"])["sid"], sids)
                if pc.any(found).as_py():
                    parts.append(file.read_row_group(group, names).filter(found))
    return pa.concat_tables(parts, promote_options="default")
