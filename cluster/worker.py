"""The model actor: an engine that Ray Data feeds, block after block, without letting slots drain.

Several blocks are in flight at once. Their rows go into one queue; a thread runs the engine, a
second one scores and writes parts, so that neither waits for the other. A row enters the engine
with a lease; after a death the rows that had one run alone.
"""

import asyncio
import gc
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cluster.cells import Cell, ModelSpec
from cluster.desk import Leases
from cluster.facts import device_name
from cluster.gate import Clocks, EngineKey, Gate, Task
from cluster.keeper import RETRY_S, Keeper
from cluster.leases import LOADS, Answer, Ledger
from cluster.requests import request_of
from cluster.rows import Detokenizer, Place, Row, error_row, result_rows
from cluster.store import Store
from cluster.usage import Steps
from cluster.watchdog import EXIT_CODE, Watchdog
from cluster.witness import Witness
from decoders import (
    Engine,
    Model,
    Request,
    Result,
    find_checkpoint,
    load_model,
    load_tokenizer,
    make_engine,
)
from decoders.joint import load_sampler
from decoders.likelihood import ChoiceResult, TextResult, causal_likelihood
from decoders.ranks import Ranks
from decoders.recipes.remote import Remote
from decoders.remote import RemoteEngine, RemoteResult
from evaluators import LogLikelihood, Scorer, get_task, sandbox
from reports.schema import Status

FAILED = "failed"

FALLIBLE = RemoteResult | ChoiceResult | TextResult
"""Results that may hold an error instead of an output."""

STARVED = 3
"""Rows, each alone, that an engine had no memory for: then the run is given up, if the engine has
decoded none."""

SCORED_TEXTS = 2048
"""Texts whose likelihood a scorer remembers."""

Batch = dict[str, npt.NDArray[Any]]


class _Running(NamedTuple):
    """The engine that decodes, for the rows with its key."""

    key: EngineKey
    engine: Engine
    detokenizer: Detokenizer


class DecodeWorker:
    """Decodes, scores and stores the rows of Ray Data's blocks.

    Args:
        run_id: goes into every row.
        cells: the run's cells by id, as JSON.
        parts: path or URI of the folder for finished rows; every node must see it.
        trace: record every step.
        device: `cuda` (the GPU that Ray gave the actor) or `cpu`.
        threads: CPU threads of torch.
        warmup: rows that each engine decodes before its first counted one.
        desk: the actor that keeps the leases; left out, the worker keeps its own.
        row_timeout_s: seconds that a row may take from its slot to its score; left out, any time.
        tensor_parallel: devices, each with a process, that the models are split over.
    """

    def __init__(
        self,
        run_id: str,
        cells: dict[str, Any],
        parts: str,
        trace: bool,
        device: str,
        threads: int,
        warmup: int = 0,
        desk: Any = None,
        row_timeout_s: float | None = None,
        tensor_parallel: int = 1,
    ) -> None:
        self._threads, self._tensor_parallel = threads, tensor_parallel
        self._ranks: Ranks | None = None
        self._warmup = warmup
        self._cells = {key: Cell.from_json(value) for key, value in cells.items()}
        if any(get_task(cell.task).judged_shares is not None for cell in self._cells.values()):
            sandbox.probe()  # what this node has, before a model takes its GPU; rows tell
        self._trace = trace
        self._device = device
        worker = f"{os.uname().nodename}:{os.getpid()}"
        self._place = Place(run_id, worker, device_name(device, tensor_parallel))
        self._leases = Leases(Ledger(":memory:") if desk is None else desk)
        self._keeper = Keeper(Store.open(parts), self._leases)
        self._gate = Gate(self._leases, self._close)
        self._clocks = Clocks()
        self._steps = Steps()
        self._row_timeout_s = row_timeout_s
        self._models: dict[tuple[str, str], Model] = {}
        """By digest and dtype: what two cells share is loaded once."""
        self._running: _Running | None = None
        self._scorers: dict[str, Scorer] = {}
        self._inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._tasks: dict[str, Task] = {}
        """In the engine."""
        self._alone: Task | None = None
        self._starved: Counter[EngineKey] = Counter()
        self._proven: set[EngineKey] = set()
        """Engines that have decoded a row."""
        self._halted = False
        self._scoring = ThreadPoolExecutor(
            1, thread_name_prefix="score", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._thread: threading.Thread | None = None

    async def __call__(self, batch: Batch) -> AsyncIterator[Batch]:
        """Yields the status of each row once all of them are scored and durable, and in the first
        row what `Steps` tells; or one `FAILED` with the reason, when the worker itself cannot go
        on."""
        if self._thread is None:
            self._begin()
        loop = asyncio.get_running_loop()
        tasks = [
            Task(row, self._cells[row["cell_id"]], loop.create_future(), loop)
            for row in _rows(batch)
        ]
        for task in tasks:
            self._inbox.put(task)
        try:
            statuses = await asyncio.gather(*(task.done for task in tasks))
            while not await loop.run_in_executor(self._scoring, self._keeper.flush):
                await asyncio.sleep(RETRY_S)
        except Exception as error:
            # As data, since Ray keeps no more of a worker's exception than its printed form.
            reason = np.array([f"{error}" or repr(error)])
            told = {"busy_s": np.zeros(1), "age_s": np.zeros(1)}
            yield {"status": np.array([FAILED]), "error": reason, **told}
        else:
            rest = np.zeros(len(statuses) - 1)
            busy_s, age_s = (np.append(told, rest) for told in self._steps.tell())
            fine = np.array([""] * len(statuses))
            yield {"status": np.array(statuses), "error": fine, "busy_s": busy_s, "age_s": age_s}

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._keeper.start()
        self._leases.on_stop(self._halt)
        if self._row_timeout_s is not None:
            Watchdog(self._row_timeout_s, self._clocks.oldest_s, self._expire).start()

    def _run(self) -> None:
        """The engine's thread: takes rows, runs passes, hands results to the scoring thread."""
        torch.set_num_threads(self._threads)  # OpenMP keeps this for each thread
        try:
            while not self._halted:
                self._receive(block=not self._gate and not self._tasks)
                self._hand_over(self._step())
        except BaseException as error:  # a dead engine must not leave its rows waiting for ever
            for task in (*self._tasks.values(), *self._gate.drain()):
                task.fail(error)
            raise

    def _receive(self, block: bool) -> None:
        while block or not self._inbox.empty():
            self._gate.add(self._inbox.get())
            block = False

    def _step(self) -> list[Result]:
        """One pass of the engine that has work; rows wait while one of another kind is busy.

        One engine runs at a time, so that a row's time is its own kind's, and one that has ended
        gives its caches back before the next is made.
        """
        if not self._tasks:
            if self._gate.is_drained:
                self._run_alone()
                return []
            first = self._gate.first()
            if first is None:
                return []
            self._switch(first.cell)
        assert self._running is not None
        slots = self._running.key[-1]
        for task in self._gate.take(self._running.key, slots - len(self._tasks), slots):
            self._submit(task, self._running)
        try:
            return self._passed(self._running) if self._tasks else []
        except Exception as error:
            self._break(error)
            return []

    def _run_alone(self) -> None:
        """Decodes and scores one suspect, with all other rows durable and none beside it."""
        self._settle()
        task = self._gate.suspects[0]
        if self._gate.start_alone(task):
            self._switch(task.cell)
            assert self._running is not None
            self._alone = task
            self._submit(task, self._running)
            while self._tasks:
                try:
                    self._hand_over(self._passed(self._running))
                except Exception as error:
                    self._break(error)
            self._settle()
            self._alone = None
        self._gate.suspects.popleft()

    def _passed(self, running: _Running) -> list[Result]:
        with self._steps.step():
            results = running.engine.step()
        if results:
            self._proven.add(running.key)
        return results

    def _break(self, error: Exception) -> None:
        """An engine raised: it is given up. The row that was alone in it has its error; of several
        none is known to be guilty, so that each runs alone."""
        self._running = None
        tasks, self._tasks = list(self._tasks.values()), {}
        if self._device == "cuda":
            try:
                torch.cuda.synchronize()
            except RuntimeError as fault:  # the device fails whoever comes next
                self._end(str(fault))
        for task in tasks:
            self._clocks.stop(task.row["sid"])
            if task is self._alone:
                self._scoring.submit(self._refuse, task, f"{type(error).__name__}: {error}")
            else:
                self._gate.suspects.append(task)
        if self._alone is not None and isinstance(error, torch.OutOfMemoryError):
            key = self._alone.cell.engine_key
            self._starved[key] += 1
            if self._starved[key] >= STARVED and key not in self._proven:
                raise _too_large(self._alone.cell) from error

    def _settle(self) -> None:
        """Returns once all that was decoded is scored and durable."""
        while not self._scoring.submit(self._keeper.flush).result():
            time.sleep(RETRY_S)

    def _hand_over(self, results: list[Result]) -> None:
        for result in results:
            self._scoring.submit(self._score, self._tasks.pop(result.sid), result)

    def _submit(self, task: Task, running: _Running) -> None:
        task.detokenizer = running.detokenizer
        self._clocks.start(task.row["sid"])
        try:
            running.engine.submit(self._request(task, running.detokenizer))
        except ValueError as error:
            self._scoring.submit(self._refuse, task, str(error))
        else:
            self._tasks[task.row["sid"]] = task

    def _switch(self, cell: Cell) -> None:
        """Makes the cell's engine the one that runs."""
        if self._running is not None and self._running.key == cell.engine_key:
            return
        self._running = None
        deaths, witness = self._leases.loading(), Witness(self._leases.actor)
        if deaths >= LOADS:
            raise RuntimeError(
                f"a worker died {deaths} times while it loaded {cell.model.name}, the last time "
                f"{witness.last_words()}"
            )
        with witness.watching():
            self._running = self._start(cell)
        if not deaths:  # a row that kills must do so under its lease
            try:
                self._warm(self._running)
            except torch.OutOfMemoryError as error:
                raise _too_large(cell) from error
        self._leases.loaded()

    def _warm(self, running: _Running) -> None:
        """Decodes copies of the engine's first rows and drops what comes out, so that what happens
        once for an engine (caches, kernels, graphs) is in no row's time. A server is left alone."""
        mine = self._gate.waiting(running.key)
        if not (self._warmup and mine) or isinstance(mine[0].cell.decoder, Remote):
            return
        for n in range(self._warmup):
            request = self._request(mine[n % len(mine)], running.detokenizer)
            with suppress(ValueError):  # told when the row itself is submitted
                running.engine.submit(replace(request, sid=f"warm-up {n}"))
        while running.engine.load:
            running.engine.step()

    def _request(self, task: Task, detokenizer: Detokenizer) -> Request:
        return request_of(task, detokenizer, self._trace)

    def _start(self, cell: Cell) -> _Running:
        """The cell's engine with its models; what no cell needs now leaves a GPU."""
        if self._device == "cuda":
            needed = {(spec.digest, spec.dtype) for spec in (cell.model, cell.partner) if spec}
            for key in self._models.keys() - needed:
                del self._models[key]
            gc.collect()
            torch.cuda.empty_cache()
        if isinstance(cell.decoder, Remote):
            tokenizer = load_tokenizer(find_checkpoint(cell.model.source))
            engine: Engine = RemoteEngine(tokenizer, cell.slots)
            return _Running(cell.engine_key, engine, Detokenizer(tokenizer, frozenset()))
        if self._tensor_parallel > 1 and self._ranks is None:
            self._ranks = Ranks(self._tensor_parallel, self._device, self._threads, self._end)
        if self._ranks is not None:
            self._ranks.keep(self._models.values())
        model = self._model(cell.model)
        partner: Any = None
        if cell.partner is not None and cell.decoder.partner_kind == "sampler":
            source = cell.partner.source
            if self._ranks is None:
                partner = load_sampler(find_checkpoint(source), model)
            else:
                partner = self._ranks.sampler(source, model)
        elif cell.partner is not None:
            partner = self._model(cell.partner)
        make = make_engine if self._ranks is None else self._ranks.engine
        engine = make(model, cell.decoder, cell.slots, partner)
        tokenizer = load_tokenizer(find_checkpoint(cell.model.source))
        return _Running(cell.engine_key, engine, Detokenizer(tokenizer, model.stop_ids))

    def _model(self, spec: ModelSpec) -> Model:
        key = spec.digest, spec.dtype
        if key not in self._models and self._ranks is not None:
            self._models[key] = self._ranks.load(spec.source, spec.dtype)
        elif key not in self._models:
            self._models[key] = load_model(find_checkpoint(spec.source), self._device, spec.dtype)
        return self._models[key]

    def _scorer(self, cell: Cell) -> Scorer | None:
        if cell.scorer is None or not cell.kind.needs_scorer:
            return None
        if cell.scorer.name not in self._scorers:
            checkpoint = find_checkpoint(cell.scorer.source)
            model = load_model(checkpoint, self._device, cell.scorer.dtype)
            likelihood = causal_likelihood(model, load_tokenizer(checkpoint))
            # Cached, since every cell of a sweep has the same references.
            self._scorers[cell.scorer.name] = lru_cache(SCORED_TEXTS)(
                lambda prefix, text: LogLikelihood(*likelihood(prefix, text))
            )
        return self._scorers[cell.scorer.name]

    def _score(self, task: Task, result: Result) -> None:
        assert task.detokenizer is not None
        if isinstance(result, FALLIBLE) and result.error is not None:
            self._refuse(task, result.error)
            return
        try:
            rows = result_rows(
                task.row,
                task.cell,
                self._place,
                result,
                task.detokenizer,
                self._scorer(task.cell),
            )
        except Exception as error:
            self._refuse(task, f"{type(error).__name__}: {error}")
        except BaseException as error:
            task.fail(error)
            raise
        else:
            self._keep(task, *rows)

    def _refuse(self, task: Task, error: str, status: Status = "error") -> None:
        self._keep(task, error_row(task.row, task.cell, self._place, error, status), [])

    def _close(self, task: Task, answer: Answer) -> None:
        """Settles a row that the ledger does not let run."""
        if answer.verdict == "done":
            task.resolve(answer.detail)
        else:
            self._scoring.submit(self._refuse, task, answer.detail, "quarantined")

    def _keep(self, task: Task, sample: Row, steps: list[Row]) -> None:
        try:
            self._keeper.add(sample, steps)
            self._clocks.stop(sample["sid"])
            self._gate.ended.append(sample["sid"])
        except BaseException as error:
            task.fail(error)
            raise
        task.resolve(sample["status"])

    def _halt(self) -> None:
        """The run is stopped: begins no more rows, and keeps those that are scored."""
        self._halted = True
        self._keeper.flush()

    def _end(self, reason: str) -> None:
        """This process cannot go on, and a new one can: keeps what is scored."""
        print(reason, file=sys.stderr, flush=True)
        self._keeper.flush()
        os._exit(EXIT_CODE)

    def _expire(self) -> None:
        """A row has taken too long, and this worker is about to end: keeps what others left. The
        row has its own once it was alone."""
        task = self._alone
        if task is not None:
            reason = f"not done after {self._row_timeout_s:g} s (cluster.row_timeout_s), alone"
            sample = error_row(task.row, task.cell, self._place, reason, "timeout")
            self._keeper.add(sample, [])
        self._keeper.flush()


def _too_large(cell: Cell) -> RuntimeError:
    return RuntimeError(
        f"the device's memory does not hold {cell.model.name} with {cell.slots} slots; give it "
        f"fewer (models.{cell.model.name}.slots)"
    )


def _rows(batch: Batch) -> list[Row]:
    names = list(batch)
    return [dict(zip(names, values, strict=True)) for values in zip(*batch.values(), strict=True)]
