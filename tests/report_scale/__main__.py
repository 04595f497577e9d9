"""How long the report of a large run takes, and how much memory.

`python -m tests.report_scale --samples 1000000 --steps 10000000` makes a run up, has a fresh
process make its report as `jobs.report` does, says where the time went, and removes the files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.report_scale.sweep import write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.report_scale", description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are for a while")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report_scale.", dir=options.folder) as folder:
        run, began = Path(folder) / "run", time.monotonic()
        try:
            write(run, options.samples, options.steps)
        except ValueError as error:
            parser.error(str(error))
        size = sum(path.stat().st_size for path in run.rglob("*.parquet"))
        print(f"made up in {time.monotonic() - began:.0f} s: {size / 2**20:,.0f} MiB of Parquet")
        command = [sys.executable, "-m", "tests.report_scale.phases", str(run)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return done.returncode
        facts: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        beside = [path for path in run.rglob("*") if path.suffix in (".html", ".js", ".csv")]
        print(table(facts))
        print(
            f"report and what is beside it: {sum(p.stat().st_size for p in beside) / 2**20:.1f} MiB"
        )
        print(f"load of this machine, 1 minute: {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    return 0


def table(facts: dict[str, Any]) -> str:
    """Seconds by phase, the longest first, and what all took."""
    phases = sorted(facts["phases"].items(), key=lambda entry: -entry[1][1])
    lines = [f"{'phase':46} {'wall s':>8} {'CPU s':>8}"]
    lines += [f"{name:46} {wall:8.1f} {cpu:8.1f}" for name, (wall, cpu) in phases if cpu >= 0.05]
    lines.append(f"{'all, with imports':46} {facts['wall_s']:8.1f} {facts['cpu_s']:8.1f}")
    lines.append(f"peak memory {facts['peak_bytes'] / 2**30:.2f} GiB")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
