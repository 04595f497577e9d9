"""`python -m jobs.bench`: how fast the engine is here, against its floor and a plain loop."""

from collections.abc import Sequence

from jobs.bench.options import parse
from jobs.errors import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # After the user's mistakes are told: torch takes seconds to come.
    from jobs.bench.running import run

    return run(options)


if __name__ == "__main__":
    run_main(main)
