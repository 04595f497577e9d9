"""A Ray cluster of its own, drivers on it, and their processes by kind, to be killed for real."""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq

from tests.soak.driver import drive
from tests.soak.worker import EXECUTIONS

ROOT = Path(__file__).resolve().parent.parent.parent

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "HF_HUB_OFFLINE": "1",
}

CONFIG = """
name: soak
models: {tiny-mdlm: {slots: 4}}
tasks: {gsm8k: {}}
decoders:
  - {recipe: llada, models: [tiny-mdlm], settings: {gen_length: 8, steps: [1, 2]}}
trace: false
"""


def write_data(folder: Path, rows: int, special: Mapping[int, str] | None = None) -> Path:
    """A data folder of trivial problems; those with a word in `special` do what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gsm8k_test.jsonl").open("w") as stream:
        for n in range(rows):
            word = (special or {}).get(n, "Add")
            stream.write(json.dumps({"question": f"{word} {n}", "answer": "#### 7"}) + "\n")
    return folder


class Drive:
    """A driver in a process of its own, forked from one that has imported what drivers need, so
    that a restart costs what a driver does and not what its imports cost."""

    def __init__(
        self, worker: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["tests.soak.driver", "ray.data"])
        self._process = forks.Process(target=drive, args=(worker, command, environment, str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code, negative for a signal's. Raises TimeoutError."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise TimeoutError(f"a driver has not ended within {timeout_s} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> None:
        """Kills it if it lives."""
        self._process.kill()
        self._process.join()


class Bench:
    """A cluster in processes of this machine.

    Args:
        nodes: resources of each node; the first is the head.
    """

    def __init__(self, *nodes: dict[str, Any]) -> None:
        os.environ.update(SETTINGS)  # before the import, which reads them
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        common = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
        # The address of a cluster that `Cluster` starts would be found, and joined, by every bare
        # `ray.init()` on this machine.
        with mock.patch("ray._private.utils.write_ray_address"):
            self.nodes = [self._cluster.add_node(**common, **node) for node in nodes]
        self.environment = {
            **os.environ,
            **SETTINGS,
            "RAY_ADDRESS": self._cluster.address,
            "PYTHONPATH": str(ROOT),
        }

    def close(self) -> None:
        self._cluster.shutdown()

    def remove(self, node: Any) -> None:
        """Kills a node, as if its plug were pulled."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drive(
        self, out: Path, *more: str, worker: str = "SoakWorker", log: Path | None = None
    ) -> "Drive":
        """Starts a driver."""
        config = out.parent / "soak.yaml"
        config.write_text(CONFIG)
        if log is None:
            log = out.parent / f"{out.name}.log"
        command = ["--config", str(config), "--out", str(out), *more]
        return Drive(worker, command, self.environment, log)

    def processes(self, title: str) -> list[int]:
        """Pids of this cluster's workers whose title holds a word, e.g. `MapWorker` or `Desk`."""
        raylets = {
            process.process.pid
            for node in self._cluster.list_all_nodes()
            for process in node.all_processes.get("raylet", [])
        }
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if parent in raylets and title in command:
                found.append(int(entry.name))
        return found


@contextmanager
def bench(*nodes: dict[str, Any]) -> Iterator[Bench]:
    made = Bench(*nodes)
    try:
        yield made
    finally:
        made.close()


def kill(pid: int) -> bool:
    """SIGKILL; whether there was such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Any, seconds: float = 120.0, every: float = 0.05) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} was not met within {seconds:g} s")
        time.sleep(every)
    return found


def samples(out: Path) -> list[dict[str, Any]]:
    """The rows of a finished run; each sid of the manifest once, or an AssertionError."""
    columns = ["sid", "sample_id", "status", "error", "output_text", "steps"]
    rows: list[dict[str, Any]] = pq.read_table(out / "samples", columns=columns).to_pylist()
    owed = pq.read_table(out / "manifest.parquet", columns=["sid"])["sid"].to_pylist()
    assert [row["sid"] for row in rows] == owed
    assert len(set(owed)) == len(owed)
    return rows


def executions(out: Path) -> list[str]:
    """The sids that workers began, each time."""
    found: list[str] = []
    for log in (out / EXECUTIONS).glob("*.log"):
        found += log.read_text().split()
    return found


def begun(out: Path) -> int:
    """How many rows workers began, each time counted."""
    width = 25  # a sid and a line feed
    return sum(log.stat().st_size for log in (out / EXECUTIONS).glob("*.log")) // width


def temporary() -> "tempfile.TemporaryDirectory[str]":
    """Short, since Ray's sockets are limited in the length of their path."""
    return tempfile.TemporaryDirectory(prefix="soak")
