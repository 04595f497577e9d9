"""Small lines of a suite's numbers over its runs: drawn by the page's template as SVG, with words
that say the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.index_entries import Entry, Key, Tone
from reports.text import figures3, percent

WIDTH, HEIGHT, EDGE = 240, 46, 7
MOST_RUNS = 40
"""The latest runs of a suite that a line shows."""
MOST_TASKS = 4
"""The first tasks of a suite that have a line."""


@dataclass(frozen=True)
class Mark:
    """A run on a line. A tone is drawn in a shape of its own, not by its colour alone."""

    x: float
    y: float
    tone: Tone
    title: str


@dataclass(frozen=True)
class Sparkline:
    label: str
    path: str
    """Of the line, as SVG writes it; it is broken at runs that have no value."""
    marks: tuple[Mark, ...]
    latest: str
    spread: str
    """Lowest and highest."""
    words: str
    """What the line shows, for whoever does not see it."""


@dataclass(frozen=True)
class Suite:
    name: str
    entries: tuple[Entry, ...]
    """Oldest first."""
    lines: tuple[Sparkline, ...]


def suites(entries: Sequence[Entry]) -> list[Suite]:
    """Those with two runs or more that have a number, in the order of their latest run.

    entries: all runs, newest first.
    """
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.suite:
            named.setdefault(entry.suite, []).append(entry)
    found = [_suite(name, mine[::-1]) for name, mine in named.items()]
    return [suite for suite in found if suite.lines]


def _suite(name: str, entries: list[Entry]) -> Suite:
    lines = [
        _line(
            f"{key[0]}: {key[1]} · {key[2]}, {key[3]} steps",
            entries,
            [entry.accuracies.get(key) for entry in entries],
            percent,
        )
        for key in main_cells(entries)
    ]
    lines.append(_line("rows/s of a whole run", entries, [e.rows_per_s for e in entries], figures3))
    return Suite(name, tuple(entries), tuple(line for line in lines if line))


def main_cells(entries: Sequence[Entry]) -> list[Key]:
    """One cell a task of the latest run that has any: the diffusion decoder with the largest
    budget, throughput before latency; of several the first. Without one the autoregressive."""
    latest = next((entry for entry in reversed(entries) if entry.accuracies), None)
    found: dict[str, Key] = {}
    for key in latest.accuracies if latest else ():
        task = key[0]
        if task not in found or _rank(key) > _rank(found[task]):
            found[task] = key
    return list(found.values())[:MOST_TASKS]


def _rank(key: Key) -> tuple[bool, bool, int]:
    _, _, decoder, steps, _, mode, _ = key
    return decoder not in ("ar", "likelihood"), mode == "throughput", steps


def _line(
    label: str,
    entries: Sequence[Entry],
    values: Sequence[float | None],
    form: Callable[[float], str],
) -> Sparkline | None:
    """None where there are not two values to draw a line between."""
    entries, values = entries[-MOST_RUNS:], values[-MOST_RUNS:]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    step = (WIDTH - 2 * EDGE) / max(1, len(values) - 1)
    marks, path, pen = [], [], "M"
    for at, (entry, value) in enumerate(zip(entries, values, strict=True)):
        x, y = round(EDGE + at * step, 1), float(HEIGHT - EDGE)
        if value is None:
            pen = "M"
        else:
            share = (value - low) / (high - low) if high > low else 0.5
            y = round(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE), 1)
            path.append(f"{pen}{x} {y}")
            pen = "L"
        said = ", ".join(filter(None, (entry.began, entry.verdict or "no verdict")))
        marks.append(
            Mark(x, y, entry.tone, f"{said}: {'no value' if value is None else form(value)}")
        )
    bad = sum(entry.tone == "bad" for entry in entries)
    words = (
        f"{label}, {len(values)} runs from {entries[0].began} to {entries[-1].began}: "
        f"{form(known[0])} at first, {form(known[-1])} at last, between {form(low)} and "
        f"{form(high)}; {bad} with a bad verdict, the last with {entries[-1].verdict or 'none'}"
    )
    return Sparkline(
        label=label,
        path="".join(path),
        marks=tuple(marks),
        latest=form(known[-1]),
        spread=f"{form(low)} to {form(high)}",
        words=words,
    )
