"""`python -m evaluators.lm_eval`: lm-eval's command line, where the model `unmask` is known."""

import sys

from lm_eval.__main__ import cli_evaluate

from decoders import DecoderError
from evaluators.lm_eval.model import NAME, register


def main() -> int:
    """Runs lm-eval on the process's own arguments and returns the exit code."""
    register()
    try:
        cli_evaluate()
    except DecoderError as error:
        print(f"error: {NAME}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
