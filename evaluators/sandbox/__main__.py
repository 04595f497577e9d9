"""`python -m evaluators.sandbox --programs DIR`: judges every program of a folder.

A program is a `*.py` file that defines `add(a, b)`. Each gets a line, `NAME pass|fail REASON`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluators.sandbox.checker import Case, check
from evaluators.sandbox.launch import TIERS, SandboxError, Tier
from evaluators.sandbox.limits import Limits
from evaluators.sandbox.tiers import probe, trial

_TESTS = """\
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(-5, 7) == 2
    assert candidate(123456, 654321) == 777777
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every program was judged; 2: there is no sandbox, or no program."""
    options = _parse(arguments)
    programs = sorted(path for path in options.programs.glob("*.py") if path.is_file())
    if not programs:
        print(f"--programs {options.programs}: there is no *.py file in it", file=sys.stderr)
        return 2
    tier, reason = _tier(options.tier)
    print(reason, file=sys.stderr)
    if tier is None:
        for path in programs:
            print(f"{path.stem} not_executed {reason}")
        return 2
    with ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(lambda path: _judged(path, tier), programs):
            print(line, flush=True)
    return 0


def _judged(path: Path, tier: Tier) -> str:
    program = path.read_text(encoding="utf-8", errors="replace")
    try:
        verdict = check(Case(program, "add", _TESTS), tier, Limits())
    except SandboxError as error:
        return f"{path.stem} not_executed {error}"
    return f"{path.stem} {'pass' if verdict.passed else 'fail'} {verdict.reason}"


def _tier(name: str) -> tuple[Tier | None, str]:
    if name == "auto":
        found = probe()
        return found.tier, found.reason
    tier = next(tier for tier in TIERS if tier == name)
    wrong = trial(tier)
    return (tier, f"sandbox: {tier}") if wrong is None else (None, f"no sandbox ({tier}: {wrong})")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluators.sandbox",
        description="Judge programs that define add(a, b), each in a sandbox of its own.",
    )
    parser.add_argument("--programs", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--tier",
        choices=["auto", *TIERS],
        default="auto",
        help="the kind of sandbox (default: the best that works here)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="programs at once (default: the CPU cores)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
