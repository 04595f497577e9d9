"""The step rows of a run as charts need them: all of a large run at once, in a few bytes each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.statistics import FloatArray

Places = npt.NDArray[np.int32]

COLUMNS = ("step", "correct", "top1_share")


@dataclass(frozen=True)
class Steps:
    """Step rows, cell by cell and in the order of the run within each."""

    table: pd.DataFrame
    """Columns `row`, the place of the step's sample among those of its cell, and COLUMNS."""
    starts: npt.NDArray[np.intp]
    """Where each cell begins in `table`, and the end: [cells + 1]."""
    cells: dict[str, int]
    """The place of each cell in `starts`."""

    def of(self, cell_id: str) -> pd.DataFrame:
        """The rows of one cell."""
        if cell_id not in self.cells:
            return self.table.iloc[:0]
        at = self.cells[cell_id]
        return self.table.iloc[self.starts[at] : self.starts[at + 1]]


def read_steps(paths: Sequence[Path], samples: pd.DataFrame) -> Steps:
    """Reads the steps of these samples; steps of others are left out.

    samples: columns `sid` and `cell_id`.
    """
    cell_of, names = pd.factorize(samples["cell_id"])
    sids = pa.array(samples["sid"], pa.string())
    place = samples.groupby("cell_id", sort=False).cumcount().to_numpy(np.int32)
    parts = [_read(path, sids) for path in paths] or [_nothing()]
    sample, step, correct, share = (np.concatenate(part) for part in zip(*parts, strict=True))
    cell = cell_of.astype(np.min_scalar_type(len(names)))[sample]
    columns = {"row": place[sample], "step": step, "correct": correct, "top1_share": share}
    if (cell[1:] < cell[:-1]).any():
        order = np.argsort(cell, kind="stable")
        cell = cell[order]
        columns = {name: values[order] for name, values in columns.items()}
    return Steps(
        table=pd.DataFrame(columns, copy=False),
        starts=np.searchsorted(cell, np.arange(len(names) + 1)),
        cells={str(name): at for at, name in enumerate(names)},
    )


def there(path: Path, columns: Sequence[str]) -> list[str]:
    """Those of the columns that a file has."""
    present = set(pq.read_schema(path).names)
    return [name for name in columns if name in present]


def _nothing() -> tuple[Places, Places, FloatArray, FloatArray]:
    return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), np.empty(0)


def _read(path: Path, sids: pa.Array) -> tuple[Places, Places, FloatArray, FloatArray]:
    """Of one file's rows: the place of its sample in `sids`, and COLUMNS."""
    found = there(path, ["sid", *COLUMNS])
    table = pq.read_table(path, columns=found, read_dictionary=["sid"])
    for name in COLUMNS:
        if name not in found:  # a run of an older version
            table = table.append_column(name, pa.nulls(table.num_rows, pa.float32()))
    if not table.num_rows:
        return _nothing()
    column = table["sid"]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries()
    # Every sid is looked up once, not once a step.
    known = pc.index_in(column.chunk(0).dictionary.cast(pa.string()), sids)
    places = known.fill_null(-1).to_numpy(zero_copy_only=False)
    sample = places[np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])]
    kept = sample >= 0
    values = [sample, *(table[name].to_numpy() for name in COLUMNS)]
    if not kept.all():
        values = [column[kept] for column in values]
    types = (np.int32, np.int32, np.float32, np.float32)
    rows, step, correct, share = (
        value.astype(kind) for value, kind in zip(values, types, strict=True)
    )
    return rows, step, correct, share


def last_known(
    rows: npt.NDArray[np.integer],
    steps: npt.NDArray[np.integer],
    values: npt.NDArray[np.floating],
    n: int,
    budget: int,
) -> npt.NDArray[np.float32]:
    """What was known of each sample after each step 1..budget, [budget, n]: the value of the last
    step that has one, NaN before the first.

    rows, steps, values: [m], of each known value its sample in 0..n-1, its step, itself.
    """
    table = np.full((budget, n), np.nan, np.float32)
    within = (steps >= 1) & (steps <= budget)
    table[steps[within] - 1, rows[within]] = values[within]
    for step in range(1, budget):
        table[step] = np.where(np.isnan(table[step]), table[step - 1], table[step])
    return table
