"""A comparison for a terminal, a pull request, a program and a CI server."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Any
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from reports.comparison import Comparison, Finding, Verdict
from reports.text import figures3, markdown_text, percent, visible

COLOURS: dict[Verdict | None, str] = {
    "GO": "green",
    "NO-GO": "bold red",
    "INCONCLUSIVE": "yellow",
    None: "dim",
}
HEADS = ("task", "cell", "measure", "n", "base", "new", "loss", "p (Holm)", "MDE", "verdict", "why")
_NUMBERS = ("n", "base", "new", "loss", "p (Holm)", "MDE")


def table(comparison: Comparison) -> Table:
    """One line a finding, for rich."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        found.add_column(head, justify="right" if head in _NUMBERS else "left")
    for finding in comparison.findings:
        *cells, verdict, why = _cells(finding)
        colour = COLOURS[finding.verdict]
        found.add_row(*map(Text, cells), Text(verdict, style=colour), Text(why))
    return found


def markdown(comparison: Comparison) -> str:
    """For a pull request: the verdict, the findings as a table, the notes."""
    lines = [
        f"## {comparison.verdict}: {markdown_text(comparison.new)} against "
        f"{markdown_text(comparison.base)}",
        "",
        f"{_sentence(comparison)}",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + "|".join(" ---: " if head in _NUMBERS else " --- " for head in HEADS) + "|",
    ]
    for finding in comparison.findings:
        lines.append("| " + " | ".join(map(markdown_text, _cells(finding))) + " |")
    lines += ["", *(f"- {markdown_text(note)}" for note in comparison.notes)]
    return "\n".join(lines).rstrip() + "\n"


def to_json(comparison: Comparison) -> str:
    """Everything that was found; NaN as null."""
    content = {
        "verdict": comparison.verdict,
        "why": comparison.why,
        "base": comparison.base,
        "new": comparison.new,
        "policy": comparison.policy.model_dump(),
        "notes": list(comparison.notes),
        "findings": [_plain(asdict(finding)) for finding in comparison.findings],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def junit(comparison: Comparison) -> str:
    """JUnit XML: a test case for each finding. NO-GO is a failure; INCONCLUSIVE and what was not
    compared are skipped."""
    findings = comparison.findings
    suite = ElementTree.Element(
        "testsuite",
        name=visible(f"{comparison.new} against {comparison.base}"),
        tests=str(len(findings)),
        failures=str(sum(finding.verdict == "NO-GO" for finding in findings)),
        skipped=str(sum(finding.verdict in (None, "INCONCLUSIVE") for finding in findings)),
    )
    for finding in findings:
        name = visible(f"{finding.cell}: {finding.measure}")
        case = ElementTree.SubElement(suite, "testcase", classname=visible(finding.task), name=name)
        if finding.verdict == "GO":
            continue
        kind = "failure" if finding.verdict == "NO-GO" else "skipped"
        text = f"{finding.verdict or 'not compared'}: {finding.why}"
        ElementTree.SubElement(case, kind, message=visible(text)).text = "\n".join(
            f"{head}: {cell}" for head, cell in zip(HEADS, _cells(finding), strict=True)
        )
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _sentence(comparison: Comparison) -> str:
    policy = comparison.policy
    return (
        f"{comparison.why}. A NO-GO by chance, over all cells: at most {percent(policy.alpha)}; "
        f"MDE: the smallest loss found with a power of {percent(policy.power)}."
    )


def _cells(finding: Finding) -> tuple[str, ...]:
    """The texts under HEADS; what came from a run is made visible."""
    if finding.measure == "accuracy":
        values = percent(finding.base, finding.n), percent(finding.new, finding.n)
    else:
        values = figures3(finding.base), figures3(finding.new)
    loss = finding.loss
    spread = f" [{_signed(loss.low)}, {_signed(loss.high)}]" if loss.known else ""
    return (
        visible(finding.task),
        visible(finding.cell),
        "samples/s" if finding.measure == "speed" else finding.measure,
        str(finding.n),
        *values,
        f"{_signed(loss.value)}{spread}",
        f"{finding.p_holm:.3f}" if isfinite(finding.p_holm) else "–",
        percent(finding.detectable),
        finding.verdict or "–",
        visible(finding.why),
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}%" if isfinite(share) else "–"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
