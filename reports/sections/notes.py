"""How the numbers are made."""

from reports.analysis import Analysis
from reports.sections.base import Section


def notes(found: Analysis) -> Section:
    rows = [
        int(run.about.get("config", {}).get("cluster", {}).get("warmup", 0))
        for _, run in found.members
    ]
    warmup = " or ".join(dict.fromkeys(str(count) for count in rows if count))
    return Section("notes", {"warmup": warmup, "structured": bool(found.structured)})
