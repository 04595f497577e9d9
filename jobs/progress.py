"""What a person sees while a run goes on: a live line on a terminal, plain lines in a log."""

import sys
import time
from collections import Counter
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

LOG_EVERY_S = 10.0


class Display:
    """Rows done of the total, samples/s and time left; statuses other than ok are named."""

    def __init__(self, total: int, done: int, console: Console) -> None:
        self._total, self._done, self._console = total, done, console
        self._statuses: Counter[str] = Counter()
        self._meter = Meter(total - done)
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
            self._bar = self._live.add_task("starting workers", total=total, completed=done)

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        else:
            self._say(f"{self._done} of {self._total} rows done before; starting workers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if self._statuses and not self._live:
            self._say(self._line())

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

    def _line(self) -> str:
        return f"{self._done} of {self._total} rows{self._troubles()}, {self._meter.text()}"

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

    def text(self) -> str:
        if self._since_s is None or not self._rows:
            return "no rate yet"
        rate = self._rows / max(time.monotonic() - self._since_s, 1e-9)
        return f"{rate:.1f} samples/s, {_duration(self._left / rate)} left"


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
