"""The command line that starts a program in namespaces of its own, by bubblewrap."""

import os
import shutil

from evaluators.sandbox import interpreter
from evaluators.sandbox.limits import Limits

HOME = "/tmp"
_RUNNER = "/runner"
_NOBODY = "65534"
_LINKS = ("/lib", "/lib64", "/lib32", "/libx32")


def binary() -> str | None:
    """The installed bubblewrap."""
    return shutil.which("bwrap")


def command(limits: Limits, info_fd: int) -> list[str]:
    """Starts the runner alone: no network, no processes but itself, no files but the
    interpreter's, read-only, and a sized folder in memory that goes with it.

    Args:
        limits: of which the scratch folder's size is used.
        info_fd: where bubblewrap writes the process's id, as JSON.

    Raises:
        FileNotFoundError: There is no bubblewrap.
    """
    path = binary()
    if path is None:
        raise FileNotFoundError("bwrap is not installed")
    found = interpreter.files()
    arguments = [path, "--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY]
    arguments += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--as-pid-1"]
    arguments += ["--info-fd", str(info_fd), "--hostname", "sandbox"]
    for root in found.roots:
        arguments += ["--ro-bind", root, root]
    for link in _LINKS:
        if os.path.islink(link):
            arguments += ["--symlink", os.readlink(link), link]
    if not any(found.executable.startswith(f"{root}/") for root in found.roots):
        arguments += ["--ro-bind", found.executable, found.executable]
    for folder in found.hidden:
        arguments += ["--tmpfs", folder, "--remount-ro", folder]
    for device in ("/dev/null", *interpreter.DEVICES):
        arguments += ["--dev-bind", device, device]
    arguments += ["--ro-bind", str(interpreter.PACKAGE), _RUNNER]
    arguments += ["--size", str(limits.scratch_mib << 20), "--tmpfs", HOME, "--remount-ro", "/"]
    return [*arguments, "--", *interpreter.command("candidate", _RUNNER)]


def sources() -> list[str]:
    """What bubblewrap must be able to read."""
    found = interpreter.files()
    return [found.executable, *found.roots, str(interpreter.PACKAGE)]
