"""The limits that the kernel enforces by itself.

Like all that the sandbox itself imports, this needs few modules: every check starts anew.
"""

import os
import resource
from collections.abc import Mapping

_MIB = 1 << 20
_PER_NAMESPACE = (5, 14)
"""From this kernel on RLIMIT_NPROC counts in each user namespace by itself."""


def apply(limits: Mapping[str, float], *, own_namespace: bool) -> None:
    """Binds this process, for good.

    Args:
        limits: the fields of `Limits`.
        own_namespace: the process is alone in a user namespace, so that its threads can be
            counted by the kernel.
    """
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_CPU, int(limits["cpu_s"]))
    lower(resource.RLIMIT_AS, int(limits["memory_mib"]) * _MIB)
    lower(resource.RLIMIT_FSIZE, int(limits["file_mib"]) * _MIB)
    lower(resource.RLIMIT_NOFILE, int(limits["open_files"]))
    if own_namespace and _kernel() >= _PER_NAMESPACE:
        lower(resource.RLIMIT_NPROC, int(limits["threads"]))


def lower(kind: int, value: int) -> None:
    """Sets a limit, or the hard one in force if that is lower still."""
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)
