"""A worker whose engine costs nothing but does what a sample's question says: KILL the process,
HANG, HOLD the interpreter's lock, RAISE; anything else is answered at once."""

import json
import os
import re
import signal
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from cluster.cells import Cell
from cluster.gate import Task
from cluster.rows import Detokenizer
from cluster.store import Store
from cluster.worker import DecodeWorker, _Running
from decoders import Request, Result, find_checkpoint, load_tokenizer

ANSWER = " #### 7"
EXECUTIONS = "executions"


@dataclass(frozen=True, slots=True)
class SoakRequest(Request):
    question: str = ""


class SoakEngine:
    """Takes as many passes as the budget says, each of no or little time."""

    def __init__(self, slots: int, output_ids: tuple[int, ...], pass_s: float) -> None:
        self.slots, self._output_ids, self._pass_s = slots, output_ids, pass_s
        self._waiting: deque[SoakRequest] = deque()
        self._left: dict[str, int] = {}

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self._left)

    def submit(self, request: Any) -> None:
        self._waiting.append(request)

    def step(self) -> list[Result]:
        while self._waiting and len(self._left) < self.slots:
            request = self._waiting.popleft()
            self._left[request.sid] = request.decoder.budget
            _behave(request.question)
        if self._pass_s:
            time.sleep(self._pass_s)
        done = []
        for sid in list(self._left):
            self._left[sid] -= 1
            if not self._left[sid]:
                del self._left[sid]
                done.append(Result(sid, self._output_ids, 1, 8, 1e-4, 1e-4))
        return done


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _behave(question: str) -> None:
    if "KILL" in question:
        os.kill(os.getpid(), signal.SIGKILL)
    if "HANG" in question:
        time.sleep(3600)
    if "HOLD" in question:
        re.match("(a+)+$", "a" * 64 + "b")
    if "RAISE" in question:
        raise RuntimeError("this one cannot be decoded")


class SoakWorker(DecodeWorker):
    """Notes every row that it begins in a file of its own beside the parts, where there is one."""

    PASS_S = 0.002

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **{**more, "device": "cpu"})
        parts = Store.open(more["parts"]).local
        assert parts is not None
        folder, self._log = parts.parent / EXECUTIONS, None
        if folder.is_dir():
            self._log = (folder / f"{os.getpid()}.log").open("a")
            place = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "node": _node()}
            (folder / f"{os.getpid()}.json").write_text(json.dumps(place))

    def _start(self, cell: Cell) -> _Running:
        tokenizer = load_tokenizer(find_checkpoint(cell.model.source))
        ids = tuple(tokenizer.encode(ANSWER, add_special_tokens=False))
        engine: Any = SoakEngine(cell.slots, ids, self.PASS_S)
        return _Running(cell.engine_key, engine, Detokenizer(tokenizer, frozenset()))

    def _request(self, task: Task, detokenizer: Detokenizer) -> Request:
        if self._log:
            self._log.write(f"{task.row['sid']}\n")
            self._log.flush()
        row = task.row
        return SoakRequest(row["sid"], (1,), task.cell.decoder, question=row["prompt"])


class SlowWorker(SoakWorker):
    """Slow enough to be met at work."""

    PASS_S = 0.1


class FreeWorker(SoakWorker):
    """Its passes take no time at all."""

    PASS_S = 0.0


class LoadCrashedWorker(SoakWorker):
    """Dies of a fault of native code while it loads a model."""

    def _start(self, cell: Cell) -> _Running:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super()._start(cell)
