"""What a section of the page is, and how it becomes HTML."""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from reports.plot import Chart, Figure
from reports.text import visible

SWATCHES = {
    "solid": "",
    "dash": "6 4",
    "dashdot": "6 3 1.5 3",
    "longdash": "9 4",
    "dot": "1.5 3",
    "none": "0 99",
}
"""SVG dash patterns of plotly's dash names, for the legends."""


@dataclass(frozen=True)
class Section:
    """A part of the page: `html/sections/NAME.html.j2` with its values."""

    name: str
    values: dict[str, Any]
    """What the template reads beside `charts`, which has the charts by name."""
    charts: tuple[Chart, ...] = field(default=())

    def html(self) -> Markup:
        """The section as it stands in the page."""
        charts = {chart.name: chart for chart in self.charts}
        template = environment().get_template(f"sections/{self.name}.html.j2")
        return Markup(template.render(**self.values, charts=charts))

    def figures(self) -> dict[str, Figure]:
        """What plotly draws, by the name that the template gives each plot."""
        return {
            f"{chart.name}-{at}": panel.figure
            for chart in self.charts
            for at, panel in enumerate(chart.panels)
        }


@cache
def environment() -> Environment:
    """Templates below `html/`; every string is made visible and escaped."""
    found = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    found.filters["swatch_dash"] = SWATCHES.__getitem__
    return found


def asset(name: str) -> str:
    """The text of a file below `html/`."""
    return files("reports").joinpath("html", *name.split("/")).read_text("utf-8")


def _finalize(value: Any) -> Any:
    """Every string that a template prints passes here before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
