"""The structure experiment for a terminal or a job's log."""

from math import isfinite
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from reports.analysis import Analysis, analyse
from reports.figures_structure import SHORT, correlation_text
from reports.load import Run
from reports.structure import Group, Structured
from reports.tables import Entry
from reports.tables_structure import interval_entry, number_entry, ratio_entry
from reports.terminal import Summary, plain, summary


class StructureSummary:
    """A rich renderable: the table of each cell in ASCII, and how speed goes with either measure
    of the text."""

    COLUMNS = (
        "category",
        "prompts",
        "tok/fwd",
        "vs prose",
        "tok/s",
        "vs prose ",
        "entropy",
        "zlib",
    )
    SPARE = ("zlib", "entropy", "prompts", "vs prose ", "tok/s")

    def __init__(self, found: list[Structured]) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields one line at a time."""
        groups = [(_title(cell), [_row(group) for group in cell.groups]) for cell in self._found]
        yield Text("")
        yield Summary(groups, self.COLUMNS, ("category",), self.SPARE)
        for cell in self._found:
            told = [
                f"  with {SHORT[axis]}: {correlation_text(value)}"
                for axis, value in cell.correlations.items()
                if isfinite(value.value)
            ]
            if told:
                yield Text(f"{_title(cell)}, Spearman of tokens a forward", "cyan", no_wrap=True)
            for line in told:
                yield Text(_ascii(line), no_wrap=True, overflow="ignore")


def summaries(run: Path | Run | Analysis) -> list[Summary | StructureSummary]:
    """What a run ends with on a terminal: its cells and, if it has them, the structure experiment's
    categories."""
    found = analyse(run)
    return [
        summary(found),
        *([StructureSummary(found.structured)] if found.structured else []),
    ]


def _title(cell: Structured) -> str:
    return _ascii(f"{cell.task}: {cell.series} ({cell.mode})")


def _row(group: Group) -> dict[str, str]:
    entries = (
        Entry(group.category),
        Entry(str(group.prompts)),
        interval_entry(group.per_forward),
        ratio_entry(group.per_forward_ratio),
        interval_entry(group.per_second),
        ratio_entry(group.per_second_ratio),
        number_entry(group.entropy),
        number_entry(group.ratio),
    )
    return {
        name: _ascii(f"{entry.text} {entry.spread}".strip())
        for name, entry in zip(StructureSummary.COLUMNS, entries, strict=True)
    }


def _ascii(text: str) -> str:
    return plain(text).replace("−", "-")
