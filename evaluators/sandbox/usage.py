"""What a running program uses of the things that the kernel does not bound by itself."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from evaluators.sandbox.limits import Limits

_TICKS = os.sysconf("SC_CLK_TCK")
_MAX_DEPTH = 32
_ALMOST = 0.9
"""A program that the kernel killed after this share of its CPU limit died of that limit."""


class Watch:
    """Looks at one process from outside.

    Args:
        pid: the program's process.
        scratch: its folder.
        limits: the bounds.
        own_disk: the folder is a file system of its own, of bounded size, so that only its files
            need counting, which it tells by itself.
    """

    def __init__(self, pid: int, scratch: str, limits: Limits, *, own_disk: bool) -> None:
        self._pid, self._scratch, self._limits = pid, scratch, limits
        self._own_disk = own_disk
        self._cpu_s = 0.0

    @property
    def cpu_is_spent(self) -> bool:
        """Whether the last look saw about all of the CPU time that is allowed."""
        return self._cpu_s >= _ALMOST * self._limits.cpu_s

    def violation(self) -> str | None:
        """The bound that is passed, if any."""
        if self._threads() > self._limits.threads:
            return f"more than {self._limits.threads} threads"
        if self._written() > self._limits.scratch_mib << 20:
            return f"more than {self._limits.scratch_mib} MiB written"
        if self._own_disk:
            return self._crowded()
        return self._overflow()

    def _threads(self) -> int:
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0  # it has ended
        self._cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
        return int(fields[17])

    def _written(self) -> int:
        """Bytes passed to write calls, or dirtied through mappings; 0 where that is not told."""
        try:
            with open(f"/proc/{self._pid}/io", "rb") as file:
                counts = dict(line.split(b": ") for line in file.read().splitlines())
        except OSError:
            return 0
        return max(int(counts[b"wchar"]), int(counts[b"write_bytes"]))

    def _crowded(self) -> str | None:
        try:
            disk = os.statvfs(f"/proc/{self._pid}/root{self._scratch}")
        except OSError:
            return None  # it has ended, or is not to be looked at
        if disk.f_files - disk.f_ffree > self._limits.scratch_files:
            return f"more than {self._limits.scratch_files} files"
        return None

    def _overflow(self) -> str | None:
        files = blocks = 0
        try:
            for entry in _entries(self._scratch):
                files += 1
                blocks += entry.st_blocks
                if files > self._limits.scratch_files:
                    return f"more than {self._limits.scratch_files} files"
        except OSError as error:
            return f"a folder that cannot be read ({error.strerror})"
        if blocks * 512 > self._limits.scratch_mib << 20:
            return f"more than {self._limits.scratch_mib} MiB of files"
        return None


def _entries(folder: str) -> Iterator[os.stat_result]:
    """All that lies in a folder which may change while it is read."""
    folders = [(folder, 0)]
    while folders:
        path, depth = folders.pop()
        if depth > _MAX_DEPTH:
            raise OSError(0, "nested too deep")
        try:
            entries = os.scandir(path)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, depth + 1))
                    yield entry.stat(follow_symlinks=False)


@contextmanager
def scratch_folder(parent: str, owner: int | None) -> Iterator[str]:
    """A fresh folder that is gone afterwards, whatever a dead program left in it.

    Args:
        parent: where.
        owner: the user it belongs to; None for this process's own.
    """
    path = _made(parent)
    try:
        if owner is not None:
            os.chown(path, owner, owner)
        yield path
    finally:
        remove(path)


def _made(parent: str) -> str:
    path = os.path.join(os.path.realpath(parent), f"unmask-{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    return path


def remove(path: str) -> None:
    """Removes a folder, however deep, without ever following a link out of it. One step at a
    time, since the whole path of a file may be longer than any call takes. What cannot be
    removed stays."""
    with suppress(OSError):
        _clear(path)
        os.rmdir(path)


def _clear(path: str) -> None:
    here = _opened(path, None)
    above: list[tuple[str, list[str]]] = []
    names = os.listdir(here)
    try:
        while names or above:
            if not names:
                here = _moved(here, "..")
                empty, names = above.pop()
                os.rmdir(empty, dir_fd=here)
                continue
            name = names.pop()
            if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                os.chmod(name, 0o700, dir_fd=here)
                here = _moved(here, name)
                above.append((name, names))
                names = os.listdir(here)
            else:
                os.unlink(name, dir_fd=here)
    finally:
        os.close(here)


def _moved(folder: int, name: str) -> int:
    """The folder of that name in a folder, which is closed."""
    other = _opened(name, folder)
    os.close(folder)
    return other


def _opened(name: str, folder: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)
