"""A Ray head with token authentication, of the tests' own: one for all that send jobs."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.client import connect
from jobs.errors import UserError

LIMIT_S = 900
"""For any one step; a busy machine needs many times what a quiet one does."""


PATIENT = {
    "agent_register_timeout_ms": 300_000,
    "health_check_timeout_ms": 60_000,
    "health_check_failure_threshold": 20,
}
"""On a busy machine Ray's own limits end a head that is only slow."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody holds now; all are asked for before the first is given back."""
    holders = [socket.socket() for _ in range(count)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@contextmanager
def started() -> Iterator[str]:
    """The address of its Jobs API; ended by the pids of its session."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # socket paths must stay short
    dashboard, client, agent = free_ports(3)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", "--port=0", "--num-cpus=2", "--num-gpus=0"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}"),
        *(f"--object-store-memory={100 * 2**20}", f"--system-config={json.dumps(PATIENT)}"),
    ]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (folder / "start.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        until(lambda: answers(address), LIMIT_S, lambda: (folder / "start.log").read_text())
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for pid in session_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def session_of(folder: Path) -> list[int]:
    """Processes whose command names this temporary folder: this head's, and nobody else's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{folder}/".encode() in command:
                found.append(int(entry.name))
    return found


def answers(address: str) -> bool:
    try:
        connect(address)
    except UserError:
        return False
    return True


def until(
    true: Callable[[], bool], limit_s: float, tell: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {tell()}"
        time.sleep(0.2)
