"""A handful of samples of each task, to read what the numbers are made of."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.cells import records
from reports.load import Run
from reports.text import shortened

PER_SERIES = 4
LONGEST = 4_000
"""Characters of a prompt or an output that are shown."""


@dataclass(frozen=True)
class Example:
    """One sample at its line's largest budget, beside the autoregressive output."""

    task: str
    series: str
    steps: int
    sample_id: str
    verdict: str
    """right, wrong, not executed, no verdict, or the status of a failed row."""
    detail: str
    prompt: str
    target: str | None
    output: str | None
    answer: str | None
    baseline: str | None
    """The autoregressive model that answered the same sample."""
    baseline_verdict: str
    baseline_output: str | None


def examples(run: Run, cells: pd.DataFrame) -> dict[str, list[Example]]:
    """By task: right ones, wrong ones, lost ones (right before the end) and failures."""
    if cells.empty:
        return {}
    largest = cells[cells["shown"] & ~cells["is_ar"]].sort_values("steps", kind="stable")
    largest = largest.drop_duplicates(["task", "series"], keep="last").sort_index()
    if largest.empty:
        largest = cells[cells["shown"]]
    chosen = {cell["cell_id"]: _choose(run.rows(cell["cell_id"])) for cell in records(largest)}
    found: dict[str, list[Example]] = {task: [] for task in dict.fromkeys(cells["task"])}
    baselines = _baselines(run, cells, chosen)
    sids = [sid for rows in chosen.values() for sid in rows["sid"]]
    texts = run.texts([*sids, *(row["sid"] for row in baselines.values())])
    for cell in records(largest):
        for row in records(chosen[cell["cell_id"]]):
            baseline = None if cell["is_ar"] else baselines.get((cell["task"], row["sample_id"]))
            found[cell["task"]].append(_example(cell, row, baseline, texts))
    return {task: shown for task, shown in found.items() if shown}


def _choose(rows: pd.DataFrame) -> pd.DataFrame:
    """Two right, one lost on the way, the rest wrong, a failure: the first of each."""
    right = rows[rows["correct"] == 1].head(2)
    lost = rows[rows["oscillated"].eq(True)].head(1)
    failed = rows[~rows["status"].isin(["ok", "not_executed"])].head(1)
    wrong = rows[(rows["correct"] == 0) & ~rows["sid"].isin(lost["sid"])].head(2)
    kinds = pd.concat([right, wrong, lost, failed])
    if len(kinds) < PER_SERIES:
        rest = rows[~rows["sid"].isin(kinds["sid"])].head(PER_SERIES - len(kinds))
        kinds = pd.concat([kinds, rest])
    return kinds


def _baselines(
    run: Run, cells: pd.DataFrame, chosen: dict[str, pd.DataFrame]
) -> dict[tuple[str, str], dict[str, Any]]:
    """The autoregressive row of each chosen sample, by (task, sample_id)."""
    wanted = {sample_id for rows in chosen.values() for sample_id in rows["sample_id"]}
    references = cells[cells["is_ar"] & cells["shown"]]["cell_id"]
    rows = run.samples[
        run.samples["cell_id"].isin(references) & run.samples["sample_id"].isin(wanted)
    ]
    return {(row["task"], row["sample_id"]): row for row in reversed(records(rows))}


def _example(
    cell: dict[str, Any], row: dict[str, Any], baseline: dict[str, Any] | None, texts: pd.DataFrame
) -> Example:
    text = {str(name): value for name, value in texts.loc[row["sid"]].items()}
    return Example(
        task=cell["task"],
        series=cell["series"],
        steps=cell["steps"],
        sample_id=row["sample_id"],
        verdict=_verdict(row),
        detail=_detail(row),
        prompt=_shown(text["prompt"]) or "",
        target=_shown(text["target"]),
        output=_shown(text["output_text"]),
        answer=_shown(row["answer"]),
        baseline=baseline["model"] if baseline else None,
        baseline_verdict=_verdict(baseline) if baseline else "",
        baseline_output=_shown(texts.loc[baseline["sid"], "output_text"]) if baseline else None,
    )


def _verdict(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return str(row["status"]).replace("_", " ")
    if pd.isna(row["correct"]):
        return "no verdict"
    return "right" if row["correct"] else "wrong"


def _detail(row: dict[str, Any]) -> str:
    parts = []
    if not pd.isna(row["repeat"]) and row["repeat"]:
        parts.append(f"repeat {int(row['repeat'])}")
    if isinstance(row["error"], str):
        parts.append(shortened(row["error"], LONGEST))
    if isinstance(row["detail"], str):
        parts.append(shortened(row["detail"], LONGEST))
    if not pd.isna(row["converged_step"]):
        parts.append(f"right for good from step {int(row['converged_step'])}")
    if not pd.isna(row["oscillated"]) and row["oscillated"]:
        parts.append(f"was right at step {int(row['first_correct_step'])}, lost it")
    if not pd.isna(row["nfe"]):
        written = row["generated_tokens"]
        tokens = "" if pd.isna(written) else f", {int(written)} tokens"
        parts.append(f"{int(row['nfe'])} forwards{tokens}")
    return "; ".join(parts)


def _shown(text: object) -> str | None:
    return shortened(text, LONGEST) if isinstance(text, str) else None
