"""Landlock: the files that a process may see from here on (Linux 5.13 and later, no privilege)."""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

# The same numbers on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14

_READ = _READ_FILE | _READ_DIR
_SCRATCH = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
)
_FOR_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of the interface knows; later ones as the last."""
_NET = 0b11
"""Binding and connecting TCP, from version 4 on."""
_SCOPED = 0b11
"""Abstract sockets and signals, from version 6 on."""


def abi() -> int:
    """The version of the kernel's interface; 0 without Landlock."""
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION))


def restrict(readable: Iterable[str], listable: Iterable[str], scratch: str) -> None:
    """Leaves this process, for good, these files alone.

    Args:
        readable: files and folders to read, with all beneath.
        listable: folders whose names, and those beneath, can be listed.
        scratch: the one folder to write to.

    Raises:
        OSError: The kernel has no Landlock or refuses.
    """
    version = abi()
    if version < 1:
        raise OSError("the kernel has no Landlock")
    files = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    attributes = struct.pack(
        "=QQQ", files, _NET if version >= 4 else 0, _SCOPED if version >= 6 else 0
    )[: 8 if version < 4 else 16 if version < 6 else 24]
    size = len(attributes)
    ruleset = _syscall(_CREATE_RULESET, ctypes.create_string_buffer(attributes, size), size, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        for path in readable:
            _allow(ruleset, path, _READ & files)
        for path in listable:
            _allow(ruleset, path, _READ_DIR)
        _allow(ruleset, "/dev/null", _READ_FILE | _WRITE_FILE)
        _allow(ruleset, scratch, _SCRATCH & files)
        if _syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # nothing there, so nothing to allow
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _FOR_FILES
        rule = struct.pack("=Qi", rights, place)
        if _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, 12), 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule: {path}")
    finally:
        os.close(place)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *passed)
    return result
