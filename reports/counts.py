"""A cell's n and its headline number, in words."""

from math import isfinite
from typing import Any

from reports.text import between, figures3, percent


def counted_rows(cell: dict[str, Any]) -> int:
    """The n of a cell's headline: samples with a verdict, else with a scored text, else timed."""
    return int(cell["scored"] or cell["texts"] or cell["timed_samples"])


def count_text(cell: dict[str, Any]) -> str:
    """The n with what it is out of where rows lack one: 20, 18/20, with repeats 20x5."""
    n, rows, repeats = counted_rows(cell), int(cell["rows"]), int(cell["repeats"])
    if repeats == 1:
        return str(n) if n == rows else f"{n}/{rows}"
    counted = int(cell["verdicts"] or cell["timed"])
    return f"{n}x{repeats}" + (f" ({counted}/{rows})" if counted != rows else "")


def pass_text(cell: dict[str, Any]) -> str:
    """pass@k with its interval; empty where there is none."""
    if not isfinite(cell["pass_at"]):
        return ""
    ends = between(cell["pass_at_low"], cell["pass_at_high"], percent)
    return f"pass@{int(cell['pass_k'])} {percent(cell['pass_at'])} {ends}".rstrip()


def quality_text(cell: dict[str, Any], bound: str = "≤") -> str:
    """Accuracy or perplexity (`bound` before one that is a bound) with its interval, or why there
    is neither."""
    if cell["scored"]:
        ends = between(cell["accuracy_low"], cell["accuracy_high"], percent)
        once = f"{percent(cell['accuracy'], int(cell['scored']))} {ends}".rstrip()
        return ", ".join(filter(None, (once, pass_text(cell))))
    if cell["texts"]:
        ends = between(cell["perplexity_low"], cell["perplexity_high"])
        sign = f"{bound} " if cell["is_bound"] else ""
        return f"ppl {sign}{figures3(cell['perplexity'])} {ends}".rstrip()
    return "not executed" if cell["not_executed"] else "–"
