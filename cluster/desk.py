"""The actor that keeps the ledger of leases, and how driver and workers speak with it.

It takes no CPU, stays on the driver's node, and is started again as often as it dies: the ledger is
a file there, and Ray repeats the calls that were under way.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.leases import Answer, Holder, Ledger

FLUSH_WAIT_S = 1.5
"""How long a driver that stops waits for its workers: `ray job stop` kills it after 3 s."""

LISTEN_S = 60.0


class Desk:
    """The ledger behind Ray calls. Its methods are coroutines, so that workers can wait here for
    the end of the run while others are served."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(f"{folder}/leases.sqlite", _Nodes())
        self._stopping = asyncio.Event()
        self._listeners: set[str] = set()

    async def start(self, holder: Holder, sids: Sequence[str], ended: list[str]) -> list[Answer]:
        return self._ledger.start(holder, sids, ended)

    async def start_alone(self, holder: Holder, sid: str) -> Answer:
        return self._ledger.start_alone(holder, sid)

    async def done(self, statuses: Mapping[str, str]) -> None:
        self._ledger.done(statuses)

    async def loading(self, holder: Holder) -> int:
        return self._ledger.loading(holder)

    async def loaded(self, holder: Holder) -> None:
        self._ledger.loaded(holder)

    async def listen(self, holder: Holder) -> bool:
        """Waits until the run is stopped: True; False after a while, to be asked again."""
        self._listeners.add(holder.incarnation)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), LISTEN_S)
        return self._stopping.is_set()

    async def flushed(self, holder: Holder) -> None:
        self._listeners.discard(holder.incarnation)

    async def stop(self, wait_s: float) -> None:
        """Tells the workers to write what they have, and waits for them."""
        self._stopping.set()
        deadline = time.monotonic() + wait_s
        while self._listeners and time.monotonic() < deadline:
            await asyncio.sleep(0.02)


class Leases:
    """A worker's side of the ledger; with a `Ledger` of its own where there is no Ray."""

    def __init__(self, desk: Any) -> None:
        self._desk, self._is_remote = desk, not isinstance(desk, Ledger)
        actor = node = ""
        if self._is_remote:
            import ray

            context = ray.get_runtime_context()
            actor, node = context.get_actor_id() or "", context.get_node_id()
        self._holder = Holder(f"{os.getpid()}-{uuid.uuid4().hex}", actor, node)

    @property
    def actor(self) -> str:
        """What the worker has in common with its lives before."""
        return self._holder.actor

    def start(self, sids: Sequence[str], ended: Sequence[str]) -> list[Answer]:
        answers: list[Answer] = self._ask("start", self._holder, list(sids), list(ended))
        return answers

    def start_alone(self, sid: str) -> Answer:
        answer: Answer = self._ask("start_alone", self._holder, sid)
        return answer

    def done(self, statuses: Mapping[str, str]) -> None:
        self._ask("done", dict(statuses))

    def loading(self) -> int:
        """How often this actor has died while it loaded a model."""
        deaths: int = self._ask("loading", self._holder)
        return deaths

    def loaded(self) -> None:
        self._ask("loaded", self._holder)

    def on_stop(self, flush: Callable[[], object]) -> None:
        """Has a thread of its own call `flush` when the driver stops the run."""

        def listen() -> None:
            with contextlib.suppress(Exception):  # the run has ended, and the desk with it
                while not self._ask("listen", self._holder):
                    pass
                flush()
                self._ask("flushed", self._holder)

        if self._is_remote:
            threading.Thread(target=listen, name="listen", daemon=True).start()

    def _ask(self, method: str, *arguments: Any) -> Any:
        if not self._is_remote:
            return getattr(self._desk, method)(*arguments)
        import ray

        return ray.get(getattr(self._desk, method).remote(*arguments))


@contextlib.contextmanager
def open_desk() -> Iterator[Any]:
    """The desk of one run of the driver, which is one generation of leases. At its end, whatever
    that is, workers get a moment to write what they have."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = Path(tempfile.gettempdir()) / f"unmask-{uuid.uuid4().hex}"
    here = ray.get_runtime_context().get_node_id()
    desk = (
        ray.remote(Desk)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=100_000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(str(folder))
    )
    try:
        yield desk
    finally:
        with contextlib.suppress(Exception):
            ray.get(desk.stop.remote(FLUSH_WAIT_S), timeout=FLUSH_WAIT_S + 0.5)
        with contextlib.suppress(Exception):
            ray.kill(desk)
        shutil.rmtree(folder, ignore_errors=True)


class _Nodes:
    """Whether a node stands, as the head sees it; looked up five times a second at most."""

    def __init__(self) -> None:
        self._asked_s, self._standing = float("-inf"), frozenset[str]()

    def __call__(self, node: str) -> bool:
        import ray

        if time.monotonic() - self._asked_s > 0.2:
            found = (entry["NodeID"] for entry in ray.nodes() if entry["Alive"])
            self._standing, self._asked_s = frozenset(found), time.monotonic()
        return node in self._standing
