"""Kills workers, lease actors and drivers at random moments until enough have died.

`python -m tests.soak --kills 200` starts a Ray cluster on this machine and runs `jobs.evaluate` on
rows that cost nothing, some of them poisonous. It ends with figures and exit code 0, or 1 if a row
was lost, doubled or wrong.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.bench import Bench, begun, bench, executions, kill, samples, temporary, write_data
from tests.soak.worker import EXECUTIONS

SPECIAL = {7: "KILL", 23: "RAISE", 41: "KILL"}
EXPECTED = {"KILL": "quarantined", "RAISE": "error"}
WEIGHTS = {"worker": 50, "lease actor": 40, "driver": 10}
TITLES = {"worker": "MapWorker", "lease actor": "Desk"}
AT_ONCE = (1, 2, 3)
"""Processes that are killed in one moment."""
BLOCK = 16
POOL = 2
IN_FLIGHT = 4 * BLOCK
"""Rows that a worker has at once: what its death may have computed again."""


@dataclass
class Figures:
    """What a soak found."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    rows: int = 0
    lost: int = 0
    duplicates: int = 0
    wrong: list[str] = field(default_factory=list)
    recomputed: int = 0
    allowed: int = 0
    """Rows in flight at the kills and at the deaths by poison: what may be recomputed."""
    began_s: float = field(default_factory=time.monotonic)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def good(self) -> bool:
        clean = not self.lost and not self.duplicates and not self.wrong
        return clean and self.recomputed <= self.allowed

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kills.items()))
        lines = [
            f"kills       {self.kills.total()} ({kinds})",
            f"runs        {self.runs}",
            f"rows        {self.rows}",
            f"duplicates  {self.duplicates}",
            f"lost        {self.lost}",
            f"wrong       {len(self.wrong)} {self.wrong[:5] or ''}",
            f"recomputed  {self.recomputed} (in flight at the deaths: {self.allowed})",
            f"wall        {self.wall_s:.0f} s",
        ]
        return "\n".join(lines)


def soak(
    cluster: Bench,
    *,
    kills: int,
    rows: int,
    seed: int,
    every: int,
    folder: Path,
    special: Mapping[int, str] = SPECIAL,
) -> Figures:
    """Runs until so many processes were killed; every run ends, is committed and is checked.
    `special` rows do what their word says."""
    dice, figures = random.Random(seed), Figures()
    data = write_data(folder / "data", rows, special)
    while figures.kills.total() < kills:
        out = folder / f"run{figures.runs}"
        (out / EXECUTIONS).mkdir(parents=True)
        before = figures.kills.copy()
        _one_run(cluster, out, data, kills, figures, dice, every)
        _check(out, figures, figures.kills - before, special)
        figures.runs += 1
        _tell(figures, f"{figures.rows} rows, {figures.recomputed} recomputed")
        shutil.rmtree(out)
    return figures


def _tell(figures: Figures, what: str) -> None:
    """A line, so that one sees it going on."""
    killed = f"{figures.kills.total()} kills"
    print(f"{figures.wall_s:6.0f} s  run {figures.runs}: {killed}, {what}", flush=True)


def _one_run(
    cluster: Bench,
    out: Path,
    data: Path,
    kills: int,
    figures: Figures,
    dice: random.Random,
    every: int,
) -> None:
    """Drives one run to its end through kills at random moments."""
    arguments = ["--data", str(data), "--set", f"cluster.pool={POOL}"]
    arguments += ["--set", f"cluster.rows_per_block={BLOCK}", "--set", "cluster.num_gpus=0"]
    driver = cluster.drive(out, *arguments)
    due = 0
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                code = driver.wait(0.02)
                if code == 0:
                    return
                if code != -9:
                    raise RuntimeError(f"a driver ended with {code}: {_tail(out)}")
                driver = cluster.drive(out, *arguments)
            if figures.kills.total() >= kills or begun(out) < due:
                continue
            dying: set[int] = set()
            for kind in dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=dice.choice(AT_ONCE)):
                pids = cluster.processes(TITLES[kind]) if kind in TITLES else [driver.pid]
                if kind == "driver" and not cluster.processes("MapWorker"):
                    continue  # it is only starting: let it come to something
                pids = [pid for pid in pids if pid not in dying]
                if pids and kill(pid := dice.choice(pids)):
                    dying.add(pid)
                    figures.kills[kind] += 1
                    due = begun(out) + dice.randint(0, 2 * every)
                    _tell(figures, kind)
    finally:
        driver.end()


def _check(out: Path, figures: Figures, kills: Counter[str], special: Mapping[int, str]) -> None:
    try:
        found = samples(out)
    except AssertionError:
        figures.lost += 1
        return
    figures.rows += len(found)
    figures.duplicates += len(found) - len({row["sid"] for row in found})
    for row in found:
        word = special.get(int(row["sample_id"]), "")
        if row["status"] != EXPECTED.get(word, "ok"):
            figures.wrong.append(f"{word or 'plain'} {row['status']}: {row['error']}")
    began = executions(out)
    figures.recomputed += len(began) - len(set(began))
    poison = sum(word == "KILL" for word in special.values()) * 2  # two budgets each
    deaths = kills["worker"] + POOL * kills["driver"] + 3 * poison
    figures.allowed += deaths * IN_FLIGHT


def _tail(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text()[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    parser.add_argument("--rows", type=int, default=3000, metavar="N", help="of each run, twice")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), metavar="N")
    parser.add_argument("--every", type=int, default=40, metavar="N", help="rows, on average")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is ended too
    with temporary() as folder, bench({"num_cpus": 4}) as cluster:
        figures = soak(
            cluster,
            kills=options.kills,
            rows=options.rows,
            seed=options.seed,
            every=options.every,
            folder=Path(folder),
        )
    print(figures)
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
