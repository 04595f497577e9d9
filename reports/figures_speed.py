"""The charts of speed: against the autoregressive baseline, and accuracy against speed."""

from dataclasses import dataclass
from math import isfinite, log10

import pandas as pd

from reports.alike import by_place, place_text
from reports.cells import records
from reports.plot import (
    AR_KEY,
    Chart,
    Figure,
    Key,
    Panel,
    beside,
    counted,
    labelled,
    layout,
    line,
    log_ticks,
    percent_axis,
    series_styles,
    steps_axis,
    whiskers,
)
from reports.speed import Speedup
from reports.statistics import Interval
from reports.text import between, figures3, percent, plot_text, times


@dataclass(frozen=True)
class _Ratios:
    """Two quantities of a `Speedup` that share a chart."""

    quantities: tuple[str, str]
    units: tuple[str, str]
    axis: str
    words: str
    even: str


_SPEEDS = _Ratios(
    ("samples", "tokens"),
    ("samples/s", "tokens/s"),
    "times AR's speed (log)",
    "AR's",
    "1×: as fast as autoregressive",
)
_COSTS = _Ratios(
    ("forwards", "token_forwards"),
    ("NFE", "token forwards"),
    "times fewer than AR (log)",
    "fewer than AR:",
    "1×: as many as autoregressive",
)

_EVEN = {
    "type": "line",
    "xref": "paper",
    "x0": 0,
    "x1": 1,
    "y0": 1,
    "y1": 1,
    "line": {"color": "var(--ar)", "width": 2, "dash": "longdash"},
}


def _ratio_ticks(values: list[float]) -> Figure:
    low, high = min([*values, 0.7]) / 1.3, max([*values, 1.4]) * 1.3
    ticks = log_ticks(low, high, 10)
    return {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}×" for tick in ticks],
    }


def _groups(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    """Points that may share a panel: task, cells, and where they ran if others ran elsewhere."""
    places = by_place(cells)
    return [
        (task, rows[rows["task"] == task], f"; {where}" if len(places) > 1 else "")
        for rows in places
        for where in [place_text(records(rows)[0])]
        for task in dict.fromkeys(rows["task"])
    ]


def speedup_chart(cells: pd.DataFrame, compared: dict[str, Speedup], mode: str) -> Chart:
    """Samples/s and tokens/s as multiples of the autoregressive baseline's, against step budget."""
    return _ratio_chart(f"speedup-{mode}", _SPEEDS, cells, compared, mode)


def costs_chart(cells: pd.DataFrame, compared: dict[str, Speedup], mode: str) -> Chart:
    """How many times fewer forward passes and positions than the baseline, against step budget."""
    return _ratio_chart(f"costs-{mode}", _COSTS, cells, compared, mode)


def _ratio_chart(
    name: str, kind: _Ratios, cells: pd.DataFrame, compared: dict[str, Speedup], mode: str
) -> Chart:
    known = {
        cell_id: [getattr(speedup, quantity) for quantity in kind.quantities]
        for cell_id, speedup in compared.items()
        if speedup.why_not is None
    }
    known = {
        cell_id: ratios
        for cell_id, ratios in known.items()
        if all(isfinite(ratio.value) and ratio.value > 0 for ratio in ratios)
    }
    here = cells[(cells["mode"] == mode) & ~cells["is_ar"]] if len(cells) else cells
    here = here[here["cell_id"].isin(known.keys())] if len(here) else here
    if not len(here):
        return Chart(name, (), ())
    styles = series_styles(cells)
    everything = [
        end
        for cell_id in here["cell_id"]
        for ratio in known[cell_id]
        for end in (ratio.value, ratio.low, ratio.high)
        if end > 0
    ]
    panels = []
    for task, rows, where in _groups(here):
        budgets = [int(steps) for steps in rows["steps"]]
        y = {**_ratio_ticks(everything), "title": {"text": kind.axis, "standoff": 4}}
        figure: Figure = {"data": [], "layout": layout(steps_axis(budgets), y)}
        figure["layout"]["shapes"].append(_EVEN)
        for at, (series, key) in enumerate(styles.items()):
            mine = rows[rows["series"] == series].sort_values("steps")
            _ratio_lines(figure, mine, known, kind, key, beside(at, len(styles)))
        against = ", ".join(sorted({str(compared[c].baseline) for c in rows["cell_id"]}))
        pairs = min(known[c][0].n for c in rows["cell_id"])
        note = f"against {against}; {counted(pairs, 'pairs')}{where}"
        panels.append(Panel(task, note, figure))
    used = {series: key for series, key in styles.items() if series in set(here["series"])}
    keys = [
        labelled(key, f"{series}, {unit}", open=second, dash="dot" if second else key.dash)
        for series, key in used.items()
        for second, unit in enumerate(kind.units)
    ]
    keys.append(labelled(AR_KEY, kind.even))
    return Chart(name, tuple(keys), tuple(panels))


def _ratio_lines(
    figure: Figure,
    rows: pd.DataFrame,
    known: dict[str, list[Interval]],
    kind: _Ratios,
    key: Key,
    shift: float,
) -> None:
    if not len(rows):
        return
    steps = rows["steps"].tolist()
    for second, (unit, nudge) in enumerate(zip(kind.units, (0.97, 1.03), strict=True)):
        ratios = [known[cell_id][second] for cell_id in rows["cell_id"]]
        look = labelled(key, unit, open=bool(second), dash="dot" if second else key.dash)
        hover = [
            f"{plot_text(key.label)}, {step} steps<br>{times(ratio.value)} {kind.words} {unit} "
            f"{between(ratio.low, ratio.high, times)}<br>{counted(ratio.n, 'pairs')}"
            for step, ratio in zip(steps, ratios, strict=True)
        ]
        values, lows, highs = (
            [getattr(ratio, end) for ratio in ratios] for end in ("value", "low", "high")
        )
        x = [step * nudge * shift for step in steps]
        bars = whiskers(look, values, lows, highs)
        figure["data"].append(line(look, x, values, hover, error_y=bars))


def frontier_chart(cells: pd.DataFrame, mode: str) -> Chart:
    """Accuracy against samples/s on one device, a panel a task; up and right is better."""
    name = f"frontier-{mode}"
    here = cells[(cells["mode"] == mode) & (cells["scored"] > 0)] if len(cells) else cells
    here = here[here["samples_per_s"] > 0] if len(here) else here
    if not len(here):
        return Chart(name, (), ())
    styles = series_styles(cells)
    low, high = here["samples_per_s"].min() / 1.6, here["samples_per_s"].max() * 1.6
    ticks = log_ticks(low, high, 10)
    x = {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title": {"text": "samples/s a worker (log scale)", "standoff": 8},
    }
    panels = []
    for task, rows, where in _groups(here):
        if rows["is_ar"].all():
            continue
        figure: Figure = {"data": [], "layout": layout(x, percent_axis("accuracy"))}
        _frontier(figure, rows, low)
        for series, key in styles.items():
            _points(figure, rows[rows["series"] == series].sort_values("steps"), key)
        look = labelled(AR_KEY, "", marker="star")
        _points(figure, rows[rows["is_ar"]], look)
        note = counted(int(rows["scored"].min()), "samples a point") + where
        panels.append(Panel(task, note, figure))
    if not panels:
        return Chart(name, (), ())
    keys = [
        labelled(key, f"{series}, numbers are step budgets")
        for series, key in styles.items()
        if series in set(here["series"])
    ]
    for series in dict.fromkeys(here.loc[here["is_ar"], "series"]):
        keys.append(labelled(AR_KEY, f"{series}, autoregressive", marker="star", dash="none"))
    keys.append(
        Key(
            "frontier: nothing measured is both faster and better",
            "var(--muted)",
            None,
            "dot",
            thin=True,
        )
    )
    return Chart(name, tuple(keys), tuple(panels))


def frontier(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells that no other cell beats in both samples/s and accuracy, slowest first."""
    ordered = rows.sort_values(["samples_per_s", "accuracy"], ascending=False)
    best = ordered["accuracy"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["accuracy"] > best].iloc[::-1]


def _frontier(figure: Figure, rows: pd.DataFrame, left: float) -> None:
    edge = frontier(rows)
    x = [left, *edge["samples_per_s"].tolist()]
    y = edge["accuracy"].tolist()
    figure["data"].append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*x, x[-1]],
            "y": [y[0], *y, 0.0],
            "line": {"color": "var(--muted)", "dash": "dot", "width": 1.4, "shape": "vh"},
            "hoverinfo": "skip",
        }
    )


def _points(figure: Figure, rows: pd.DataFrame, key: Key) -> None:
    if not len(rows):
        return
    values = rows["accuracy"].tolist()
    hover = [
        f"{plot_text(cell['series'])}, {cell['steps']} steps<br>accuracy "
        f"{percent(cell['accuracy'])} "
        f"{between(cell['accuracy_low'], cell['accuracy_high'], percent)}<br>"
        f"{figures3(cell['samples_per_s'])} samples/s "
        f"{between(cell['samples_per_s_low'], cell['samples_per_s_high'])}<br>"
        f"{counted(int(cell['scored']), 'samples')}"
        for cell in records(rows)
    ]
    drawn = line(key, rows["samples_per_s"].tolist(), values, hover)
    drawn["error_y"] = whiskers(
        key, values, rows["accuracy_low"].tolist(), rows["accuracy_high"].tolist()
    )
    if not rows["is_ar"].any():
        drawn["mode"] = "lines+markers+text"
        drawn["text"] = [str(steps) for steps in rows["steps"]]
        drawn["textposition"] = "top right"
        drawn["textfont"] = {"size": 11, "color": "var(--ink)"}
        drawn["line"]["width"] = 1
    figure["data"].append(drawn)
