"""The charts of quality: accuracy and perplexity against steps, and early convergence."""

from typing import Any

import pandas as pd

from reports.alike import PLACE, alike
from reports.cells import CHANCE, LIKELIHOOD, records
from reports.convergence import FRACTIONS, Convergence
from reports.plot import (
    Chart,
    Figure,
    Key,
    Panel,
    beside,
    counted,
    labelled,
    layout,
    line,
    percent_axis,
    reference_line,
    reference_styles,
    series_styles,
    steps_axis,
    style,
    whiskers,
)
from reports.statistics import SMALL_N
from reports.text import between, figures3, percent, plot_text

AR = "autoregressive"
AXES = {"perplexity": "perplexity (lower is better)", "entropy": "unigram entropy, nats"}
COUNTS = {"accuracy": "scored", "perplexity": "texts", "entropy": "texts"}


def accuracy_chart(cells: pd.DataFrame, traces: list[Convergence]) -> Chart:
    """Accuracy against step budget, a panel a task; lines are diffusion models."""
    return _quality_chart("accuracy", cells, traces)


def perplexity_chart(cells: pd.DataFrame) -> Chart:
    """Perplexity and entropy of free text against step budget, side by side."""
    chart = _quality_chart("perplexity", cells, [])
    varied = _quality_chart("entropy", cells, [])
    return Chart(chart.name, chart.keys, chart.panels + varied.panels)


def _quality_chart(quantity: str, cells: pd.DataFrame, traces: list[Convergence]) -> Chart:
    styles = series_styles(cells)
    if len(cells):
        # A reference may be of either mode: the panel takes the one of its points.
        cells = cells[(cells["shown"] | cells["is_ar"]) & (cells[COUNTS[quantity]] > 0)]
        if quantity != "accuracy":  # what scores given texts has no steps
            cells = cells[cells["decoder"] != LIKELIHOOD]
        styles = {name: key for name, key in styles.items() if name in set(cells["series"])}
    if not styles:
        return Chart(quantity, (), ())
    panels = []
    for task in dict.fromkeys(cells.loc[~cells["is_ar"], "task"]):
        here = cells[cells["task"] == task]
        drawn = [trace for trace in traces if trace.task == task]
        panels.append(_quality_panel(quantity, task, here, drawn, styles))
    keys = [labelled(key, f"{name}, measured budgets") for name, key in styles.items()]
    drawn_series = dict.fromkeys(trace.series for trace in traces)
    keys += [
        labelled(
            styles[name],
            f"{name}, its longest run stopped at each step",
            marker=None,
            thin=True,
            dash="dot",
        )
        for name in drawn_series
    ]
    drawn_lines = {
        line["series"]
        for task in dict.fromkeys(cells["task"])
        for line in _references(cells[cells["task"] == task])[0]
    }
    keys += [
        labelled(key, f"{name}, autoregressive (no step budget)")
        for name, key in reference_styles(cells).items()
        if name in drawn_lines
    ]
    if quantity == "accuracy":
        guessed = [task for task in dict.fromkeys(cells["benchmark"]) if task in CHANCE]
        keys += [
            Key(f"guessing ({task})", "var(--muted)", None, "dot", thin=True) for task in guessed
        ]
    return Chart(quantity, tuple(keys), tuple(panels))


def _quality_panel(
    quantity: str,
    task: str,
    cells: pd.DataFrame,
    traces: list[Convergence],
    styles: dict[str, Key],
) -> Panel:
    share = quantity == "accuracy"
    axis = steps_axis([int(steps) for steps in cells.loc[~cells["is_ar"], "steps"]])
    span = (10 ** axis["range"][0], 10 ** axis["range"][1])
    y = percent_axis("accuracy")
    if not share:
        y = {"title": {"text": AXES[quantity], "standoff": 6}, "rangemode": "tozero"}
    figure: Figure = {"data": [], "layout": layout(axis, y)}
    lines, left_out = _references(cells)
    looks = reference_styles(cells)
    for at, cell in enumerate(lines):
        label = f"{plot_text(cell['series'])} (autoregressive)<br>{_hover(cell, quantity)}"
        here = (span[0], span[1] / 1.06**at)
        look = looks[cell["series"]]
        reference_line(figure, cell, quantity, label, here, look, band=len(lines) == 1)
    benchmark = cells["benchmark"].iloc[0]
    if share and benchmark in CHANCE:
        _guessing(figure, CHANCE[benchmark], span)
    for trace in traces:
        _stop_line(figure, trace, styles[trace.series], span[0])
    for at, (name, key) in enumerate(styles.items()):
        rows = cells[(cells["series"] == name) & ~cells["is_ar"]].sort_values("steps")
        nudge = beside(at, len(styles))
        values = rows[quantity].tolist()
        bars = whiskers(
            key, values, rows[f"{quantity}_low"].tolist(), rows[f"{quantity}_high"].tolist()
        )
        hover = [
            f"{plot_text(name)}<br>{cell['steps']} steps: {_hover(cell, quantity)}"
            for cell in records(rows)
        ]
        x = [steps * nudge for steps in rows["steps"].tolist()]
        figure["data"].append(line(key, x, values, hover, error_y=bars))
    counts = cells.loc[~cells["is_ar"], COUNTS[quantity]]
    few, many = int(counts.min()), int(counts.max())
    n = f"{few} to {many}" if few < many else f"{many}"
    note = f"{n} samples a point{' (small n)' if few < SMALL_N else ''}"
    note += "".join(f"; no line for {series}: {why}" for series, why in left_out.items())
    return Panel(task if share else f"{task}: {quantity}", note, figure)


def _references(cells: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The autoregressive cells of a task to draw lines of, one a series, and why others are not:
    a line must come from where some point comes from."""
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    references = cells[cells["is_ar"]].sort_values("shown", ascending=False, kind="stable")
    for point in records(cells[~cells["is_ar"]].drop_duplicates(["mode", *PLACE])):
        for series in dict.fromkeys(references["series"]):
            same, why = alike(point, references[references["series"] == series], AR)
            if len(same):
                found.setdefault(series, records(same)[0])
            else:
                refused.setdefault(series, why)
    return list(found.values()), {key: why for key, why in refused.items() if key not in found}


def _hover(cell: dict[str, Any], quantity: str) -> str:
    form = percent if quantity == "accuracy" else figures3
    ends = between(cell[f"{quantity}_low"], cell[f"{quantity}_high"], form)
    n = int(cell[COUNTS[quantity]])
    return f"{quantity} {form(cell[quantity])} {ends}<br>{counted(n, 'samples')}"


def _guessing(figure: Figure, share: float, span: tuple[float, float]) -> None:
    figure["data"].append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": list(span),
            "y": [share, share],
            "line": {"color": "var(--muted)", "dash": "dot", "width": 1.4},
            "hoverinfo": "text",
            "hovertext": f"guessing: {percent(share)}",
        }
    )


def _stop_line(figure: Figure, trace: Convergence, key: Key, first: float) -> None:
    stops = trace.stops[trace.stops["step"] >= first]
    hover = [
        f"{plot_text(trace.series)}, {trace.steps}-step run<br>stopped at step {row['step']}: "
        f"accuracy {percent(row['accuracy'])} "
        f"{between(row['accuracy_low'], row['accuracy_high'], percent)}<br>"
        f"{counted(row['n'], 'samples')}"
        for row in records(stops)
    ]
    thin = labelled(key, trace.series, marker=None, thin=True, dash="dot")
    drawn = line(thin, stops["step"].tolist(), stops["accuracy"].tolist(), hover)
    drawn["line"]["shape"] = "hv"
    figure["data"].append(drawn)


def convergence_chart(traces: list[Convergence]) -> Chart:
    """Share of the finally correct that were right for good by a share of the budget."""
    order = dict.fromkeys(trace.series for trace in traces)
    traces = [trace for trace in traces if trace.right]
    tasks = {
        task: labelled(style("task", at), task)
        for at, task in enumerate(dict.fromkeys(trace.task for trace in traces))
    }
    by_series = {name: [trace for trace in traces if trace.series == name] for name in order}
    panels = [
        _convergence_panel(name, mine, tasks, counts=len(order) > 1)
        for name, mine in by_series.items()
        if mine
    ]
    keys = list(tasks.values())
    if len(order) == 1:
        keys = [labelled(tasks[trace.task], f"{trace.task}: {_right(trace)}") for trace in traces]
    return Chart("convergence", tuple(keys), tuple(panels))


def _right(trace: Convergence) -> str:
    return f"{counted(trace.right, 'right')} of {trace.traced} traced"


def _convergence_panel(
    series: str, traces: list[Convergence], tasks: dict[str, Key], counts: bool
) -> Panel:
    x = {
        "range": [-0.02, 1.02],
        "tickvals": [0, 0.125, 0.25, 0.5, 0.75, 1],
        "ticktext": ["0", "⅛", "¼", "½", "¾", "1"],
        "title": {"text": "share of the step budget used", "standoff": 8},
    }
    figure: Figure = {"data": [], "layout": layout(x, percent_axis("right for good"), height=330)}
    for at, trace in enumerate(traces):
        _convergence_line(figure, trace, tasks[trace.task], 0.008 * (at - len(traces) / 2))
    budgets = ", ".join(str(steps) for steps in sorted({trace.steps for trace in traces}))
    note = f"budget: {budgets} steps"
    if counts:
        note += "".join(f"; {trace.task}: {_right(trace)}" for trace in traces)
    return Panel(series, note, figure)


def _convergence_line(figure: Figure, trace: Convergence, key: Key, nudge: float) -> None:
    hover = [
        f"{plot_text(trace.task)}<br>by step {at} of {trace.steps}: {percent(share)} of the "
        f"finally right answers<br>{counted(trace.right, 'right')}"
        for at, share in enumerate(trace.curve.tolist())
    ]
    plain = labelled(key, trace.task, marker=None)
    drawn = line(plain, trace.fractions.tolist(), trace.curve.tolist(), hover)
    drawn["line"]["shape"] = "hv"
    figure["data"].append(drawn)
    at = [trace.at[fraction] for fraction in FRACTIONS]
    points = line(
        labelled(key, trace.task),
        [fraction + nudge for fraction in FRACTIONS],
        [interval.value for interval in at],
        [
            f"{plot_text(trace.task)}<br>by {fraction:g} of the budget: {percent(interval.value)} "
            f"{between(interval.low, interval.high, percent)}<br>{counted(interval.n, 'right')}"
            for fraction, interval in zip(FRACTIONS, at, strict=True)
        ],
        mode="markers",
        error_y=whiskers(
            key,
            [interval.value for interval in at],
            [interval.low for interval in at],
            [interval.high for interval in at],
        ),
    )
    figure["data"].append(points)
