"""One rank of several that decode together: its part of the models, and its engines.

`python -m decoders.rank` is a rank other than the first. It does what the first rank says
(`decoders.ranks`), and ends when the first one does.
"""

import argparse
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from decoders.engine import make_engine
from decoders.joint import load_sampler
from decoders.models import find_checkpoint, load_model
from decoders.models.shapes import random_model
from decoders.models.split import Split
from decoders.models.stated import PREFIX, find_shape
from decoders.recipes import Decoder
from decoders.slots import Engine
from decoders.types import Request, Result

GRACE_S = 30.0
"""How long a rank waits to hear that others have met the error that it met."""

_COLLECTIVE_S = 1800.0
"""Of gloo alone: the first rank may score for long between two passes."""


class Rank:
    """What a rank holds, by numbers that are the same on every rank.

    Args:
        split: which rank this is.
        device: `cuda`, of which it takes the one with its own number, or `cpu`.
        meeting: a file, made by the first rank, through which the ranks find each other.
    """

    def __init__(self, split: Split, device: str, meeting: str) -> None:
        self.split, self._meeting = split, meeting
        self._device = f"cuda:{split.rank}" if device == "cuda" else device
        self.models: dict[int, Any] = {}
        self.engines: dict[int, Engine] = {}

    def load(self, number: int, source: str, dtype: str) -> None:
        """A checkpoint's model, or that of a `shape:`."""
        made = (self._device, dtype)
        if source.startswith(PREFIX):
            self.models[number] = random_model(find_shape(source), *made, split=self.split)
        else:
            self.models[number] = load_model(find_checkpoint(source), *made, split=self.split)

    def sampler(self, number: int, source: str, base: int) -> None:
        """A joint sampler, whole on every rank."""
        self.models[number] = load_sampler(find_checkpoint(source), self.models[base])

    def engine(
        self, number: int, model: int, decoder: Decoder, slots: int, partner: int | None
    ) -> None:
        self._join()
        second = None if partner is None else self.models[partner]
        self.engines[number] = make_engine(self.models[model], decoder, slots, second)

    def submit(
        self, number: int, request: Request, is_complete: Callable[[Sequence[int]], bool] | None
    ) -> None:
        self.engines[number].submit(replace(request, is_complete=is_complete))

    def step(self, number: int) -> list[Result]:
        return self.engines[number].step()

    def keep(self, models: Sequence[int]) -> None:
        """Gives up all engines, and the models that are not among these."""
        self.engines.clear()
        self.models = {number: self.models[number] for number in models}
        if self._device != "cpu":
            torch.cuda.empty_cache()

    def _join(self) -> None:
        """Joins the others in a process group: NCCL between GPUs, gloo between CPUs; both find
        each other on the loopback interface."""
        if dist.is_initialized():
            return
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        gpu = self._device != "cpu"
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            init_method=f"file://{self._meeting}",
            rank=self.split.rank,
            world_size=self.split.size,
            timeout=timedelta(seconds=_COLLECTIVE_S),
            device_id=torch.device(self._device) if gpu else None,
        )


def gist(answer: Any) -> str:
    """What ranks compare of their answers: everything but times."""
    if not isinstance(answer, list):
        return ""
    names = ("sid", "output_ids", "nfe", "token_forwards", "values", "logprob", "error")
    return repr([[getattr(result, name, None) for name in names] for result in answer])


def serve(rank: Rank, pipe: Connection) -> None:
    """Does what the first rank says until it ends.

    Raises:
        RuntimeError: this rank met an error that the first one did not.
    """

    def is_complete(_: Sequence[int]) -> bool:
        """The first rank alone reads texts; the ranks ask in the same order."""
        told = pipe.recv()
        if not isinstance(told, bool):
            raise RuntimeError(f"the first rank says {told!r} where a row asks if it is complete")
        return told

    while True:
        name, arguments = pipe.recv()
        if name == "submit":
            number, request, asks = arguments
            arguments = (number, request, is_complete if asks else None)
        try:
            answer = getattr(rank, name)(*arguments)
        except Exception as error:
            pipe.send(("raised", type(error).__name__))
            if not pipe.poll(GRACE_S) or pipe.recv() != ("raised", type(error).__name__):
                raise RuntimeError("the first rank went on without this one") from error
        else:
            pipe.send(("done", gist(answer)))


def _end_with(life: int) -> None:
    """Ends this process when the first rank does, whatever either is doing."""
    os.read(life, 1)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m decoders.rank")
    for name in ("pipe", "life", "rank", "size", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("device")
    parser.add_argument("meeting")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first rank hears it too
    threading.Thread(target=_end_with, args=(given.life,), daemon=True).start()
    torch.set_num_threads(given.threads)
    if given.device == "cuda":
        torch.cuda.set_device(given.rank)
    try:
        serve(
            Rank(Split(given.rank, given.size), given.device, given.meeting), Connection(given.pipe)
        )
    except BaseException as error:
        if not isinstance(error, EOFError | ConnectionError):
            traceback.print_exc()
        os._exit(1)  # a process group that others have left may never come to an end


if __name__ == "__main__":
    main()
