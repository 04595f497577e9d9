"""What the service itself costs: rows that take no time, through the whole path.

`python -m tests.overhead --rows 10000 1000000` decodes them with a worker that does nothing, from
the manifest over workers and parts to the commit. Of each stage it prints the seconds, the rows a
second, the driver's own memory at its peak so far, and the processor time of a thousand rows by
kind of process; start-up (workers that import and load, until the first block is back) stands
apart. Rows beyond a cell's 10,000 samples go into further cells, as they do in a sweep.
"""

import argparse
import functools
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from cluster import manifest, parts, pipeline
from cluster.cells import Cell, ModelSpec
from cluster.commit import MANIFEST_FILE, commit
from cluster.manifest import Item, batches
from cluster.session import plan_pool, session
from cluster.store import Store
from cluster.usage import Usage
from decoders import make_decoder
from evaluators import Prompt, Sample
from tests.soak.bench import temporary
from tests.soak.worker import FreeWorker

PER_CELL = 10_000
SLOTS = 64
POOL = 2
PENDING_FILE = "pending.parquet"
TICK_S = os.sysconf("SC_CLK_TCK")


def cells(rows: int) -> list[Cell]:
    """As many as it takes."""
    first = Cell(
        model=ModelSpec("tiny-mdlm", "tiny-mdlm", "d", "float32", SLOTS),
        decoder=make_decoder("llada", {"gen_length": 8, "steps": 1}),
        task="gsm8k",
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
    )
    made = [first]
    for number in range(1, -(-rows // PER_CELL)):
        made.append(replace(first, task_version=f"1.{number}"))
    return made


def items(rows: int) -> list[Item]:
    """GSM8K's problems in their usual size, some hundred characters each."""
    text = "Question: " + "How many of the apples are left on the table at noon? " * 4
    return [
        Item(
            Sample(str(n), "7", None, {"question": "", "answer": "#### 7"}),
            Prompt(f"{text}{n}", ("Question:",)),
            tuple(range(5, 65)),
        )
        for n in range(min(rows, PER_CELL))
    ]


class Meter:
    """Looks at this process and all that it started, four times a second.

    `most_mib` is the most that this process has held of its own: neither files nor the object
    store, which are mapped and belong to all.
    """

    def __init__(self) -> None:
        self.most_mib = 0.0
        self._kinds: dict[int, str] = {}
        self._cpu_s: dict[int, float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu_s(self) -> Counter[str]:
        """Seconds of processor time so far by kind: driver, worker, desk, ray."""
        self._look()
        found: Counter[str] = Counter()
        for pid, seconds in list(self._cpu_s.items()):
            found[self._kinds[pid]] += seconds
        return found

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.25)

    def _look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(line for line in lines if line.startswith("RssAnon"))
        self.most_mib = max(self.most_mib, float(own.split()[1]) / 1024)
        parents, seconds = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
                seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / TICK_S
        for pid in parents:
            if self._is_ours(pid, parents):
                self._cpu_s[pid] = seconds[pid]
                self._kinds[pid] = self._kind(pid)

    @staticmethod
    def _is_ours(pid: int, parents: dict[int, int]) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return bool(pid)

    def _kind(self, pid: int) -> str:
        if pid == os.getpid():
            return "driver"
        if (before := self._kinds.get(pid, "ray")) != "ray":
            return before
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return before
        return "worker" if "MapWorker" in title else "desk" if "Desk" in title else "ray"


@dataclass
class Stage:
    """What a part of the way took."""

    name: str
    rows: int
    seconds: float
    most_mib: float
    cpu_s: Counter[str]

    def __str__(self) -> str:
        each = {kind: 1000 * s / max(self.rows, 1) for kind, s in sorted(self.cpu_s.items())}
        told = "  ".join(f"{kind} {s:.3f}" for kind, s in each.items() if s >= 0.0005)
        rate = f"{self.rows / self.seconds:9,.0f} rows/s" if self.rows else " " * 16
        return f"  {self.name:8}{self.seconds:8.1f} s  {rate}  {self.most_mib:6.0f} MiB" + (
            f"   CPU s/1,000 rows: {told}" if self.rows else ""
        )


class Stages:
    """Cuts the time into stages, each from the end of the one before."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self.found = meter, list[Stage]()
        self._since_s, self._cpu_s = time.monotonic(), meter.cpu_s()

    def end(self, name: str, rows: int) -> None:
        now_s, cpu_s = time.monotonic(), self._meter.cpu_s()
        spent = Counter({kind: cpu_s[kind] - self._cpu_s[kind] for kind in cpu_s})
        stage = Stage(name, rows, now_s - self._since_s, self._meter.most_mib, spent)
        print(stage, flush=True)
        self.found.append(stage)
        self._since_s, self._cpu_s = now_s, cpu_s


def measure(rows: int, out: Path, meter: Meter) -> Stage:
    """One run, stage by stage; returns the whole of those that rows go through."""
    out.mkdir()
    run, of_run, of_items = Store.open(out), cells(rows), items(rows)
    stages = Stages(meter)
    total = manifest.write(batches(of_run, lambda _: of_items), run, MANIFEST_FILE)
    run.child("parts").make()
    done, statuses = parts.finished(run.child("parts"))
    manifest.write(manifest.missing(run, MANIFEST_FILE, "throughput", done), run, PENDING_FILE)
    stages.end("manifest", rows)
    pool = plan_pool(rows, 0, POOL, latency=False, wait_s=60)
    first = 0

    def progress(ended: Counter[str]) -> None:
        nonlocal first
        if not statuses:
            first = ended.total()
            stages.end("start", 0)
        statuses.update(ended)

    pipeline.run(
        PENDING_FILE,
        run,
        run_id="overhead",
        cells={cell.cell_id: cell for cell in of_run},
        trace=False,
        pool=pool,
        rows_per_block=pipeline.block_rows(rows, pool.size, SLOTS),
        warmup=0,
        row_timeout_s=600.0,
        wait_s=60.0,
        progress=progress,
        usage=Usage(),
        worker=FreeWorker,
    )
    stages.end("decode", rows - first)
    success = commit(run, "overhead", of_run, {})
    stages.end("commit", rows)
    assert success["rows"] == total == statuses["ok"] == rows, (success["statuses"], statuses)
    flowing = [stage for stage in stages.found if stage.rows]
    spent = functools.reduce(Counter.__add__, [stage.cpu_s for stage in flowing])
    seconds = sum(stage.seconds for stage in flowing)
    return Stage("in all", rows, seconds, meter.most_mib, spent)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.overhead", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000], metavar="N")
    options = parser.parse_args()
    meter = Meter()
    with session(), temporary() as folder:
        for number, rows in enumerate(options.rows):
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"{rows:,} rows, {load}", flush=True)
            print(measure(rows, Path(folder) / str(number), meter), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
