"""`python -m jobs.evaluate`: runs a sweep and leaves a run directory with a report."""

import argparse
from collections.abc import Sequence

from jobs.errors import run_main
from jobs.options import config_of, run_options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    config = config_of(options)
    # After the user's mistakes are told: torch and Ray take seconds to come.
    from jobs.running import evaluate

    return evaluate(config, options.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.evaluate",
        description="Run a sweep of decoders over tasks and write a run directory with a report. "
        "Without --config: the bundled models on all five tasks. The same command on an unfinished "
        "run computes what is missing, on a finished one nothing.",
        parents=[run_options()],
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="run directory, or its URI, e.g. s3://bucket/run (default: runs/NAME-DIGEST)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_main(main)
