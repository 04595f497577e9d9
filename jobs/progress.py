"""What one sees while a run goes on: a live line on a terminal, a line a minute in a log, and
`progress.json` in the run directory for whoever looks from elsewhere."""

import contextlib
import re
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from cluster.store import Store
from cluster.usage import Usage

LOG_EVERY_S = 60.0
FILE_EVERY_S = 5.0
FILE = "progress.json"

LINE = re.compile(r"\d\d:\d\d:\d\d  [\d,]+ of [\d,]+ rows .*")
"""A line of a log that tells how far a run is."""


class Display:
    """Rows done of the total, samples/s and time left; statuses other than ok are named.

    Args:
        total: rows of the run.
        done: statuses of those that an earlier run left.
        console: where a person reads.
        store: where `progress.json` goes.
        usage: what the workers do with their time.
    """

    def __init__(
        self, total: int, done: Counter[str], console: Console, store: Store, usage: Usage
    ) -> None:
        self._total, self._done, self._console = total, done.total(), console
        self._store, self._usage = store, usage
        self._started_at = datetime.now(UTC)
        self._statuses: Counter[str] = Counter(done)
        self._meter = Meter(total - self._done)
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="progress", daemon=True)
        self._spoken_s = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
                _Rate(self._meter),
                TimeElapsedColumn(),
                console=console,
            )
            self._bar = self._live.add_task("starting workers", total=total, completed=self._done)

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        else:
            self._say(f"{self._done} of {self._total} rows done before; starting workers")
        self._writer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._writer.join()
        self._write("stopped" if error else "decoded")
        if self._live:
            self._live.stop()
        if self._statuses and not self._live:
            self._say(self._line())
        if self._usage.share is not None:
            self._say(f"workers decoded {self._usage.share:.0%} of their time after start-up")

    def update(self, statuses: Counter[str]) -> None:
        """Counts the rows of one ended block."""
        rows = statuses.total()
        self._done += rows
        self._meter.add(rows)
        self._statuses += statuses
        if self._live:
            self._live.update(self._bar, advance=rows, description=f"decoding{self._troubles()}")
        elif time.monotonic() - self._spoken_s >= LOG_EVERY_S:
            self._say(self._line())

    def _write_on(self) -> None:
        self._write("running")
        while not self._ended.wait(FILE_EVERY_S):
            self._write("running")

    def _write(self, state: str) -> None:
        rate, left_s = self._meter.rate()
        now, share = datetime.now(UTC), self._usage.share
        with contextlib.suppress(OSError):  # a full disk: the next one may fit
            self._store.put_json(
                FILE,
                {
                    "state": state,
                    "total": self._total,
                    "done": self._done,
                    "statuses": dict(self._statuses),
                    "rows_per_s": None if rate is None else round(rate, 3),
                    "left_s": None if left_s is None else round(left_s, 1),
                    "decoding_share": None if share is None else round(share, 3),
                    "started_at": self._started_at.isoformat(timespec="seconds"),
                    "updated_at": now.isoformat(timespec="seconds"),
                },
            )

    def _line(self) -> str:
        part = f" ({self._done / max(self._total, 1):.0%}){self._troubles()}"
        return f"{self._done} of {self._total} rows{part}, {self._meter.text()}"

    def _troubles(self) -> str:
        bad = {k: n for k, n in self._statuses.items() if k not in ("ok", "not_executed")}
        return "".join(f", {n} {status}" for status, n in sorted(bad.items()))

    def _say(self, line: str) -> None:
        self._spoken_s = time.monotonic()
        self._console.print(f"{time.strftime('%H:%M:%S')}  {line}", highlight=False, soft_wrap=True)


class Meter:
    """Rows a second since the first row, and how long the rest will take at that rate."""

    def __init__(self, left: int) -> None:
        self._left, self._rows = left, 0
        self._since_s: float | None = None

    def add(self, rows: int) -> None:
        if self._since_s is None:  # the first block pays for the start-up
            self._since_s = time.monotonic()
        else:
            self._rows += rows
        self._left -= rows

    def rate(self) -> tuple[float | None, float | None]:
        """Rows a second, and the seconds that are left; None as long as nobody can tell."""
        if self._since_s is None or not self._rows:
            return None, None
        rate = self._rows / max(time.monotonic() - self._since_s, 1e-9)
        return rate, self._left / rate

    def text(self) -> str:
        rate, left_s = self.rate()
        if rate is None or left_s is None:
            return "no rate yet"
        return f"{rate:.1f} samples/s, {_duration(left_s)} left"


class _Rate(ProgressColumn):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        return Text(self._meter.text())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def console() -> Console:
    """Standard output; wide enough for a table when it is no terminal."""
    plain = not sys.stdout.isatty()
    return Console(width=160 if plain else None, soft_wrap=plain, highlight=False)
