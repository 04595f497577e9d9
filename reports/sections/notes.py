"""How the numbers are made."""

from reports.analysis import Analysis
from reports.sections.base import Section


def notes(found: Analysis) -> Section:
    cluster = found.run.about.get("config", {}).get("cluster", {})
    return Section(
        "notes",
        {"warmup": cluster.get("warmup", 0), "structured": bool(found.structured)},
    )
