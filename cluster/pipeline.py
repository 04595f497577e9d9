"""The Ray Data graph: manifest -> blocks -> pool of model actors -> parts on disk."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping

from cluster.cells import Cell
from cluster.desk import open_desk
from cluster.errors import PipelineError
from cluster.placement import reserved
from cluster.session import Pool
from cluster.store import Store
from cluster.usage import Usage
from cluster.worker import FAILED, DecodeWorker

CALLS_IN_FLIGHT = 4
"""Blocks that an actor works on at once, at least."""


def run(
    manifest: str,
    store: Store,
    *,
    run_id: str,
    cells: Mapping[str, Cell],
    trace: bool,
    pool: Pool,
    rows_per_block: int,
    warmup: int,
    row_timeout_s: float,
    wait_s: float,
    progress: Callable[[Counter[str]], None],
    usage: Usage,
    worker: type[DecodeWorker] = DecodeWorker,
) -> None:
    """Decodes every row of the manifest file of that name in the run's store. `progress` is told
    the statuses of each ended block, and `usage` what its worker did; `warmup` rows of each engine
    are decoded twice, and counted once.

    Rows are durable in the store's `parts` when this returns, and most of them seconds after they
    end. A worker that dies is started again, wherever there is room, and so are its rows.

    Raises:
        PipelineError: an actor could not be built or died of an error of its own.
    """
    import ray.data

    # After the import, which sets it; what it would say is raised as an exception besides.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    context.max_errored_blocks = 0

    usage.begin(pool.size)
    calls = calls_in_flight(max(cell.slots for cell in cells.values()), rows_per_block)
    with open_desk() as desk, reserved(pool, wait_s) as remote_args:
        dataset = (
            ray.data.read_parquet(store.path(manifest), filesystem=store.filesystem)
            .repartition(target_num_rows_per_block=rows_per_block)
            .map_batches(
                worker,
                fn_constructor_kwargs={
                    "run_id": run_id,
                    "cells": {key: cell.to_json() for key, cell in cells.items()},
                    "parts": str(store.child("parts")),
                    "trace": trace,
                    "device": "cuda" if pool.num_gpus else "cpu",
                    "threads": pool.threads,
                    "warmup": warmup,
                    "desk": desk,
                    "row_timeout_s": row_timeout_s,
                    "tensor_parallel": pool.tensor_parallel,
                },
                batch_size=rows_per_block,
                num_gpus=pool.num_gpus,
                num_cpus=pool.num_cpus,
                accelerator_type=pool.accelerator_type,
                ray_remote_args_fn=remote_args,
                compute=ray.data.ActorPoolStrategy(
                    size=pool.size,
                    max_concurrent_calls_per_actor=calls,
                    max_tasks_in_flight_per_actor=calls,
                ),
            )
        )
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                for status, reason in zip(batch["status"], batch["error"], strict=True):
                    if status == FAILED:
                        raise PipelineError(f"a worker could not go on: {reason}")
                usage.add(float(batch["busy_s"].sum()), float(batch["age_s"].max()))
                progress(Counter(str(status) for status in batch["status"]))
        except ray.exceptions.RayError as error:
            raise PipelineError(f"Ray Data stopped: {_reason(error)}") from error


def block_rows(rows: int, actors: int, slots: int) -> int:
    """How many rows a block should have: few, a quarter of the slots, so that actors end together
    and a death costs little; and many where rows are so many that they must be cheap, since a block
    costs Ray Data some 40 ms of processor time."""
    return max(8, slots // 4, min(512, rows // (64 * actors)))


def calls_in_flight(slots: int, rows_per_block: int) -> int:
    """Blocks that an actor needs at once for its slots not to drain while a block's last rows end:
    the rows of the slots, half as many that wait, and a block on its way. More would leave the last
    rows of a run with the actor that asked first."""
    return max(CALLS_IN_FLIGHT, -(-3 * slots // (2 * rows_per_block)) + 1)


def _reason(error: Exception) -> str:
    """The last line of what Ray tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
