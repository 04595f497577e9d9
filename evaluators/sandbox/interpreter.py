"""The Python that programs run under: its command, its files, and what of them stays hidden.

Programs get the standard library and nothing else: no site-packages, whose presence would make
a verdict depend on the machine, and where this project's own benchmark data may lie.
"""

import os
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")
_DATA = ("/usr/share/zoneinfo",)
_SITES = ("site-packages", "dist-packages")
DEVICES = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# The package's own __init__ brings in the data libraries; its modules are imported without it.
_BOOT = """\
import sys, types
for name, path in (("evaluators", []), ("evaluators.sandbox", [sys.argv[1]])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
from evaluators.sandbox.{module} import main
main()
"""


class Files(NamedTuple):
    """Where the interpreter lives."""

    executable: str
    roots: tuple[str, ...]
    """Folders with its libraries; none lies in another."""
    hidden: tuple[str, ...]
    """Folders under the roots that a program must not see."""


@cache
def files() -> Files:
    """The files of the interpreter that this process runs under, not those of a venv."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    places = [*_LIBRARIES, *_DATA, f"{prefix}/lib", f"{prefix}/lib64"]
    bases = {
        "installed_base": sys.base_prefix,
        "base": sys.base_prefix,
        "installed_platbase": sys.base_exec_prefix,
        "platbase": sys.base_exec_prefix,
    }
    places += [sysconfig.get_path(name, vars=bases) for name in ("stdlib", "platstdlib")]
    roots: list[str] = []
    for place in sorted({os.path.realpath(place) for place in places if os.path.isdir(place)}):
        if not any(_within(place, root) for root in roots):
            roots.append(place)
    hidden = {str(PACKAGE.parent)} | {path for root in roots for path in _sites(root)}
    shown = sorted(path for path in hidden if any(_within(path, root) for root in roots))
    return Files(executable, tuple(roots), tuple(shown))


def version() -> str:
    """Which Python it is."""
    return ".".join(map(str, sys.version_info[:3]))


def command(module: str, package: str | Path = PACKAGE) -> list[str]:
    """The command that runs `main` of one of this package's modules, lying at `package`."""
    flags = ["-s", "-S", "-P", "-X", "utf8", "-c"]
    return [files().executable, *flags, _BOOT.format(module=module), str(package)]


def environment(home: str) -> dict[str, str]:
    """All that a program finds in its environment. Hashes are fixed, so that a verdict does not
    hang on the order of a set."""
    return {
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
    }


@cache
def visible() -> tuple[str, ...]:
    """Files and folders that together are the roots without what is hidden."""
    found = [path for root in files().roots for path in _without(root, files().hidden)]
    return (*found, *DEVICES)


def reachable_by_others(paths: Iterable[str]) -> bool:
    """Whether a user who owns nothing here could read these files and folders."""
    return all(_open_to_others(os.path.realpath(path)) for path in paths)


def _open_to_others(path: str) -> bool:
    try:
        modes = [os.stat(place).st_mode for place in (path, *map(str, Path(path).parents))]
    except OSError:
        return False
    readable = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(modes[0]) else 0)
    return modes[0] & readable == readable and all(mode & stat.S_IXOTH for mode in modes[1:])


def _sites(root: str) -> Iterator[str]:
    for folder in (Path(root), *Path(root).glob("python*"), *Path(root).glob("*/python*")):
        for name in _SITES:
            if (folder / name).is_dir():
                yield str(folder / name)


def _without(path: str, hidden: Iterable[str]) -> Iterator[str]:
    inside = [folder for folder in hidden if _within(folder, path)]
    if not inside:
        yield path
    elif path not in inside:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_symlink():  # what it points to counts where it lies
                    yield from _without(entry.path, inside)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
