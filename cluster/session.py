"""The Ray session of a driver, and what its cluster can give a pool of model actors."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from decoders import DecoderError


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as `ray job stop` does."""


class ResourceError(DecoderError):
    """The cluster cannot give what the run asks for."""


@dataclass(frozen=True)
class Pool:
    """A fixed number of model actors and what each takes."""

    size: int
    num_gpus: float
    num_cpus: float
    threads: int
    tensor_parallel: int = 1
    """Devices of one node, each with a process, that an actor splits its models over."""
    accelerator_type: str | None = None
    """The kind of GPU that actors must have, as Ray names it."""


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
        with _terminable():
            yield
        return
    _check_reachable()
    try:
        with _silent_start():
            # A dashboard costs some ten processes more.
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray raises bare ones where a process of its own is late
        address = os.environ.get("RAY_ADDRESS")
        what = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ResourceError(
            f"could not {what}: {reason}; check RAY_ADDRESS, the cluster's token and its head node"
        ) from error
    try:
        with _terminable():  # after init, which puts a handler of its own in place
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turns the first SIGTERM into an exception of the main thread; a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


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
    rows: int,
    num_gpus: float | None,
    size: int | None,
    latency: bool,
    wait_s: float,
    tensor_parallel: int = 1,
    accelerator_type: str | None = None,
) -> Pool:
    """How many actors to run: one for each GPU that is free, or one a CPU core with a thread each.

    On CPUs an actor takes half a core of Ray's book-keeping, so that reading tasks always find
    room. In latency mode one actor has the whole machine.

    Args:
        rows: what there is to do.
        num_gpus: of each actor, a part of one or a whole number; None: one if there are any, or as
            many as `tensor_parallel`.
        size: actors; None: by what is free.
        latency: one actor that nothing disturbs.
        wait_s: how long to wait for what is taken, or not there yet, in seconds.
        tensor_parallel: GPUs of one node that each actor splits its models over; without GPUs as
            many processes.
        accelerator_type: the only kind of GPU to use, as Ray names it.

    Raises:
        ResourceError: the cluster has no such GPUs, or they stay taken for `wait_s` seconds.
    """
    import ray

    total = ray.cluster_resources()
    gpus, cpus = total.get("GPU", 0.0), int(total.get("CPU", 1.0))
    each = num_gpus
    if each is None and tensor_parallel > 1:
        each = float(tensor_parallel)
    elif each is None:
        each = 1.0 if gpus or accelerator_type else 0.0
    if each:
        _wait_for_nodes(each, size, wait_s, accelerator_type)
        free = _wait_for_gpus(each, wait_s)
        most = min(_actors(each, accelerator_type), max(1, fit(free, each)))
        chosen = size or min(1 if latency else most, max(1, rows))
        return Pool(chosen, each, 0.0, 4, tensor_parallel, accelerator_type)
    most = max(1, cpus // tensor_parallel)
    chosen = 1 if latency else min(size or most, max(1, rows))
    threads = max(1, cpus // (chosen * tensor_parallel))
    return Pool(chosen, 0.0, min(0.5, cpus / (2 * chosen)), threads, tensor_parallel)


def _actors(each: float, accelerator_type: str | None) -> int:
    """How many actors the nodes hold: none is split over two."""
    import ray

    most = 0
    for node in ray.nodes():
        resources = node["Resources"] if node["Alive"] else {}
        if accelerator_type is None or f"accelerator_type:{accelerator_type}" in resources:
            most += fit(resources.get("GPU", 0.0), each)
    return most


def fit(gpus: float, each: float) -> int:
    """Actors on so many GPUs; parts of a GPU are parts of one and the same."""
    return int(gpus / each + 1e-9) if each >= 1 else int(gpus) * int(1 / each + 1e-9)


def _wait_for_nodes(
    each: float, size: int | None, wait_s: float, accelerator_type: str | None
) -> None:
    """Nodes that hold the pool: at once, or, where a size is given and the cluster can grow, after
    a while."""
    import ray

    deadline = time.monotonic() + (wait_s if size is not None else 0.0)
    while _actors(each, accelerator_type) < (size or 1):
        if time.monotonic() < deadline:
            time.sleep(min(1.0, wait_s / 4))
            continue
        wanted, total = size or 1, ray.cluster_resources()
        kinds = [name.partition(":")[2] for name in total if name.startswith("accelerator_type:")]
        kind = f" of type {accelerator_type}" if accelerator_type else ""
        has = f"{total.get('GPU', 0.0):g}" + (f" ({', '.join(sorted(kinds))})" if kinds else "")
        waited = f" after {wait_s:g} s" if size is not None else ""
        raise ResourceError(
            f"{wanted} model actor(s) with {each:g} GPU(s) each on one node need "
            f"{wanted * each:g} GPUs{kind}, the cluster has {has}{waited}; add GPU nodes, or set "
            "cluster.num_gpus=0 to run on CPUs"
        )


def _wait_for_gpus(each: float, wait_s: float) -> float:
    """The GPUs that are free, once there are enough for an actor."""
    import ray

    deadline = time.monotonic() + wait_s
    while (free := float(ray.available_resources().get("GPU", 0.0))) < each:
        if time.monotonic() > deadline:
            raise ResourceError(
                f"no {each:g} GPU became free within {wait_s:g} s; other jobs hold them: wait, "
                "raise cluster.wait_s, or stop those"
            )
        time.sleep(min(1.0, wait_s / 4))
    return free
