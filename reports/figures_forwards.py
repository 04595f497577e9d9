"""The charts of what one forward gives: quality against tokens a forward, and what became of
drafts. They hold on any machine, as no second is in them."""

from math import log10

import pandas as pd

from reports.cells import decoder_settings, records
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
    style,
    whiskers,
)
from reports.text import between, figures3, percent, plot_text


def forwards_chart(cells: pd.DataFrame) -> Chart:
    """Accuracy, or perplexity, against generated tokens a forward, a panel a task."""
    name = "forwards"
    here = cells[cells["shown"] & (cells["tokens_per_forward"] > 0)] if len(cells) else cells
    here = here[(here["scored"] > 0) | (here["texts"] > 0)] if len(here) else here
    tasks = list(dict.fromkeys(here.loc[~here["is_ar"], "task"])) if len(here) else []
    if not tasks:
        return Chart(name, (), ())
    styles = series_styles(cells)
    panels = []
    for task in tasks:
        rows = here[here["task"] == task]
        quantity = "accuracy" if (rows["scored"] > 0).any() else "perplexity"
        rows = rows[rows[quantity].notna()]
        y = percent_axis("accuracy")
        if quantity == "perplexity":
            y = {"title": {"text": "perplexity (lower is better)", "standoff": 6}}
            y |= {"rangemode": "tozero"}
        figure: Figure = {"data": [], "layout": layout(_tokens_axis(rows), y)}
        for series, key in styles.items():
            mine = rows[rows["series"] == series].sort_values("tokens_per_forward")
            _points(figure, mine, key, quantity)
        _points(figure, rows[rows["is_ar"]], labelled(AR_KEY, "", marker="star"), quantity)
        n = int(rows["scored" if quantity == "accuracy" else "texts"].min())
        panels.append(Panel(task, counted(n, "samples a point"), figure))
    used = set(here["series"])
    keys = [labelled(key, series) for series, key in styles.items() if series in used]
    for series in dict.fromkeys(here.loc[here["is_ar"], "series"]):
        keys.append(labelled(AR_KEY, f"{series}, autoregressive", marker="star", dash="none"))
    return Chart(name, tuple(keys), tuple(panels))


def _tokens_axis(rows: pd.DataFrame) -> Figure:
    low, high = rows["tokens_per_forward"].min() / 1.4, rows["tokens_per_forward"].max() * 1.4
    ticks = log_ticks(low, high, 2)
    return {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title": {"text": "generated tokens a forward (log scale)", "standoff": 8},
    }


def _points(figure: Figure, rows: pd.DataFrame, key: Key, quantity: str) -> None:
    if not len(rows):
        return
    form = percent if quantity == "accuracy" else figures3
    values = rows[quantity].tolist()
    hover = [
        f"{plot_text(cell['series'])}, {cell['steps']} steps<br>{quantity} {form(cell[quantity])} "
        f"{between(cell[f'{quantity}_low'], cell[f'{quantity}_high'], form)}<br>"
        f"{figures3(cell['tokens_per_forward'])} tokens a forward"
        for cell in records(rows)
    ]
    bars = whiskers(key, values, *(rows[f"{quantity}_{end}"].tolist() for end in ("low", "high")))
    drawn = line(key, rows["tokens_per_forward"].tolist(), values, hover, error_y=bars)
    drawn["line"]["width"] = 1
    figure["data"].append(drawn)


def drafts_chart(cells: pd.DataFrame) -> Chart:
    """Accepted share of the drafted tokens, and how many of one draft were kept, against the
    length gamma of a draft; a line for each drafter and number of its steps."""
    here = cells[cells["shown"] & cells["acceptance"].notna()] if len(cells) else cells
    settings = [decoder_settings(cell) for cell in records(here)]
    here = here.assign(
        gamma=[float(found.get("gamma", "nan")) for found in settings],
        line=[
            f"{cell['model']} with {cell['partner']}"
            + (f", T = {found['steps']}" if "steps" in found else ", token by token")
            for cell, found in zip(records(here), settings, strict=True)
        ],
    )
    here = here[here["gamma"].notna()]
    if not len(here):
        return Chart("drafts", (), ())
    styles = {
        name: labelled(style("series", at), name)
        for at, name in enumerate(dict.fromkeys(here["line"]))
    }
    panels = []
    for task in dict.fromkeys(here["task"]):
        rows = here[here["task"] == task]
        for quantity, title in (("acceptance", "accepted"), ("kept_a_draft", "kept a draft")):
            x = steps_axis([int(gamma) for gamma in rows["gamma"]])
            x["title"] = {"text": "gamma: tokens a draft (log scale)", "standoff": 8}
            y = percent_axis("of the drafted tokens")
            if quantity == "kept_a_draft":
                y = {"title": {"text": "tokens", "standoff": 6}, "rangemode": "tozero"}
            figure: Figure = {"data": [], "layout": layout(x, y)}
            for at, (name, key) in enumerate(styles.items()):
                mine = rows[rows["line"] == name].sort_values("gamma")
                _draft_line(figure, mine, key, quantity, beside(at, len(styles)))
            note = counted(int(rows["timed"].min()), "samples a point")
            panels.append(Panel(f"{task}: {title}", note, figure))
    return Chart("drafts", tuple(styles.values()), tuple(panels))


def _draft_line(figure: Figure, rows: pd.DataFrame, key: Key, quantity: str, nudge: float) -> None:
    if not len(rows):
        return
    form = percent if quantity == "acceptance" else figures3
    values = rows[quantity].tolist()
    hover = [
        f"{plot_text(key.label)}<br>gamma {cell['gamma']:g}: {form(cell[quantity])} "
        f"{between(cell[f'{quantity}_low'], cell[f'{quantity}_high'], form)}"
        for cell in records(rows)
    ]
    bars = whiskers(key, values, *(rows[f"{quantity}_{end}"].tolist() for end in ("low", "high")))
    x = [gamma * nudge for gamma in rows["gamma"].tolist()]
    figure["data"].append(line(key, x, values, hover, error_y=bars))
