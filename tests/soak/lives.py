"""One worker's lives over one block, without Ray: it is forked anew as often as it dies.

`python -m tests.soak.lives RUN TIMEOUT_S [WORKER]` works on the manifest of a run directory and
prints how each life ended: 0, or the number of the signal below zero, or an exit code; and, on a
line of its own, why the last one could not go on.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster import watchdog
from cluster.cells import Cell
from cluster.leases import Ledger
from cluster.worker import FAILED
from tests.soak import worker as workers

MOST = 20


def live(run: Path, timeout_s: float, kind: str) -> None:
    """Takes every row of the manifest as one block; returns if the worker lives."""
    table = pq.read_table(run / "manifest.parquet")
    batch: dict[str, Any] = {}
    for name in table.column_names:
        batch[name] = np.empty(table.num_rows, dtype=object)
        batch[name][:] = table[name].to_pylist()
    worker = getattr(workers, kind)(
        run_id="run",
        cells=json.loads((run / "cells.json").read_text()),
        parts=str(run / "parts"),
        trace=False,
        device="cpu",
        threads=1,
        desk=Ledger(str(run / "leases.sqlite")),
        row_timeout_s=timeout_s,
    )

    async def take() -> list[Any]:
        return [part async for part in worker(batch)]

    (part,) = asyncio.run(take())
    if part["status"][0] == FAILED:
        print(part["error"][0], flush=True)
    else:
        assert len(part["status"]) == table.num_rows, part


def prepare(run: Path, cell: Cell, table: Any) -> None:
    """A run directory for `live`."""
    for name in ("parts", "executions"):
        (run / name).mkdir(parents=True)
    pq.write_table(table, run / "manifest.parquet")
    (run / "cells.json").write_text(json.dumps({cell.cell_id: cell.to_json()}))


if __name__ == "__main__":
    watchdog.GRACE_S = 0.5
    ends: list[int] = []
    while not ends or (ends[-1] and len(ends) < MOST):
        child = os.fork()
        if not child:
            live(Path(sys.argv[1]), float(sys.argv[2]), *(sys.argv[3:] or ["SoakWorker"]))
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(ends))
