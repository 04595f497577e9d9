"""Finished rows on disk: Parquet parts, each whole or absent, seconds after the rows end."""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.rows import Row
from cluster.sids import Sids, as_bytes
from cluster.store import Store
from reports.schema import SAMPLES, STEPS

FEATURES = ("features", "reference_features")
"""Columns of a samples part beside the table's: what a task compares all outputs of a cell by, of
the output and of the reference. The commit reads them and leaves them out of the table."""

PART = pa.schema([*SAMPLES, *(pa.field(name, pa.list_(pa.float32())) for name in FEATURES)])

FLUSH_ROWS = 1024
FLUSH_S = 5.0

SAMPLES_PART, STEPS_PART = ".samples.parquet", ".steps.parquet"

log = logging.getLogger(__name__)


class PartWriter:
    """Collects rows and writes them as pairs `X.steps.parquet`, `X.samples.parquet`.

    The steps go first: a sample counts as done once its samples part is there, so a writer that
    dies in between leaves steps that nobody reads. What cannot be written stays in memory for the
    next flush. Any thread may add, one at a time may flush.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._samples: list[Row] = []
        self._steps: list[Row] = []
        self._since_s = time.monotonic()
        self._adding = threading.Lock()

    def add(self, sample: Row, steps: list[Row]) -> None:
        with self._adding:
            if not self._samples:
                self._since_s = time.monotonic()
            self._samples.append(sample)
            self._steps += steps

    @property
    def is_full(self) -> bool:
        """Whether more rows are in memory than there should be."""
        return len(self._samples) >= FLUSH_ROWS

    @property
    def is_late(self) -> bool:
        """Whether a row has waited long enough."""
        return bool(self._samples) and time.monotonic() - self._since_s >= FLUSH_S

    def flush(self) -> dict[str, str]:
        """Makes every row so far durable, and returns the statuses of those by sid.

        Raises:
            OSError: the store did not take them; they are kept.
        """
        with self._adding:
            samples, steps = self._samples, self._steps
            self._samples, self._steps = [], []
        try:
            self._write(samples, steps)
        except BaseException:
            with self._adding:
                self._samples, self._steps = samples + self._samples, steps + self._steps
                self._since_s = time.monotonic()
            raise
        return {row["sid"]: row["status"] for row in samples}

    def _write(self, samples: list[Row], steps: list[Row]) -> None:
        stem = uuid.uuid4().hex
        for suffix, rows, schema in (
            (STEPS_PART, steps, STEPS),
            (SAMPLES_PART, samples, PART),
        ):
            if rows:
                whole = pa.BufferOutputStream()
                table = pa.Table.from_pylist(rows, schema=schema)
                pq.write_table(table, whole, compression="zstd")
                self._store.put(f"{stem}{suffix}", whole.getvalue())


def read_parts(store: Store, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
    """Stem and columns of each samples part. A part that cannot be read, or whose steps cannot, is
    set aside with a warning: its rows count as missing."""
    for name in store.names(SAMPLES_PART):
        stem = name.removesuffix(SAMPLES_PART)
        try:
            with store.input(name) as source:
                table = pq.read_table(source, columns=columns)
            if store.exists(f"{stem}{STEPS_PART}"):
                with store.input(f"{stem}{STEPS_PART}") as source:
                    pq.read_metadata(source)
        except (pa.ArrowException, OSError) as error:
            set_aside(store, stem, error)
        else:
            yield stem, table


def set_aside(store: Store, stem: str, error: Exception) -> None:
    """Takes a broken part out of the run, but keeps it."""
    log.warning(
        "part %s of %s cannot be read (%s): its rows are computed again", stem, store, error
    )
    for suffix in (SAMPLES_PART, STEPS_PART):
        if store.exists(f"{stem}{suffix}"):
            store.rename(f"{stem}{suffix}", f"{stem}{suffix}.broken")


def finished(store: Store) -> tuple[Sids, Counter[str]]:
    """The sids that the parts hold, and how many there are of each status."""
    found: list[npt.NDArray[Any]] = [as_bytes([])]
    statuses: Counter[str] = Counter()
    for _, table in read_parts(store, ["sid", "status"]):
        found.append(as_bytes(table["sid"]))
        statuses.update(table["status"].to_pylist())
    done = Sids(np.concatenate(found))
    return done, statuses
