"""The summary of a run for a terminal or a job's log: one line a cell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from reports.analysis import Analysis, analyse
from reports.cells import records
from reports.counts import count_text, quality_text
from reports.load import Run
from reports.speed import Speedup
from reports.text import figures3, percent, times, visible

COLUMNS = (
    "run",
    "model",
    "decoder",
    "mode",
    "steps",
    "n",
    "accuracy",
    "NFE",
    "tok fwds",
    "tok/fwd",
    "accepted",
    "samples/s",
    "vs AR",
    "vs spec",
)
LEFT = ("run", "model", "decoder", "mode")
SPARE = ("tok fwds", "NFE", "tok/fwd", "n", "accepted", "vs spec", "samples/s")
"""What a narrow terminal goes without, in this order, before any value is cut."""

SELDOM = ("accepted", "vs spec")
"""What is left out where no cell has it."""

NONE = "-"
"""A number that there is not."""

_ASCII = str.maketrans({"–": "-", "×": "x", "·": "-"})


def plain(text: str) -> str:
    """Text for a log file: what is hidden made visible, the signs of our own in ASCII."""
    return visible(text).translate(_ASCII)


class Summary:
    """A rich renderable: under each task's name its cells, in columns of ASCII text.

    It reads the same on a terminal and in a log file: no value is wrapped or shortened, and
    where the width does not suffice, whole columns are left out.
    """

    def __init__(
        self,
        groups: list[tuple[str, list[dict[str, str]]]],
        columns: Sequence[str] = COLUMNS,
        left: Sequence[str] = LEFT,
        spare: Sequence[str] = SPARE,
    ) -> None:
        self.groups = groups
        self._names, self._left, self._spare = columns, left, spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields one line at a time."""
        widths, gap = self._columns(options.max_width)
        yield Text(self._line({name: name for name in widths}, widths, gap), "bold", no_wrap=True)
        for task, rows in self.groups:
            yield Text(task, style="cyan", no_wrap=True, overflow="ignore")
            for row in rows:
                yield Text(self._line(row, widths, gap), no_wrap=True, overflow="ignore")

    def _columns(self, available: int) -> tuple[dict[str, int], str]:
        """The columns to show with their widths, and what stands between two."""
        rows = [row for _, group in self.groups for row in group]
        widths = {
            name: max(cell_len(name), *(cell_len(row[name]) for row in rows), 0)
            for name in self._names
            if (name != "mode" or len({row["mode"] for row in rows}) > 1)
            and (name not in SELDOM or any(row[name] != NONE for row in rows))
            and (name != "run" or any(row[name] for row in rows))
        }
        for name in self._spare:
            if 1 + sum(widths.values()) + len(widths) <= available:
                break
            widths.pop(name, None)
        gap = "  " if sum(widths.values()) + 2 * len(widths) <= available else " "
        return widths, gap

    def _line(self, row: dict[str, str], widths: dict[str, int], gap: str) -> str:
        parts = []
        for name, width in widths.items():
            space = " " * (width - cell_len(row[name]))
            parts.append(row[name] + space if name in self._left else space + row[name])
        return ("  " + gap.join(parts)).rstrip()


def summary(run: Path | Run | Analysis) -> Summary:
    """One row a cell: model, decoder, steps, n (with a verdict or timed, of all rows), accuracy
    or perplexity with its interval, forwards and positions fed a sample, tokens a forward, the
    share of drafted tokens that were accepted, samples/s a worker, and samples/s over those of the
    autoregressive and of the fastest speculative baseline. A guider that decodes alone says so.
    """
    found = analyse(run)
    compared, drafted = found.compared, found.drafted
    groups: dict[str, list[dict[str, str]]] = {}
    for cell in records(found.cells):
        row = _row(cell, compared.get(cell["cell_id"]), drafted.get(cell["cell_id"]))
        shown = {name: plain(text) for name, text in row.items()}
        groups.setdefault(visible(cell["task"]), []).append(shown)
    return Summary(list(groups.items()))


def _row(cell: dict[str, Any], speedup: Speedup | None, drafted: Speedup | None) -> dict[str, str]:
    against = "AR" if cell["is_ar"] else times(speedup.samples.value) if speedup else "–"
    return {
        "run": cell["run"],
        "model": cell["model"] + (f" ({cell['variant']})" if cell["variant"] else ""),
        "decoder": cell["decoder"] + (" (guider)" if cell["guider"] else ""),
        "mode": cell["mode"],
        "steps": str(cell["steps"]),
        "n": count_text(cell),
        "accuracy": quality_text(cell, "<="),
        "NFE": figures3(cell["nfe"]),
        "tok fwds": figures3(cell["token_forwards"]),
        "accepted": percent(cell["acceptance"]),
        "tok/fwd": figures3(cell["tokens_per_forward"]),
        "samples/s": figures3(cell["samples_per_s"]),
        "vs AR": against,
        "vs spec": times(drafted.samples.value) if drafted else "–",
    }
