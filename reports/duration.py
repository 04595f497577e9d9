"""How long until an answer is right for good, over all traced samples: those that never are
right count as not there yet."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.cells import numbers, records
from reports.convergence import Convergence
from reports.load import Run
from reports.plot import (
    Chart,
    Figure,
    Key,
    Panel,
    counted,
    labelled,
    layout,
    line,
    percent_axis,
    series_styles,
)
from reports.survival import Reached, kaplan_meier
from reports.text import between, figures3, percent, plot_text


@dataclass(frozen=True)
class Duration:
    """The traced samples of one cell, one output of each."""

    task: str
    series: str
    cell_id: str
    steps: int
    reached: Reached
    """In steps; a sample that is not right in the end is censored at the step budget."""


def durations(run: Run, cells: pd.DataFrame, traces: list[Convergence]) -> list[Duration]:
    """One for each traced line, of the cell that its convergence is of."""
    known = {cell["cell_id"]: cell for cell in records(cells)}
    found = []
    for trace in traces:
        samples = run.rows(trace.cell_id)
        # Repeats depend on each other: the first output speaks for its sample.
        followed = samples["oscillated"].notna() & (samples["repeat"].fillna(0) == 0)
        converged = numbers(samples.loc[followed, "converged_step"])
        right = np.isfinite(converged)
        steps = int(known[trace.cell_id]["steps"])
        times = np.where(right, converged, steps)
        reached = kaplan_meier(times, right.astype(np.float64))
        found.append(Duration(trace.task, trace.series, trace.cell_id, steps, reached))
    return [duration for duration in found if duration.reached.n]


def duration_chart(found: list[Duration], cells: pd.DataFrame) -> Chart:
    """Share right for good by each step, a panel a task, with the band of its interval."""
    if not found:
        return Chart("duration", (), ())
    styles = series_styles(cells)
    used = dict.fromkeys(duration.series for duration in found)
    keys = [labelled(styles[name], name, marker=None) for name in used]
    panels = []
    for task in dict.fromkeys(duration.task for duration in found):
        mine = [duration for duration in found if duration.task == task]
        panels.append(_panel(task, mine, styles))
    return Chart("duration", tuple(keys), tuple(panels))


def _panel(task: str, found: list[Duration], styles: dict[str, Key]) -> Panel:
    longest = max(duration.steps for duration in found)
    x = {
        "range": [-0.02 * longest, 1.02 * longest],
        "title": {"text": "denoising steps", "standoff": 8},
    }
    figure: Figure = {"data": [], "layout": layout(x, percent_axis("right for good"))}
    for duration in found:
        _curve(figure, duration, labelled(styles[duration.series], duration.series, marker=None))
    lowest = min(duration.reached.n for duration in found)
    never = ", ".join(
        f"{duration.reached.n - duration.reached.events} of {duration.reached.n}"
        for duration in found
    )
    return Panel(task, f"{counted(lowest, 'samples')}; never right: {never}", figure)


def _curve(figure: Figure, duration: Duration, key: Key) -> None:
    reached = duration.reached
    steps = [0.0, *reached.times.tolist(), float(duration.steps)]
    share = [0.0, *reached.share.tolist()]
    share.append(share[-1])
    low, high = ([0.0, *ends.tolist()] for ends in (reached.low, reached.high))
    low.append(low[-1])
    high.append(high[-1])
    known = [at for at, end in enumerate(low) if end == end]
    figure["data"].append(_band([steps[at] for at in known], low, high, known, key))
    hover = [
        f"{plot_text(duration.series)}<br>right for good by step {step:g} of {duration.steps}: "
        f"{percent(part)} {between(least, most, percent)} of all traced<br>"
        f"{counted(reached.n, 'samples')}, {reached.n - reached.events} never; median "
        f"{figures3(reached.median)} steps"
        for step, part, least, most in zip(steps, share, low, high, strict=True)
    ]
    drawn = line(key, steps, share, hover)
    drawn["line"]["shape"] = "hv"
    figure["data"].append(drawn)


def _band(
    steps: list[float], low: list[float], high: list[float], known: list[int], key: Key
) -> Figure:
    """The pointwise interval as an area of stairs."""
    there: list[tuple[float, float]] = []
    back: list[tuple[float, float]] = []
    for place, at in enumerate(known):
        if place:
            there.append((steps[place], high[known[place - 1]]))
            back.append((steps[place], low[known[place - 1]]))
        there.append((steps[place], high[at]))
        back.append((steps[place], low[at]))
    ring = there + back[::-1]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for x, _ in ring],
        "y": [y for _, y in ring],
        "fill": "toself",
        "opacity": 0.16,
        "fillcolor": key.colour,
        "line": {"width": 0, "color": key.colour},
        "hoverinfo": "skip",
    }
