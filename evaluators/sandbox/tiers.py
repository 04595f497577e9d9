"""Which sandbox this machine has, found by trying it: a tier counts only if its self-test holds."""

import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from evaluators.sandbox import bubblewrap, checker, interpreter, landlock, seccomp
from evaluators.sandbox.checker import Case
from evaluators.sandbox.launch import TIERS, SandboxError, Tier
from evaluators.sandbox.limits import Limits

_SUM = "def check(candidate):\n    assert candidate(1, 2) == 3 and candidate(-5, 7) == 2\n"
_NOTHING = "def check(candidate):\n    found = candidate()\n    assert found == [], found\n"

_RIGHT = "def add(a, b):\n    return a + b\n"
_LIAR = """\
class Same(int):
    __eq__ = lambda self, other: True
    __hash__ = int.__hash__
def add(a, b):
    return Same(0)
"""
_ENDLESS = "def add(a, b):\n    while True:\n        pass\n"
_ESCAPE = """\
import os, socket
def add():
    found = []
    def attempt(name, action):
        try:
            action()
        except Exception:
            return
        found.append(name)
    attempt("starts a process", os.fork)
    attempt("opens a socket", socket.socket)
    attempt("reads a file", lambda: open({canary!r}).read())
    attempt("writes a file", lambda: open({canary!r}, "r+").write("x"))
    attempt("signals its maker", lambda: os.kill({pid}, 0))
    attempt("reads its maker's environment", lambda: open("/proc/{pid}/environ").read())
    if {secret!r} in os.environ:
        found.append("has its maker's environment")
    return found
"""
_SECRET = "UNMASK_SANDBOX_SELF_TEST"


@dataclass(frozen=True, slots=True)
class Probe:
    """What this machine can do."""

    tier: Tier | None
    """The best tier whose self-test holds; None if programs must not run here."""
    tried: Mapping[str, str]
    """`ok` or what is wrong, by tier."""
    python: str
    """The version that programs run under."""

    @property
    def reason(self) -> str:
        """One line: which tier, or why there is none."""
        if self.tier is not None:
            return f"sandbox: {self.tier}"
        tried = "; ".join(f"{tier}: {found}" for tier, found in self.tried.items())
        return f"no sandbox, so that no program runs ({tried})"

    def to_json(self) -> dict[str, Any]:
        """For the run's record."""
        return {"tier": self.tier, "tried": dict(self.tried), "python": self.python}


_probing = threading.Lock()


def probe() -> Probe:
    """Finds the best tier, once for each process; about a second.

    A right program must pass, a lying one must not, an endless one must end, and one that tries
    to get out must find nothing.
    """
    with _probing:
        return _probe()


@cache
def _probe() -> Probe:
    tried: dict[str, str] = {}
    for tier in TIERS:
        tried[tier] = trial(tier) or "ok"
        if tried[tier] == "ok":
            return Probe(tier, tried, interpreter.version())
    return Probe(None, tried, interpreter.version())


def trial(tier: Tier) -> str | None:
    """Runs the self-test of one tier; None if it holds, else what is wrong."""
    missing = _missing(tier)
    if missing is not None:
        return missing
    with tempfile.NamedTemporaryFile(prefix="unmask-canary-") as canary:
        canary.write(b"whole")
        canary.flush()
        os.chmod(canary.name, 0o666)  # so that nothing but the sandbox protects it
        escape = _ESCAPE.format(canary=canary.name, pid=os.getpid(), secret=_SECRET)
        cases = {
            "a right program": (Case(_RIGHT, "add", _SUM), Limits(), True),
            "a program that escapes": (Case(escape, "add", _NOTHING), Limits(), True),
            "a lying program": (Case(_LIAR, "add", _SUM), Limits(), False),
            "an endless program": (Case(_ENDLESS, "add", _SUM), Limits(wall_s=0.2), False),
        }
        os.environ[_SECRET] = "1"
        try:
            with ThreadPoolExecutor(len(cases)) as pool:
                results = pool.map(
                    lambda case: checker.check(case[0], tier, case[1]), cases.values()
                )
                for (name, (_, _, wanted)), verdict in zip(cases.items(), results, strict=True):
                    if verdict.passed is not wanted:
                        return f"self-test: {name}: {verdict.reason}"
        except SandboxError as error:
            return f"does not start: {error}"
        finally:
            del os.environ[_SECRET]
    return None


def _missing(tier: Tier) -> str | None:
    if not seccomp.supported():
        return f"unknown machine {seccomp.machine()}"
    if tier == "bubblewrap":
        return None if bubblewrap.binary() else "bwrap is not installed"
    return None if landlock.abi() else "the kernel has no Landlock"
