"""Work on parts side by side: a thread a part, each with one of torch's threads.

Torch's own threads meet after every operation: where operations are short they wait longer than
they work, and where the machine is shared for as long as the slowest is not scheduled. Parts that
have nothing to do with each other meet once.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")
Found = TypeVar("Found")


class _Pool:
    """The process's threads, as many as were ever asked for at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = 0
        self._executor: ThreadPoolExecutor | None = None

    def of(self, size: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None or self._size < size:
                if self._executor is not None:
                    self._executor.shutdown(wait=False)
                self._executor, self._size = _started(size), size
            return self._executor


def _started(size: int) -> ThreadPoolExecutor:
    """Threads that run torch alone. What one sets is also what others start with: it is set back
    once all have begun."""
    own = torch.get_num_threads()
    executor = ThreadPoolExecutor(size, "decoders", _run_alone)
    all_begun = threading.Barrier(size)
    list(executor.map(lambda _: all_begun.wait(), range(size)))
    torch.set_num_threads(own)
    return executor


def _run_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread's first question to torch sets its number anew


_pool = _Pool()


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)


def side_by_side(function: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
    """`function` of each part, in their order, on as many threads as torch would use; an error of a
    part is raised here. A single part, or a single thread, is the caller's own."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        return [function(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def run(part: Any) -> Found:
        with torch.inference_mode(inference):
            return function(part)

    return list(_pool.of(threads).map(run, parts))
