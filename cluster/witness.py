"""What ended a process that loaded a model, for the one that comes after it.

A fault of native code is written down by faulthandler as the process dies. SIGKILL, which is what
the kernel sends when memory runs out, leaves nothing: that is how it is known.
"""

import faulthandler
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NOTHING = "by SIGKILL or an exit without a word, as when the machine has too little memory"

SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


class Witness:
    """Keeps a file on this node under the name of an actor, from one of its lives to the next."""

    def __init__(self, actor: str) -> None:
        name = re.sub("[^A-Za-z0-9]", "", actor) or "alone"
        self._path = Path(tempfile.gettempdir()) / f"unmask-load-{name}.txt"

    def last_words(self) -> str:
        """How the life before this one ended, as far as this node knows."""
        try:
            written = self._path.read_text(errors="replace")
        except OSError:
            return "on another node"
        signals = (name for words, name in SIGNALS.items() if words in written)
        return next((f"by {name}" for name in signals), NOTHING)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Writes down what kills the process within; without a file there is no witness."""
        with ExitStack() as stack:
            with suppress(OSError):
                stream = stack.enter_context(open(self._path, "w", opener=_private))
                faulthandler.enable(stream)
                stack.callback(faulthandler.enable, sys.__stderr__ or sys.stderr)
            yield
        self._path.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
