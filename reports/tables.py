"""The page's tables: each entry as text and as the value it is sorted by."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any
from urllib.parse import quote

import pandas as pd

from reports.cells import FAILED, records
from reports.convergence import FRACTIONS, Convergence
from reports.counts import count_text, counted_rows, pass_text
from reports.speed import Speedup
from reports.statistics import SMALL_N, Interval
from reports.text import between, figures3, percent, times


@dataclass(frozen=True)
class Column:
    title: str
    help: str
    number: bool = True
    spare: bool = False
    """Left out where no row has anything in it."""
    wrapped: bool = False
    """Long text, which may break."""


@dataclass(frozen=True)
class Entry:
    text: str
    spread: str = ""
    """The interval, or a remark."""
    order: float | str | None = None
    """What the column is sorted by; None sorts last."""
    flag: str = ""
    href: str = ""


CELL_COLUMNS = (
    Column("task", "benchmark", number=False),
    Column("model · decoder", "and what tells it from others of its kind", number=False),
    Column("steps", "step budget; for ar the most tokens it may write"),
    Column(
        "n", "samples with a verdict (or timed, where there is none) of all; 20x5: 5 outputs each"
    ),
    Column("accuracy or ppl", "share right with Wilson interval, or perplexity (lower is better)"),
    Column("samples/s vs AR", "times the autoregressive baseline's, same samples"),
    Column("tokens/s vs AR", "times the autoregressive baseline's, same samples"),
    Column("NFE vs AR", "times fewer forward passes than the baseline, same samples"),
    Column("token forwards vs AR", "times fewer positions than the baseline, same samples"),
    Column(
        "tokens/s vs speculative",
        "times that of the fastest cell whose drafts are a causal model's, same samples",
        spare=True,
    ),
    Column("samples/s", "decoded samples over the sum of decode_s: one worker's rate"),
    Column("tokens/s", "generated tokens, up to EOS or stop, over the sum of decode_s"),
    Column("latency, s", "median wall seconds in a slot"),
    Column("NFE", "mean forward passes a sample"),
    Column("token forwards", "mean positions pushed through the model a sample"),
    Column("tokens/ forward", "generated tokens over forward passes"),
    Column("draft NFE", "mean passes of a drafter or joint sampler a sample", spare=True),
    Column("draft token forwards", "mean positions pushed through the second model", spare=True),
    Column("accepted", "of the drafted tokens, the share that was kept", spare=True),
    Column("kept a draft", "mean drafted tokens that were kept of one draft", spare=True),
    Column("early commit", "samples that ended before their last step", spare=True),
    Column("steps saved", "mean part of the step budget that was not used", spare=True),
    Column("edits", "mean written tokens that were rewritten a sample", spare=True),
)


def cell_rows(
    cells: pd.DataFrame, compared: dict[str, Speedup], drafted: dict[str, Speedup] | None = None
) -> list[list[Entry]]:
    """The table of all cells, a row a cell, in the order of CELL_COLUMNS; `compared` is with
    autoregression, `drafted` with speculative decoding."""
    modes = cells["mode"].nunique() if len(cells) else 0
    second = drafted or {}
    return [
        _cell_row(cell, compared.get(cell["cell_id"]), second.get(cell["cell_id"]), modes > 1)
        for cell in records(cells)
    ]


def without_spare(
    columns: Sequence[Column], rows: list[list[Entry]]
) -> tuple[list[Column], list[list[Entry]]]:
    """The table without the spare columns that hold nothing but dashes."""
    kept = [
        at
        for at, column in enumerate(columns)
        if not column.spare or any(row[at].order is not None for row in rows)
    ]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _cell_row(
    cell: dict[str, Any], speedup: Speedup | None, drafted: Speedup | None, name_mode: bool
) -> list[Entry]:
    notes = [cell["mode"]] if name_mode else []
    notes += ["the guider alone"] if cell["guider"] else []
    notes += [f"with {cell['partner']}"] if isinstance(cell["partner"], str) else []
    return [
        Entry(cell["task"], order=cell["task"]),
        Entry(cell["series"], ", ".join(notes), " ".join([cell["series"], *notes])),
        Entry(str(cell["steps"]), order=cell["steps"]),
        _count(cell),
        _quality(cell),
        *_against(cell, speedup),
        _times(drafted.tokens) if drafted and drafted.why_not is None else Entry("–"),
        _rate(cell, "samples_per_s"),
        _rate(cell, "tokens_per_s"),
        _number(cell["latency_s"]),
        _number(cell["nfe"]),
        _number(cell["token_forwards"]),
        _number(cell["tokens_per_forward"]),
        _number(cell["nfe_draft"] or nan),
        _number(cell["draft_token_forwards"] or nan),
        _part(cell, "acceptance"),
        _rate(cell, "kept_a_draft"),
        _part(cell, "early_commit_share"),
        _part(cell, "steps_saved"),
        _number(cell["edited_tokens"] or nan),
    ]


def _count(cell: dict[str, Any]) -> Entry:
    n = counted_rows(cell)
    small = "small n" if n < SMALL_N else ""
    return Entry(count_text(cell), _remarks(cell), n, small, samples_link(cell["cell_id"]))


def samples_link(cell_id: str) -> str:
    """Where the page shows a cell's samples."""
    return f"#cell={quote(cell_id, safe='')}"


def _failed(cell: dict[str, Any]) -> str:
    failed = sum(int(cell[status]) for status in FAILED)
    return f"{failed} failed" if failed else ""


def _remarks(cell: dict[str, Any]) -> str:
    cut = f"{cell['truncated']} prompts cut to fit" if cell["truncated"] else ""
    return ", ".join(filter(None, (_failed(cell), cut)))


def _quality(cell: dict[str, Any]) -> Entry:
    if cell["scored"]:
        spread = between(cell["accuracy_low"], cell["accuracy_high"], percent)
        spread = ", ".join(filter(None, (spread, pass_text(cell))))
        flag = ""
        if _failed(cell):
            flag = f"{percent(cell['accuracy_failed_as_wrong'])} if failed = wrong"
        text = percent(cell["accuracy"], int(cell["scored"]))
        return Entry(text, spread, cell["accuracy"], flag)
    if cell["texts"]:
        spread = between(cell["perplexity_low"], cell["perplexity_high"])
        sign, flag = ("≤ ", "bound") if cell["is_bound"] else ("", "")
        return Entry(f"ppl {sign}{figures3(cell['perplexity'])}", spread, cell["perplexity"], flag)
    return Entry("not executed" if cell["not_executed"] else "–")


def _number(value: float) -> Entry:
    return Entry(figures3(value), order=value if isfinite(value) else None)


def _part(cell: dict[str, Any], name: str) -> Entry:
    value = cell[name]
    ends = between(cell[f"{name}_low"], cell[f"{name}_high"], percent)
    return Entry(percent(value), ends, value if isfinite(value) else None)


def _rate(cell: dict[str, Any], name: str) -> Entry:
    value = cell[name]
    ends = between(cell[f"{name}_low"], cell[f"{name}_high"])
    return Entry(figures3(value), ends, value if isfinite(value) else None)


def _against(cell: dict[str, Any], speedup: Speedup | None) -> list[Entry]:
    if cell["is_ar"]:
        return [Entry("AR")] * 4
    if speedup is None or speedup.why_not is not None:
        return [Entry("–")] * 4
    ratios = (speedup.samples, speedup.tokens, speedup.forwards, speedup.token_forwards)
    return [_times(ratio) for ratio in ratios]


def _times(interval: Interval) -> Entry:
    ends = between(interval.low, interval.high, times)
    order = interval.value if isfinite(interval.value) else None
    return Entry(times(interval.value), ends, order)


CONVERGENCE_COLUMNS = (
    Column("task", "benchmark", number=False),
    Column("right", "finally right of the traced samples"),
    *(
        Column(f"by {name}", f"of the finally right: right for good by {name} of the budget")
        for name in ("⅛", "¼", "½", "¾")
    ),
    Column("lost", "of the traced: right at some step, wrong at the end (oscillation)"),
)


def convergence_rows(traces: list[Convergence]) -> list[list[Entry]]:
    """One row a traced line, in the order of CONVERGENCE_COLUMNS."""
    several = len({trace.series for trace in traces}) > 1
    return [
        [
            Entry(trace.task, trace.series if several else "", trace.task),
            Entry(
                f"{trace.right}/{trace.traced}",
                "",
                trace.right,
                "small n" if trace.right < SMALL_N else "",
            ),
            *(share_entry(trace.at[fraction]) for fraction in FRACTIONS),
            share_entry(trace.oscillated),
        ]
        for trace in traces
    ]


def share_entry(interval: Interval) -> Entry:
    """A share with its interval."""
    ends = between(interval.low, interval.high, percent)
    order = interval.value if isfinite(interval.value) else None
    return Entry(percent(interval.value), ends, order)
