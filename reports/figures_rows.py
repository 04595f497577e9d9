"""Charts with a named row for each cell: ranges over samples, and shares. They need no legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log10
from typing import Any

import numpy as np
import pandas as pd

from reports.alike import by_place, place_text
from reports.cells import records
from reports.convergence import Convergence
from reports.plot import Chart, Figure, Panel, counted, layout, log_ticks
from reports.statistics import FloatArray
from reports.text import between, figures3, percent, plot_text

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles that a range shows."""

ROW_PX = 38
SPREADS = {"nfe": ("NFE", "forward passes a sample (log scale)")}
SPREADS["decode_s"] = ("decode time", "seconds a sample in the model (log scale)")


@dataclass(frozen=True)
class Spread:
    """How a cost varies over the outputs of one cell."""

    cell_id: str
    quantity: str
    n: int
    quantiles: FloatArray
    """At LEVELS, linear between order statistics."""


def spreads(samples: dict[str, pd.DataFrame], quantity: str) -> dict[str, Spread]:
    """By cell_id, of rows whose cost counts; cells without any are left out."""
    found = {}
    for cell_id, rows in samples.items():
        values = rows[quantity].dropna().to_numpy(dtype=np.float64)
        if len(values):
            found[cell_id] = Spread(cell_id, quantity, len(values), np.quantile(values, LEVELS))
    return found


def spread_chart(cells: pd.DataFrame, found: dict[str, Spread], quantity: str, mode: str) -> Chart:
    """A row a cell: 5% to 95% of its samples as a line, the middle half as a bar, the median as a
    point. Seconds stand together only where they were measured alike."""
    name = f"spread-{quantity}-{mode}"
    here = cells[cells["cell_id"].isin(found.keys())] if len(cells) else cells
    here = here[here["mode"] == mode] if len(here) else here
    if not len(here):
        return Chart(name, (), ())
    timed = quantity == "decode_s"
    groups = by_place(here) if timed else [here]
    panels = []
    for group in groups:
        where = f"; {place_text(records(group)[0])}" if timed and len(groups) > 1 else ""
        for task in dict.fromkeys(group["task"]):
            rows = records(group[group["task"] == task])
            drawn = [found[cell["cell_id"]] for cell in rows]
            fewest = min(spread.n for spread in drawn)
            title, axis = SPREADS[quantity]
            figure = _ranges([_label(cell) for cell in rows], drawn, axis)
            note = f"{counted(fewest, 'outputs a row, or more')}{where}"
            panels.append(Panel(f"{task}: {title}", note, figure))
    return Chart(name, (), tuple(panels))


def _label(cell: dict[str, Any]) -> str:
    steps = "" if cell["is_ar"] else f", {cell['steps']} steps"
    return f"{cell['series']}{steps}"


def _ranges(labels: Sequence[str], drawn: Sequence[Spread], title: str) -> Figure:
    positive = [value for spread in drawn for value in spread.quantiles if value > 0]
    low, high = min(positive, default=1.0) / 1.3, max(positive, default=1.0) * 1.3
    ticks = log_ticks(low, high, 10)
    if len(ticks) < 2:
        ticks = log_ticks(low, high, 2)
    x = {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title": {"text": title, "standoff": 8},
    }
    figure = _rows(labels, x)
    for at, (label, spread) in enumerate(zip(labels, drawn, strict=True)):
        least, first, middle, third, most = spread.quantiles.tolist()
        y = len(labels) - 1 - at
        hover = (
            f"{plot_text(label)}<br>median {figures3(middle)}, half of them "
            f"{between(first, third)}, 5% to 95% {between(least, most)}<br>"
            f"{counted(spread.n, 'outputs')}"
        )
        for ends, width in (((least, most), 1.6), ((first, third), 7)):
            figure["data"].append(_bar(list(ends), y, width, hover))
        figure["data"].append(_point(middle, y, hover))
    return figure


def lost_chart(traces: list[Convergence]) -> Chart:
    """Of the traced samples of a cell, the share that was right on the way and wrong in the end."""
    known = [trace for trace in traces if isfinite(trace.oscillated.value)]
    if not known:
        return Chart("lost", (), ())
    several = len({trace.series for trace in known}) > 1
    labels = [f"{trace.task} · {trace.series}" if several else trace.task for trace in known]
    most = max(trace.oscillated.high for trace in known)
    top = min(1.0, max(0.1, most * 1.1))
    ticks = [tick for tick in (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0) if tick <= top]
    if top > 0.3:
        ticks = [tick for tick in ticks if tick != 0.05]
    x = {
        "range": [-0.01, top],
        "tickvals": ticks,
        "ticktext": [f"{100 * tick:g}%" for tick in ticks],
        "title": {"text": "lost, of the traced samples", "standoff": 8},
    }
    figure = _rows(labels, x)
    for at, (label, trace) in enumerate(zip(labels, known, strict=True)):
        share, y = trace.oscillated, len(labels) - 1 - at
        hover = (
            f"{plot_text(label)}, {trace.steps} steps<br>{percent(share.value)} "
            f"{between(share.low, share.high, percent)} right on the way, wrong in the end<br>"
            f"{counted(share.n, 'samples')}"
        )
        figure["data"].append(_bar([share.low, share.high], y, 1.6, hover))
        figure["data"].append(_point(share.value, y, hover))
    fewest = min(trace.oscillated.n for trace in known)
    note = f"95% Wilson intervals; {counted(fewest, 'samples a row, or more')}"
    return Chart("lost", (), (Panel("Lost on the way (oscillation)", note, figure),))


def _rows(labels: Sequence[str], x: Figure) -> Figure:
    """A panel with a name above each row, so that long names do not narrow it."""
    y = {"range": [-0.5, len(labels) - 0.2], "showgrid": False, "tickvals": [], "ticks": ""}
    y["title"] = {"text": " ", "standoff": 0}
    figure: Figure = {"data": [], "layout": layout(x, y, height=70 + ROW_PX * len(labels))}
    figure["layout"]["margin"]["l"] = 14
    figure["layout"]["annotations"] = [
        {
            "xref": "paper",
            "x": 0.01,
            "y": len(labels) - 1 - at + 0.42,
            "text": plot_text(label),
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "middle",
            "font": {"size": 11, "color": "var(--muted)"},
        }
        for at, label in enumerate(labels)
    ]
    return figure


def _bar(ends: list[float], y: int, width: float, hover: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": [y, y],
        "line": {"color": "var(--series-1)", "width": width},
        "hoverinfo": "text",
        "hovertext": hover,
    }


def _point(x: float, y: int, hover: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [y],
        "marker": {
            "symbol": "circle",
            "size": 10,
            "color": "var(--card)",
            "line": {"width": 2.2, "color": "var(--series-1)"},
        },
        "hoverinfo": "text",
        "hovertext": hover,
    }
