"""Inside the sandbox: runs one program and answers calls of its function.

This process holds the program and nothing that judges it: no test, no expected value. Whatever
the program does to this code, to the modules or to the pipes, all it can send are values, and
only right ones pass.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import signal
import sys
from types import ModuleType

from evaluators.sandbox import landlock, rlimits, seccomp, values
from evaluators.sandbox.channel import Channel, ChannelError

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module is slow to import, and each check starts anew
    from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_CAPABILITIES_V3 = 0x20080522
_CAP_DAC_READ_SEARCH = 2
_MAX_MESSAGE = 300


def main() -> None:
    """Reads the order from standard input, locks itself in and serves until the pipe ends."""
    order = json.loads(sys.stdin.buffer.read())
    null = os.open("/dev/null", os.O_RDWR)
    channel = Channel(order["read_fd"], order["write_fd"])
    _lock_in(order)
    for stream in range(3):  # only now, so that what went wrong so far could be told
        os.dup2(null, stream)
    os.close(null)
    channel.send({"id": order["started_id"]})
    try:
        _serve(channel, order)
    except ChannelError:
        os._exit(0)


def _serve(channel: Channel, order: dict[str, Any]) -> None:
    try:
        function = _load(order["program"], order["entry_point"])
    except BaseException as error:
        channel.send({"id": order["loaded_id"], "error": _described(error)})
        return
    channel.send({"id": order["loaded_id"], "value": None})
    while True:
        request = channel.receive()
        try:
            arguments, keywords = values.decode(request["arguments"])
            reply = {"value": values.encode(function(*arguments, **keywords))}
        except BaseException as error:
            reply = {"error": _described(error)}
        channel.send({"id": request["id"], **reply})


def _load(program: str, entry_point: str) -> Any:
    """Runs the program as a module of its own and returns the function that is asked for."""
    module = ModuleType("candidate")
    sys.modules["candidate"] = module
    exec(compile(program, "<candidate>", "exec", dont_inherit=True), module.__dict__)
    function = module.__dict__.get(entry_point)
    if not callable(function):
        raise NameError(f"the program defines no function {entry_point!r}")
    return function


def _described(error: BaseException) -> list[str]:
    """The name of the nearest builtin class of an error, and what it says; no name for a value
    that cannot be sent."""
    if isinstance(error, values.ForeignValueError):
        return ["", str(error)]
    kinds = (
        kind.__name__ for kind in type(error).__mro__ if vars(builtins).get(kind.__name__) is kind
    )
    try:
        text = str(error)
    except BaseException:
        text = ""
    name = type(error).__name__
    kind = next(kinds, "Exception")
    return [kind, (text if kind == name else f"{name}: {text}")[:_MAX_MESSAGE]]


def _lock_in(order: dict[str, Any]) -> None:
    namespaced = order["tier"] == "bubblewrap"
    os.umask(0o077)
    os.chdir(order["scratch"])
    rlimits.apply(order["limits"], own_namespace=namespaced)
    seccomp.no_new_privileges()
    if not namespaced:
        landlock.restrict(order["readable"], order["listable"], order["scratch"])
        _drop_privileges(order["user"], order["search"])
        _die_with(order["parent"])
    seccomp.install()


def _drop_privileges(user: int | None, search: bool) -> None:
    """Becomes a user without files, processes or privileges.

    Args:
        user: whom; None where this process cannot become another.
        search: keep the right to read whatever Landlock leaves visible, for an interpreter that
            lies in a folder of root's.
    """
    if user is not None:
        _checked("prctl", _PR_SET_KEEPCAPS, ctypes.c_ulong(1), 0, 0, 0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    kept = 1 << _CAP_DAC_READ_SEARCH if search else 0
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _checked("capset", header, sets)


def _die_with(parent: int) -> None:
    _checked("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _checked(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
