"""The Ray session of a driver, and what its cluster can give a pool of model actors."""

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from decoders import DecoderError


class ResourceError(DecoderError):
    """The cluster cannot give what the run asks for."""


@dataclass(frozen=True)
class Pool:
    """A fixed number of model actors and what each takes."""

    size: int
    num_gpus: float
    num_cpus: float
    threads: int


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine; quiet either way.

    A session that is already there (a test's) is used and left running.

    Raises:
        ResourceError: there is no cluster at the address, or none could be started.
    """
    # Before the first import of ray, which reads them.
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    _check_reachable()
    try:
        with _silent_start():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, OSError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS")
        what = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ResourceError(
            f"could not {what}: {reason}; check RAY_ADDRESS, the cluster's token and its head node"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable() -> None:
    """Asks the cluster's port once: Ray itself would try for minutes, without a word."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ResourceError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error.strerror or error}); start "
            "it, or unset RAY_ADDRESS to run on this machine"
        ) from error


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """Ray's native code announces its log level on the very descriptor of standard error; what
    goes wrong in a start is raised as an exception besides."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def plan_pool(
    rows: int, num_gpus: float | None, size: int | None, latency: bool, wait_s: float
) -> Pool:
    """How many actors to run: one a GPU, or one a CPU core with a thread each.

    On CPUs an actor takes half a core of Ray's book-keeping, so that reading tasks always find
    room. In latency mode one actor has the whole machine.

    Raises:
        ResourceError: the cluster has no such GPUs, or they stay taken for `wait_s` seconds.
    """
    import ray

    total = ray.cluster_resources()
    gpus, cpus = total.get("GPU", 0.0), int(total.get("CPU", 1.0))
    each = (1.0 if gpus else 0.0) if num_gpus is None else num_gpus
    if each:
        most = int(gpus / each)
        wanted = size or 1
        if most < wanted:
            raise ResourceError(
                f"{wanted} model actor(s) with num_gpus {each:g} need {wanted * each:g} GPUs, the "
                f"cluster has {gpus:g}; add GPU nodes or set cluster.num_gpus=0 to run on CPUs"
            )
        chosen = min(size or most, max(1, rows))
        _wait_for_gpus(each, wait_s)
        return Pool(1 if latency and size is None else chosen, each, 0.0, 4)
    chosen = 1 if latency else min(size or cpus, max(1, rows))
    return Pool(chosen, 0.0, min(0.5, cpus / (2 * chosen)), max(1, cpus // chosen))


def _wait_for_gpus(each: float, wait_s: float) -> None:
    import ray

    deadline = time.monotonic() + wait_s
    while ray.available_resources().get("GPU", 0.0) < each:
        if time.monotonic() > deadline:
            raise ResourceError(
                f"no {each:g} GPU became free within {wait_s:g} s; other jobs hold them: wait, "
                "raise cluster.wait_s, or stop those"
            )
        time.sleep(1.0)
