"""Starting and ending a sandboxed program, in each tier."""

import itertools
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from evaluators.sandbox import bubblewrap, interpreter
from evaluators.sandbox.limits import Limits
from evaluators.sandbox.usage import Watch, scratch_folder

Tier = Literal["bubblewrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock")
"""The best first."""

_GRACE_S = 5.0

_CHOWN, _DAC_READ_SEARCH, _SETGID, _SETUID = 0, 2, 6, 7
_TO_CHANGE = (_CHOWN, _SETGID, _SETUID)
"""Capabilities that it takes to hand a folder to another user, and to become one."""

# Users of no account, from the range that systemd lends to services. Each program gets its own,
# so that two at once are strangers to each other.
_FIRST_USER, _USERS = 61_184, 4_336
_MAPS = ("/proc/self/uid_map", "/proc/self/gid_map")
_next_user = itertools.count(int.from_bytes(os.urandom(2), "big"))


class SandboxError(RuntimeError):
    """The sandbox did not start, so that nothing can be said of the program."""


@dataclass(frozen=True, slots=True)
class Program:
    """A started sandbox."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    """What was written to standard error before the program began."""
    watch: Watch

    def complaint(self) -> str:
        """Why it did not start: the last line of its errors."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        self.errors.seek(0)
        lines = self.errors.read(65_536).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.process.poll()}"


@contextmanager
def start(
    tier: Tier, order: Mapping[str, Any], limits: Limits, ends: tuple[int, int]
) -> Iterator[Program]:
    """Starts a program; it is dead, and what it wrote is gone, when the context ends.

    Args:
        tier: the kind of sandbox.
        order: the program and its function, for the runner.
        limits: the bounds.
        ends: the pipe ends that the program reads requests from and writes answers to.

    Raises:
        SandboxError: It cannot be started.
    """
    begin = _bubblewrap if tier == "bubblewrap" else _landlock
    order = {
        **order,
        "tier": tier,
        "read_fd": ends[0],
        "write_fd": ends[1],
        "limits": limits.to_json(),
    }
    with _memory(b"") as errors, begin(order, limits, ends, errors) as program:
        yield program


@contextmanager
def child(
    command: Sequence[str],
    message: Mapping[str, Any],
    home: str,
    fds: Sequence[int],
    *,
    output: int = subprocess.DEVNULL,
    errors: IO[bytes] | int = subprocess.DEVNULL,
    user: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own that reads a message from standard input and inherits
    these descriptors alone; it is killed and reaped when the context ends."""
    with _memory(json.dumps(message).encode("ascii")) as source:
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=output,
            stderr=errors,
            pass_fds=fds,
            env=interpreter.environment(home),
            cwd="/",
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _bubblewrap(
    order: dict[str, Any], limits: Limits, ends: tuple[int, int], errors: IO[bytes]
) -> Iterator[Program]:
    order["scratch"] = bubblewrap.HOME
    told, tell = os.pipe()
    try:
        command = bubblewrap.command(limits, tell)
        user = spare_user() if interpreter.reachable_by_others(bubblewrap.sources()) else None
        with child(
            command, order, bubblewrap.HOME, (*ends, tell), errors=errors, user=user
        ) as process:
            os.close(tell)
            tell = -1
            pid, handle = _inner(told, time.monotonic() + limits.start_s)
            try:
                yield Program(process, errors, Watch(pid, bubblewrap.HOME, limits, own_disk=True))
            finally:
                _end(process, handle)
    finally:
        os.close(told)
        if tell >= 0:
            os.close(tell)


@contextmanager
def _landlock(
    order: dict[str, Any], limits: Limits, ends: tuple[int, int], errors: IO[bytes]
) -> Iterator[Program]:
    parent, shown = tempfile.gettempdir(), interpreter.visible()
    search = not interpreter.reachable_by_others([*shown, parent])
    user = spare_user() if not search or _has(_DAC_READ_SEARCH) else None
    with scratch_folder(parent, user) as scratch:
        order |= {
            "scratch": scratch,
            "readable": shown,
            "listable": interpreter.files().roots,
            "user": user,
            "search": search and user is not None,
            "parent": os.getpid(),
        }
        command = interpreter.command("candidate")
        with child(command, order, scratch, ends, errors=errors) as process:
            yield Program(process, errors, Watch(process.pid, scratch, limits, own_disk=False))


def _inner(told: int, deadline: float) -> tuple[int, int]:
    """The process that bubblewrap started: its id and a handle that no other can inherit.

    Raises:
        SandboxError: bubblewrap started none.
    """
    text = b""
    while b"}" not in text:
        left = max(deadline - time.monotonic(), 0)
        if not readable(told, left):
            raise SandboxError("bubblewrap does not start")
        data = os.read(told, 4096)
        if not data:
            return 0, -1
        text += data
    pid = int(json.loads(text)["child-pid"])
    try:
        return pid, os.pidfd_open(pid)
    except ProcessLookupError:
        return pid, -1


def _end(process: subprocess.Popen[bytes], handle: int) -> None:
    """Kills the program, and with it its namespace; bubblewrap then reaps it and ends by itself.
    Killed first, bubblewrap would leave its child to whatever reaps orphans here."""
    if handle < 0:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    finally:
        os.close(handle)


@contextmanager
def _memory(content: bytes) -> Iterator[IO[bytes]]:
    """A file without a name."""
    with os.fdopen(os.memfd_create("unmask"), "w+b") as file:
        file.write(content)
        file.seek(0)
        yield file


def readable(fd: int, timeout_s: float) -> bool:
    """Whether there is something to read, or the end, within a time. By poll, since the process
    may have more descriptors than select can name."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def spare_user() -> int | None:
    """A user id that nobody has, for a program; None if this process may not take one on."""
    if os.geteuid() != 0 or not _has(*_TO_CHANGE) or not all(map(_maps_users, _MAPS)):
        return None
    return _FIRST_USER + next(_next_user) % _USERS


def _has(*capabilities: int) -> bool:
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return all(held >> capability & 1 for capability in capabilities)
    return False


def _maps_users(path: str) -> bool:
    for line in Path(path).read_text("ascii").splitlines():
        first, _, count = map(int, line.split())
        if first <= _FIRST_USER and first + count >= _FIRST_USER + _USERS:
            return True
    return False
