"""Outside the sandbox: runs the tests of one problem against a program that it never sees.

A process of its own for each check: the tests are trusted, but what they compute with are the
program's values, which may be built to exhaust them. It writes its findings as JSON lines to
standard output; a judge that ends without a verdict has not passed anything.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from contextlib import suppress

from evaluators.sandbox import rlimits, values
from evaluators.sandbox.channel import Channel, ChannelError

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module is slow to import, and each check starts anew
    from typing import Any, NoReturn

_MEMORY_MIB = 1024
_CPU_S = 10
_MAX_REASON = 300


class _Over(BaseException):
    """The program cannot be asked any more. Not an Exception: no test may swallow it."""


class CandidateError(Exception):
    """What the program raised, where no builtin exception says it better."""


class Proxy:
    """Stands for the program's function in the tests.

    Arguments and results cross by value: what the program does to an argument stays with it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.failure: str | None = None
        """Why the program cannot be asked any more; a verdict of its own, whatever the tests
        make of it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.failure is not None:
            raise _Over
        request = os.urandom(16).hex()
        try:
            self._channel.send({"id": request, "arguments": values.encode((arguments, keywords))})
            reply = self._channel.receive()
            if reply.get("id") != request:
                raise ChannelError("a reply belongs to no call")
            if "error" not in reply:
                return values.decode(reply.get("value"))
        except (ChannelError, values.ForeignValueError) as error:
            self.failure = str(error)
            raise _Over from None
        raise _raised(reply["error"])


def main() -> None:
    """Reads the case from standard input, asks the program, writes the verdict."""
    case = json.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):  # what the tests print is of no interest
        os.dup2(null, stream)
    rlimits.lower(resource.RLIMIT_AS, _MEMORY_MIB << 20)
    rlimits.lower(resource.RLIMIT_CPU, _CPU_S)
    channel = Channel(case["read_fd"], case["write_fd"], case["budget"])
    try:
        started = channel.receive().get("id") == case["started_id"]
    except ChannelError:
        started = False
    if not started:
        _finish(report, {"started": False})
    _write(report, {"started": True})
    try:
        failure = _judge(channel, case)
    except BaseException as error:
        failure = f"checker error: {type(error).__name__}"
    _finish(report, {"failure": failure and failure[:_MAX_REASON]})


def _judge(channel: Channel, case: dict[str, Any]) -> str | None:
    """None for a pass, else what is wrong."""
    try:
        loaded = channel.receive()
    except ChannelError as error:
        return f"no answer: {error}"
    if loaded.get("id") != case["loaded_id"]:
        return "no answer: a reply belongs to no call"
    if "error" in loaded:
        return f"the program does not load: {_told(_raised(loaded['error']))}"
    proxy = Proxy(channel)
    scope: dict[str, Any] = {"__name__": "check"}
    with suppress(SyntaxError):  # a prompt may end where the program has to go on
        _run(case["setup"], scope)  # for the helpers that tests share with the prompt
    scope[case["entry_point"]] = proxy
    _run(case["tests"], scope)
    if "random" in case["tests"]:
        import random

        random.seed(case["seed"])
    found = None
    try:
        scope["check"](proxy)
    except (Exception, _Over) as error:
        found = _told(error)
    return found if proxy.failure is None else f"no answer: {proxy.failure}"


def _run(source: str, scope: dict[str, Any]) -> None:
    exec(compile(source, "<tests>", "exec", dont_inherit=True), scope)


def _raised(description: Any) -> Exception:
    """The program's exception as one that tests may expect.

    One that steers loops (StopIteration) would end a test's loop early, and one that ends
    processes is no Exception: both arrive as CandidateError.
    """
    name, text = "Exception", ""
    if isinstance(description, list) and len(description) == 2:
        name, text = (item if isinstance(item, str) else "" for item in description)
    kind = getattr(builtins, name, None)
    if (
        isinstance(kind, type)
        and issubclass(kind, Exception)
        and not issubclass(kind, StopIteration | StopAsyncIteration)
    ):
        with suppress(TypeError):  # a class that wants more than a message
            return kind(text)
    return CandidateError(f"{name}: {text}" if name else text)


def _told(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, AssertionError):
        return f"a test failed: {text}" if text else "a test failed"
    if isinstance(error, CandidateError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write(report: int, finding: dict[str, Any]) -> None:
    os.write(report, json.dumps(finding).encode("ascii") + b"\n")


def _finish(report: int, finding: dict[str, Any]) -> NoReturn:
    _write(report, finding)
    os._exit(0)
