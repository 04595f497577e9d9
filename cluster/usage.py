"""How much of its time a pool of workers decodes, once it has begun.

A worker decodes while its engine is in a step: passes of the models, the choice of tokens, and the
book-keeping of slots. It does not while it loads models, makes engines and warms them up, waits for
rows or for their leases, or for others to end; the first load, before the first step of all, is
start-up and not counted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Steps:
    """A worker's clock. `step` is the engine's thread's, `tell` any other's."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._busy_s = self._told_s = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        now_s = time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        try:
            yield
        finally:
            self._busy_s += time.monotonic() - now_s

    def tell(self) -> tuple[float, float]:
        """Seconds in steps since this was asked last, and seconds since the first step began."""
        busy_s = self._busy_s
        told_s, self._told_s = busy_s - self._told_s, busy_s
        return told_s, 0.0 if self._began_s is None else time.monotonic() - self._began_s


class Usage:
    """The driver's side: adds up what the workers of one pool after another tell. Clocks of other
    machines are never compared with this one's."""

    def __init__(self) -> None:
        self._busy_s = self._earlier_s = 0.0
        self._actors = 0
        self._first_s = self._last_s = 0.0

    def begin(self, actors: int) -> None:
        """A pool of so many workers begins."""
        self._earlier_s = self.pool_s
        self._actors, self._first_s, self._last_s = actors, float("inf"), float("-inf")

    def add(self, busy_s: float, age_s: float) -> None:
        """What one worker told just now."""
        now_s = time.monotonic()
        self._busy_s += busy_s
        self._first_s, self._last_s = min(self._first_s, now_s - age_s), now_s

    @property
    def pool_s(self) -> float:
        """Workers times seconds from the first step of any to the last end of a block."""
        return self._earlier_s + self._actors * max(0.0, self._last_s - self._first_s)

    @property
    def share(self) -> float | None:
        """Of the pools' time that was spent decoding; None as long as nothing was."""
        pool_s = self.pool_s
        return min(1.0, self._busy_s / pool_s) if pool_s > 0 else None
