"""One check: a program in its sandbox, its tests in a process beside it, and a watch over both."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from evaluators.sandbox import interpreter, launch
from evaluators.sandbox.launch import Program, SandboxError, Tier
from evaluators.sandbox.limits import Limits

MAX_PROGRAM_CHARS = 1_000_000
_LOOK_S = 0.02
_TRIES = 3
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Case:
    """A program and what it is asked."""

    program: str
    entry_point: str
    """The function that the tests call."""
    tests: str
    """Source that defines `check(candidate)`, which raises if an answer is wrong. Trusted."""
    setup: str = ""
    """Source of the helpers that the tests use, run before them. Trusted."""
    seed: int = 0
    """Of the random numbers that the tests draw."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a program did."""

    passed: bool
    reason: str
    """One line of printable ASCII."""


def check(case: Case, tier: Tier, limits: Limits | None = None) -> Verdict:
    """Judges one program; safe to call from several threads at once.

    Returns:
        A pass only if all tests ended well on values that the program sent; a fail for any
        other end.

    Raises:
        SandboxError: The sandbox did not start.
    """
    if len(case.program) > MAX_PROGRAM_CHARS:
        return Verdict(False, f"the program is longer than {MAX_PROGRAM_CHARS} characters")
    for _ in range(_TRIES - 1):
        try:
            return _check(case, tier, limits or Limits())
        except (SandboxError, OSError):  # for want of processes or memory, which may pass
            time.sleep(_PAUSE_S)
    try:
        return _check(case, tier, limits or Limits())
    except OSError as error:
        raise SandboxError(f"{error}") from error


def _check(case: Case, tier: Tier, limits: Limits) -> Verdict:
    ids = {"started_id": os.urandom(16).hex(), "loaded_id": os.urandom(16).hex()}
    order = {**ids, "program": case.program, "entry_point": case.entry_point}
    matter = {
        **ids,
        "entry_point": case.entry_point,
        "tests": case.tests,
        "setup": case.setup,
        "seed": case.seed,
        "budget": limits.reply_mib << 20,
    }
    with ExitStack() as running:
        # This process closes its own copies of the ends, so that each side sees the other's end.
        with _pipe() as (asked, ask), _pipe() as (answered, answer):
            program = running.enter_context(launch.start(tier, order, limits, (asked, answer)))
            judge = running.enter_context(
                launch.child(
                    interpreter.command("judge"),
                    {**matter, "read_fd": answered, "write_fd": ask},
                    "/",
                    (answered, ask),
                    output=subprocess.PIPE,
                )
            )
        return _await(judge, program, limits)


def _await(judge: subprocess.Popen[bytes], program: Program, limits: Limits) -> Verdict:
    """Waits for what the judge finds while looking after the program."""
    findings = _Findings(judge)
    begun = findings.next(time.monotonic() + limits.start_s)
    if begun is None or not begun.get("started"):
        raise SandboxError(program.complaint())
    deadline = time.monotonic() + limits.wall_s
    while True:
        found = findings.next(min(deadline, time.monotonic() + _LOOK_S))
        if found is not None:
            return _verdict(found["failure"], program)
        if findings.ended:
            return Verdict(False, "checker error: the judge ended without a verdict")
        violation = program.watch.violation()
        if violation is not None:
            return Verdict(False, violation)
        if time.monotonic() >= deadline:
            return Verdict(False, f"no verdict within {limits.wall_s:g} s")


def _verdict(failure: str | None, program: Program) -> Verdict:
    if failure is None:
        return Verdict(True, "passed")
    if failure.startswith("no answer") and program.watch.cpu_is_spent:
        failure = "the CPU time is spent"
    line = failure.encode("ascii", "backslashreplace").decode("ascii")
    return Verdict(False, "".join(char if char.isprintable() else " " for char in line))


class _Findings:
    """What the judge writes, one JSON object a line."""

    def __init__(self, judge: subprocess.Popen[bytes]) -> None:
        assert judge.stdout is not None
        self._fd = judge.stdout.fileno()
        self._buffer = b""
        self.ended = False
        """The judge will write no more."""

    def next(self, deadline: float) -> dict[str, Any] | None:
        """The next finding; None if there is none until then."""
        while b"\n" not in self._buffer:
            left = max(deadline - time.monotonic(), 0)
            if self.ended or not launch.readable(self._fd, left):
                return None
            data = os.read(self._fd, 65_536)
            self.ended = not data
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        finding: dict[str, Any] = json.loads(line)
        return finding


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    try:
        yield read_fd, write_fd
    finally:
        os.close(read_fd)
        os.close(write_fd)
