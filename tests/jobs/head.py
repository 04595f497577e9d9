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

from jobs.client import asking, connect
from jobs.errors import UserError

LIMIT_S = 900
"""For any one step; a busy machine needs many times what a quiet one does."""


TRIES = 3

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
    """The address of its Jobs API; ended by the pids of its session. Ray gives a start up after
    less than a minute, which a busy machine may take: it is then tried again."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # socket paths must stay short
    log = folder / "start.log"
    try:
        for _ in range(TRIES):
            process, address = _start(folder, log)
            until(
                lambda process=process, address=address: (  # of this try
                    process.poll() is not None or answers(address)
                ),
                LIMIT_S,
                log.read_text,
            )
            if process.poll() is None:
                break
            _end(folder)
        assert process.poll() is None, log.read_text()
        yield address
        process.kill()
        process.wait(10)
    finally:
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, log: Path) -> "tuple[subprocess.Popen[bytes], str]":
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
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    return process, f"http://127.0.0.1:{dashboard}"


def _end(folder: Path) -> None:
    for pid in session_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session_of(folder: Path) -> list[int]:
    """Processes whose command names this temporary folder: this head's, and nobody else's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{folder}/".encode() in command or f"={folder}\0".encode() in command:
                found.append(int(entry.name))
    return found


def answers(address: str) -> bool:
    """Whether it takes jobs, which is some seconds after it answers."""
    try:
        client = connect(address)
        with asking(address):
            client.submit_job(entrypoint="true")
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
