"""Tensor parallelism: one engine over the devices of a machine, a process each.

Every rank runs the whole engine on its part of the models' weights. An engine is a function of the
calls that it gets, so the first rank, which is this process, repeats each call to the others, and
all take the same steps; `decoders.models.split` sums what they compute where a layer needs it.
After every call the ranks compare what came out of it.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

from decoders.models import Model
from decoders.models.split import Split
from decoders.rank import GRACE_S, Rank, gist
from decoders.recipes import Decoder
from decoders.slots import Engine, Observer
from decoders.types import Request, Result

END_S = 10.0
EXIT_CODE = 76


class RankError(RuntimeError):
    """A rank ended, or does something else than the others. What it held is lost."""


def _exit(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


class Ranks:
    """This process and those beside it. One thread at a time may call.

    The others end when this process does, however that comes about.

    Args:
        size: processes in all.
        device: `cuda`, a GPU for each in the order in which this process sees them, or `cpu`.
        threads: CPU threads of torch of each.
        on_loss: told why the ranks cannot go on, by any thread; this one may be waiting for a
            rank that is no more. Left out: ends this process.
    """

    def __init__(
        self, size: int, device: str, threads: int = 1, on_loss: Callable[[str], object] = _exit
    ) -> None:
        self.size, self._on_loss = size, on_loss
        self._folder = tempfile.TemporaryDirectory(prefix="unmask-ranks-")
        meeting = str(Path(self._folder.name) / "meeting")
        self._own = Rank(Split(0, size), device, meeting)
        self._numbers = 0
        self._ending = False
        self._pipes: list[Connection] = []
        self._lives: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, size):
            self._begin(rank, device, threads, meeting)

    @property
    def pids(self) -> list[int]:
        """Of the other processes."""
        return [process.pid for process in self._processes]

    def load(self, source: str, dtype: str) -> Model:
        """This rank's part of a model, by the `source` of its checkpoint or a `shape:`; the others
        have theirs when this returns.

        Raises:
            ModelError: as `load_model`.
        """
        model: Model = self._made("load", source, dtype)
        return model

    def sampler(self, source: str, base: Model) -> Any:
        """A joint sampler for a model of these ranks, as `load_sampler`."""
        return self._made("sampler", source, self._number(base))

    def engine(self, model: Model, decoder: Decoder, slots: int, partner: Any = None) -> Engine:
        """As `make_engine`, of models of these ranks."""
        second = None if partner is None else self._number(partner)
        self._numbers += 1
        self.call("engine", self._numbers, self._number(model), decoder, slots, second)
        return _Lockstep(self, self._numbers, self._own.engines[self._numbers])

    def keep(self, models: Iterable[Any]) -> None:
        """Gives up all engines, and all models but these."""
        self.call("keep", [self._number(model) for model in models])

    def call(self, name: str, *arguments: Any) -> Any:
        """Has every rank do the same; this rank's answer.

        Raises:
            RankError: the ranks differ, and `on_loss` returned.
            Exception: what all of them met.
        """
        self._tell((name, arguments))
        return self._answered(lambda: getattr(self._own, name)(*arguments))

    def submit(self, number: int, request: Request) -> None:
        """Gives a request to an engine. This rank alone tells whether a row is complete: it may
        take a tokenizer."""
        decide, asked = request.is_complete, None
        if decide is not None:
            request = replace(request, is_complete=None)

            def asked(tokens: Sequence[int]) -> bool:
                answer = bool(decide(tokens))
                self._tell(answer)
                return answer

        self._tell(("submit", (number, request, asked is not None)))
        self._answered(lambda: self._own.submit(number, request, asked))

    def close(self) -> None:
        """Ends the other processes."""
        self._ending = True
        for life, pipe in zip(self._lives, self._pipes, strict=True):
            os.close(life)
            pipe.close()
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._own.keep([])
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()

    def _begin(self, rank: int, device: str, threads: int, meeting: str) -> None:
        """Starts a rank. It holds the far end of a pipe for calls, and of one whose end tells it
        that this process is gone."""
        near, far = Pipe()
        life, alive = os.pipe()
        numbers = [far.fileno(), life, rank, self.size, threads]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-m", "decoders.rank", *map(str, numbers), device, meeting],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            pass_fds=(far.fileno(), life),
        )
        far.close()
        os.close(life)
        self._pipes.append(near)
        self._lives.append(alive)
        self._processes.append(process)
        threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._ending:
            self._on_loss(f"rank {rank} of {self.size} ended with code {code}")

    def _made(self, name: str, *arguments: Any) -> Any:
        self._numbers += 1
        self.call(name, self._numbers, *arguments)
        return self._own.models[self._numbers]

    def _number(self, model: Any) -> int:
        return next(number for number, held in self._own.models.items() if held is model)

    def _answered(self, act: Callable[[], Any]) -> Any:
        try:
            answer = act()
        except Exception as error:
            mine = ("raised", type(error).__name__)
            self._compare(mine, GRACE_S)
            self._tell(mine)
            raise
        self._compare(("done", gist(answer)), None)
        return answer

    def _compare(self, mine: tuple[str, str], wait_s: float | None) -> None:
        for rank, pipe in enumerate(self._pipes, 1):
            try:
                theirs = pipe.recv() if pipe.poll(wait_s) else "nothing"
            except (EOFError, OSError) as error:
                theirs = f"{error!r}"
            if theirs != mine:
                self._lose(f"rank {rank} of {self.size}: {theirs}, where the first has {mine}")

    def _tell(self, message: Any) -> None:
        try:
            for pipe in self._pipes:
                pipe.send(message)
        except OSError as error:
            self._lose(f"a rank of {self.size} cannot be reached: {error}")

    def _lose(self, reason: str) -> None:
        self._on_loss(reason)
        raise RankError(reason)


class _Lockstep:
    """An engine of all ranks."""

    def __init__(self, ranks: Ranks, number: int, own: Any) -> None:
        self.slots: int = own.slots
        self._ranks, self._number, self._own = ranks, number, own

    def submit(self, request: Request) -> None:
        self._ranks.submit(self._number, request)

    def step(self) -> list[Result]:
        results: list[Result] = self._ranks.call("step", self._number)
        return results

    @property
    def load(self) -> int:
        load: int = self._own.load
        return load

    @property
    def observer(self) -> Observer | None:
        """Of this rank's forwards; an engine that tells nothing keeps it in vain."""
        observer: Observer | None = getattr(self._own, "observer", None)
        return observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._own.observer = observer
