"""A few samples to read."""

from reports.analysis import Analysis
from reports.examples import examples
from reports.sections.base import Section


def samples(found: Analysis) -> Section:
    return Section("samples", {"examples": examples(found.run, found.cells)})
