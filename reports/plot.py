"""What every chart is made of: plotly figures as plain dicts, colours as CSS variables.

A chart is a grid of panels, one a task, so that panels wrap on a narrow screen and no line needs
its colour to be told from another. Every line has its own marker and dash; the page draws the
legend. Intervals are drawn wherever there is one.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log10
from typing import Any

import pandas as pd

from reports.statistics import SMALL_N
from reports.text import plot_text

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
DASHES = ("solid", "dash", "dashdot", "longdash", "dot")
COLOURS = 6
"""How many colours of each kind the style sheet defines."""

Figure = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A line's entry in a legend, and how it is drawn."""

    label: str
    colour: str
    marker: str | None
    dash: str
    thin: bool = False
    open: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    note: str
    figure: Figure


@dataclass(frozen=True)
class Chart:
    name: str
    keys: tuple[Key, ...]
    panels: tuple[Panel, ...]


def style(kind: str, at: int) -> Key:
    """The look of the at-th line of a kind, "series" or "task"."""
    return Key(
        label="",
        colour=f"var(--{kind}-{at % COLOURS + 1})",
        marker=MARKERS[at % len(MARKERS)],
        dash=DASHES[at % len(DASHES)],
    )


def labelled(key: Key, label: str, **changes: Any) -> Key:
    return Key(**{**key.__dict__, "label": label, **changes})


AR_KEY = Key("", "var(--ar)", None, "longdash")
AR_DASHES = ("longdash", "dash", "dashdot", "dot", "solid")


def line(key: Key, x: list[Any], y: list[Any], hover: list[str], **more: Any) -> Figure:
    """A trace in a key's look."""
    mode = "lines+markers" if key.marker else "lines"
    trace: Figure = {
        "type": "scatter",
        "mode": mode,
        "x": x,
        "y": y,
        "name": plot_text(key.label),
        "line": {"color": key.colour, "dash": key.dash, "width": 1.4 if key.thin else 2.2},
        "hoverinfo": "text",
        "hovertext": hover,
    }
    if key.marker:
        symbol = f"{key.marker}-open" if key.open else key.marker
        trace["marker"] = {"symbol": symbol, "size": 9, "color": key.colour}
        trace["marker"]["line"] = {"width": 1.6 if key.open else 0, "color": key.colour}
    return {**trace, **more}


def whiskers(key: Key, values: list[float], lows: list[float], highs: list[float]) -> Figure:
    """Error bars from the ends of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "color": key.colour,
        "thickness": 1.2,
        "width": 3,
    }


def layout(x: Figure, y: Figure, height: int = 270) -> Figure:
    """What all panels share."""
    axis = {
        "gridcolor": "var(--grid)",
        "linecolor": "var(--axis)",
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": "var(--axis)",
        "ticklen": 4,
        "fixedrange": True,
        "automargin": True,
    }
    return {
        "height": height,
        "margin": {"l": 52, "r": 14, "t": 10, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--ink)", "size": 12, "family": "var(--font)"},
        "showlegend": False,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--muted)"},
        "hovermode": "closest",
        "dragmode": False,
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--axis)",
            "font": {"color": "var(--ink)", "size": 12, "family": "var(--font)"},
            "align": "left",
        },
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        "shapes": [],
        "annotations": [],
    }


def log_ticks(low: float, high: float, base: float) -> list[float]:
    """Powers of `base` that cover [low, high]; 1-3-10 steps for base 10."""
    steps = (1.0, 3.0) if base == 10 else (1.0,)
    ticks = [base**power * step for power in range(-9, 22) for step in steps]
    return [tick for tick in ticks if low / 1.001 <= tick <= high * 1.001]


def steps_axis(steps: list[int]) -> Figure:
    """A log2 axis over step budgets."""
    low, high = min(steps) / 1.25, max(steps) * 1.25
    if low == high:
        low, high = low / 2, high * 2
    ticks = log_ticks(low, high, 2)
    distinct = sorted(set(steps))
    if len(distinct) <= 7 and all(later / earlier > 1.5 for earlier, later in pairwise(distinct)):
        ticks = [float(step) for step in distinct]
    return {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title": {"text": "step budget (denoising steps, log scale)", "standoff": 8},
    }


def percent_axis(title: str) -> Figure:
    return {
        "range": [-0.03, 1.03],
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "ticktext": ["0%", "25%", "50%", "75%", "100%"],
        "title": {"text": title, "standoff": 6},
    }


def reference_line(
    figure: Figure,
    cell: dict[str, Any],
    quantity: str,
    label: str,
    span: tuple[float, float],
    key: Key,
    band: bool,
) -> None:
    """The autoregressive cell as a horizontal line: in its interval's band, or, where bands would
    lie on each other, with the interval at the line's end."""
    value, low, high = (cell[quantity + end] for end in ("", "_low", "_high"))
    x = [span[0] * (span[1] / span[0]) ** (at / 12) for at in range(13)]
    known = low == low and high == high
    if known and band:
        figure["data"].append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x[0], x[-1], x[-1], x[0]],
                "y": [low, low, high, high],
                "fill": "toself",
                "fillcolor": "var(--ar-band)",
                "line": {"width": 0},
                "hoverinfo": "skip",
            }
        )
    figure["data"].append(line(key, x, [value] * len(x), [label] * len(x)))
    if known and not band:
        bars = whiskers(key, [value], [low], [high])
        figure["data"].append(line(key, [x[-2]], [value], [label], mode="markers", error_y=bars))


def counted(n: int, what: str) -> str:
    """A count that says when it is small."""
    return f"{n:,} {what} (small n)" if n < SMALL_N else f"{n:,} {what}"


def beside(at: int, count: int) -> float:
    """The factor by which the at-th of `count` lines is moved on a log axis, so that intervals at
    the same place can be told apart; the last one by at most 16%."""
    return 1 + min(0.04, 0.16 / max(count - 1, 1)) * at


def reference_styles(cells: pd.DataFrame) -> dict[str, Key]:
    """One look for each autoregressive line of the whole page."""
    names = list(dict.fromkeys(cells.loc[cells["is_ar"], "series"])) if len(cells) else []
    return {
        name: labelled(AR_KEY, name, dash=AR_DASHES[at % len(AR_DASHES)])
        for at, name in enumerate(names)
    }


def series_styles(cells: pd.DataFrame) -> dict[str, Key]:
    """One look for each diffusion line of the whole page."""
    names = list(dict.fromkeys(cells.loc[~cells["is_ar"], "series"])) if len(cells) else []
    return {name: labelled(style("series", at), name) for at, name in enumerate(names)}
