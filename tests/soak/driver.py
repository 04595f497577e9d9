"""`jobs.evaluate` with a worker that costs nothing, in a process that was forked for it."""

import functools
import os
import sys
from pathlib import Path

from cluster import pipeline
from jobs import evaluate, running
from jobs.errors import run_main
from tests.soak import worker

ROOT = Path(__file__).resolve().parent.parent.parent


def drive(kind: str, command: list[str], environment: dict[str, str], log: str) -> None:
    """Runs to the end, and exits as the command line would."""
    os.environ.update(environment)
    os.chdir(ROOT)
    with open(log, "a") as stream:
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    running.run = functools.partial(pipeline.run, worker=getattr(worker, kind))
    run_main(lambda: evaluate.main(command))
