"""One class for what the user can mend: a single line, exit code 2, no traceback."""

import errno
import sys
from collections.abc import Callable

from cluster.errors import CommitError, PipelineError
from cluster.lock import LockedError
from cluster.session import Terminated
from cluster.store import StoreError
from decoders import DecoderError
from evaluators import DataError, OptionError, UnknownTaskError
from reports.load import ReportError


class UserError(ValueError):
    """Says what is wrong, what was given and how to mend it."""


MENDABLE = (
    UserError,
    DecoderError,
    DataError,
    OptionError,
    UnknownTaskError,
    ReportError,
    LockedError,
    StoreError,
)

FAILURES = (PipelineError, CommitError)


def run_main(main: Callable[[], int]) -> None:
    """Runs an entry point and exits with its code; the user's mistakes become one line."""
    try:
        code = main()
    except MENDABLE as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except FAILURES as error:
        print(f"failed: {' '.join(str(error).split())}", file=sys.stderr)
        print("what had ended is safe; the same command computes the rest", file=sys.stderr)
        code = 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"failed: {' '.join(str(error).split())}", file=sys.stderr)
        print("what had ended is safe; the same command computes the rest", file=sys.stderr)
        code = 1
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on where this one ended", file=sys.stderr)
        code = 143 if isinstance(stop, Terminated) else 130
    sys.stdout.flush()
    sys.exit(code)
