"""One row for each cell: what it got right and what it cost, with intervals and n.

Ends of intervals stand beside their number as `<name>_low` and `<name>_high`. NaN means that
there is nothing to say (a task without a right answer has no accuracy).
"""

import json
from collections import Counter
from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reports.load import Run
from reports.schema import STATUSES
from reports.statistics import (
    NOTHING,
    FloatArray,
    Interval,
    mean,
    perplexity,
    rate,
    wilson_of_groups,
)

AUTOREGRESSIVE = "ar"
"""The decoder that speed is measured against."""

SPECULATIVE = "speculative"
"""The decoder whose drafts are a causal model's: what other drafts are measured against."""

LIKELIHOOD = "likelihood"
"""The decoder that writes nothing: it has no steps to compare and no tokens a second."""

GUIDED = "guided"
"""The decoder whose second model is worth knowing alone."""

MIXED = "mixed"
"""The device or slot count of a cell whose rows do not agree on one."""

FAILED = ("error", "timeout", "quarantined")
CHANCE = {"mmlu": 0.25}
"""What guessing gets right, where a task offers choices."""

SETTINGS = (
    "cell_id",
    "task",
    "model",
    "decoder",
    "partner",
    "decoder_config",
    "steps",
    "gen_length",
    "mode",
    "num_fewshot",
)
_NOT_A_VARIANT = ("name", "decoder")


def cell_table(run: Run) -> pd.DataFrame:
    """Every cell in the order of the run: settings, counts, quality, cost.

    - rows and one column a status, `repeats` of each sample, rows with a
      `truncated` prompt; `scored` samples have a verdict, and
      `right` of their `verdicts` are correct;
    - `accuracy` = right / verdicts, Wilson. `accuracy_failed_as_wrong` = right / (verdicts +
      failed). `pass_at`: where the task has it, the chance that one of that many outputs is right,
      for `pass_k`, the most that every scored sample has (at least 2), bootstrap;
    - `perplexity` = exp(sum nll / sum tokens) of the `texts` with a likelihood, `entropy` their
      mean unigram entropy in nats, bootstrap over samples; `is_bound`: the perplexity is that of
      an estimated lower bound of the likelihoods, and so too high if anything;
    - `numbers`, `remarks`: the task's own aggregates by name, and what is to be said of them;
    - `samples_per_s`, `tokens_per_s`: decoded samples, generated tokens over the sum of decode_s,
      which is the rate of one worker; `latency_s`: median wall seconds in a slot;
    - `nfe`, `token_forwards` and the same of a second model, `nfe_draft` and
      `draft_token_forwards`, `edited_tokens`: means a sample; `tokens_per_forward`: sum of
      generated tokens over sum of NFE;
    - `acceptance` = accepted / drafted tokens and `kept_a_draft` = accepted tokens / drafts, BCa
      bootstrap over samples; `early_commit_share` of the samples that could end in an early commit,
      Wilson, and `steps_saved`, the part of their budgets that was not used, bootstrap;
    - `guider`: an autoregressive cell whose model guides another cell of its kind;
    - `run`: empty, `benchmark`: the task, `line`: the series; of several runs together
      (`reports.several`) the run's label, and task and series as the run knows them.

    Repeats of a sample are drawn together: they depend on each other, so they are no larger n.
    """
    rows = [_row(cell, run.rows(cell["cell_id"])) for cell in records(run.cells)]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["variant"] = _variants(table)
    table["guider"] = _guiders(table)
    table["run"], table["benchmark"] = "", table["task"]
    table["series"] = [
        series_name(row["model"], row["decoder"], row["variant"]) for row in records(table)
    ]
    table["line"] = table["series"]
    # A cell measured in both modes decodes the same tokens; quality is shown once.
    table["shown"] = table["mode"] == table.groupby(["task", "series"])["mode"].transform(
        lambda modes: "throughput" if (modes == "throughput").any() else modes.iloc[0]
    )
    return table


def series_name(model: str, decoder: str, variant: str) -> str:
    """What a line in a chart is called; the autoregressive decoder goes without saying."""
    name = model if decoder == AUTOREGRESSIVE else f"{model} · {decoder}"
    return f"{name} ({variant})" if variant else name


def decoded(samples: pd.DataFrame) -> pd.DataFrame:
    """The rows whose cost counts: decoding ended, whether or not the output could be scored."""
    done = samples["status"].isin(["ok", "not_executed"]) & (samples["decode_s"] > 0)
    return samples[done]


def numbers(column: "pd.Series[Any]") -> FloatArray:
    """A column as float64, nulls as NaN."""
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def metric(samples: pd.DataFrame, name: str) -> FloatArray:
    """One entry of the `metrics` maps, NaN where it is absent."""
    if not len(samples):
        return np.empty(0, dtype=np.float64)
    found = pc.map_lookup(pa.array(samples["metrics"]), name, "last")
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.float64)


def by_sample(samples: pd.DataFrame, *columns: FloatArray) -> list[FloatArray]:
    """The sums of each column [rows] over the repeats of each sample: [samples], in order of first
    appearance; without repeats the columns as they are."""
    codes, _ = pd.factorize(samples["sample_id"])
    return [np.bincount(codes, weights=column).astype(np.float64) for column in columns]


def share_right(judged: pd.DataFrame, column: str = "correct") -> Interval:
    """The share of rows in which a column is true, none of them null, with its n in samples."""
    right, counts = by_sample(judged, numbers(judged[column]), np.ones(len(judged)))
    return wilson_of_groups(right, counts)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _row(cell: dict[str, Any], samples: pd.DataFrame) -> dict[str, Any]:
    statuses = samples["status"].value_counts()
    row: dict[str, Any] = {name: cell[name] for name in SETTINGS}
    row["is_ar"] = cell["decoder"] == AUTOREGRESSIVE
    for name in ("device", "dtype", "slots"):
        row[name] = _only(samples[name])
    row["rows"] = len(samples)
    row.update({status: int(statuses.get(status, 0)) for status in STATUSES})
    row["truncated"] = int((samples["truncated_tokens"] > 0).sum())
    row["repeats"] = int(samples.groupby("sample_id").size().max()) if len(samples) else 1
    row.update(_quality(samples))
    row.update(_pass_at(cell["metrics"], samples))
    row.update(_cost(decoded(samples), int(cell["steps"])))
    row["numbers"], row["remarks"] = dict(cell["metrics"] or {}), dict(cell["remarks"] or {})
    return row


def _only(column: "pd.Series[Any]") -> Any:
    """The column's one value; None where it has none, MIXED where it has several."""
    values = column.dropna().unique().tolist()
    if len(values) > 1:
        return MIXED
    value = values[0] if values else None
    return int(value) if isinstance(value, float) else value


def _quality(samples: pd.DataFrame) -> dict[str, Any]:
    judged = samples[samples["correct"].notna()]
    right, verdicts = int(judged["correct"].sum()), len(judged)
    failed = int(samples["status"].isin(FAILED).sum())
    accuracy = share_right(judged)
    row: dict[str, Any] = {"scored": accuracy.n, "verdicts": verdicts, "right": right}
    row.update(_spread("accuracy", accuracy))
    row["accuracy_failed_as_wrong"] = right / (verdicts + failed) if verdicts else np.nan
    nll, tokens = metric(samples, "nll_bound"), metric(samples, "scored_tokens")
    row["is_bound"] = bool(np.isfinite(nll).any())
    nll = nll if row["is_bound"] else metric(samples, "nll")
    known = np.isfinite(nll) & (tokens > 0)
    texts = samples[known]
    nll, tokens, ones, entropies = by_sample(
        texts, nll[known], tokens[known], np.ones(len(texts)), metric(texts, "unigram_entropy_nats")
    )
    row["texts"] = len(tokens)
    row.update(_spread("perplexity", perplexity(nll, tokens)))
    row.update(_spread("entropy", rate(entropies, ones)))
    return row


def _pass_at(metrics: Mapping[str, float], samples: pd.DataFrame) -> dict[str, Any]:
    """pass@k of the largest k that the task's own aggregates name, with its interval.

    1 - C(n-c, k) / C(n, k) of a sample with c right of n outputs: unbiased (Chen et al.,
    arXiv:2107.03374, section 2.1).
    """
    named = [int(name[5:]) for name in metrics if name.startswith("pass@") and name[5:].isdigit()]
    most = max(named, default=1)
    row: dict[str, Any] = {"pass_k": most if most > 1 else None}
    judged = samples[samples["correct"].notna()]
    outputs, right = by_sample(judged, np.ones(len(judged)), numbers(judged["correct"]))
    enough = (outputs >= most) if most > 1 else np.zeros(len(outputs), dtype=bool)
    pairs, at = np.unique(np.column_stack([outputs, right])[enough], axis=0, return_inverse=True)
    chances = [1.0 - comb(int(n - c), most) / comb(int(n), most) for n, c in pairs]
    found = mean(np.array(chances, dtype=np.float64)[at]) if chances else NOTHING
    return row | _spread("pass_at", found)


def _cost(samples: pd.DataFrame, steps: int) -> dict[str, Any]:
    seconds = numbers(samples["decode_s"])
    tokens = numbers(samples["generated_tokens"])
    forwards = numbers(samples["nfe"])
    row: dict[str, Any] = {"timed": len(samples), "timed_samples": samples["sample_id"].nunique()}
    outputs, spent, written = by_sample(samples, np.ones_like(seconds), seconds, tokens)
    row.update(_spread("samples_per_s", rate(outputs, spent)))
    row.update(_spread("tokens_per_s", rate(written, spent)))
    row["latency_s"] = float(samples["latency_s"].median()) if len(samples) else np.nan
    row["nfe"] = float(forwards.mean()) if len(samples) else np.nan
    row["token_forwards"] = (
        float(numbers(samples["token_forwards"]).mean()) if len(samples) else np.nan
    )
    row["tokens_per_forward"] = tokens.sum() / forwards.sum() if forwards.sum() > 0 else np.nan
    for name in ("nfe_draft", "draft_token_forwards", "edited_tokens"):
        row[name] = float(numbers(samples[name]).mean()) if len(samples) else np.nan
    drafted, accepted = numbers(samples["drafted_tokens"]), numbers(samples["accepted_tokens"])
    asked = drafted > 0
    kept, of, drafts = by_sample(samples[asked], accepted[asked], drafted[asked], forwards[asked])
    row.update(_spread("acceptance", rate(kept, of)))
    # Recipes that draft take one forward of the row's model for each draft.
    row.update(_spread("kept_a_draft", rate(kept, drafts)))
    early = samples["early_commit_step"].notna()
    measured = early | samples["early_commit_gap"].notna()
    ended, able = (np.asarray(column, dtype=np.float64) for column in (early, measured))
    ended, able = by_sample(samples, ended, able)
    row.update(_spread("early_commit_share", wilson_of_groups(ended, able)))
    could = samples[measured]
    left, ones = by_sample(could, 1 - numbers(could["nfe"]) / steps, np.ones(len(could)))
    row.update(_spread("steps_saved", rate(left, ones)))
    return row


def _spread(name: str, interval: Interval) -> dict[str, float]:
    """An interval as three columns."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _guiders(table: pd.DataFrame) -> list[bool]:
    """Which rows are the second model of a guided one, alone on the same task and length."""
    same = ("task", "mode", "gen_length")
    guided = {
        (row["partner"], *(row[name] for name in same))
        for row in records(table[table["decoder"] == GUIDED])
    }
    return [
        row["is_ar"] and (row["model"], *(row[name] for name in same)) in guided
        for row in records(table)
    ]


def _variants(table: pd.DataFrame) -> list[str]:
    """What tells cells apart that share task, model, decoder, mode and step budget.

    A line in a chart is one decoder over its step budgets. Settings are named only where a
    sweep has two cells at one budget (two thresholds, two block lengths); a block length that
    merely follows the budget does not split the line. Of several settings, the value that more than
    half of the cells have goes without saying: a sweep around a point names where a cell leaves it.
    """
    names = [""] * len(table)
    configs = [_settings(row) for row in records(table)]
    for _, group in table.reset_index(drop=True).groupby(["task", "model", "decoder", "mode"]):
        if not group["steps"].duplicated().any():
            continue
        keys = sorted({key for at in group.index for key in configs[at]})
        columns = {key: [str(configs[at].get(key)) for at in group.index] for key in keys}
        telling = {key: values for key, values in columns.items() if len(set(values)) > 1}
        for key, values in telling.items():
            common, count = Counter(values).most_common(1)[0]
            unsaid = common if len(telling) > 1 and 2 * count > len(values) else None
            for at, value in zip(group.index, values, strict=True):
                if value != unsaid:
                    names[at] += f"{', ' if names[at] else ''}{key}={value}"
    return names


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    """A cell's decoder settings that may tell it from another of the same budget."""
    settings = decoder_settings(row)
    if "gamma" not in settings:  # a drafter's steps are no budget
        settings.pop("steps", None)
    settings["gen_length"] = row["gen_length"]
    settings["num_fewshot"] = row["num_fewshot"]
    return {key: value for key, value in settings.items() if key not in _NOT_A_VARIANT}


def decoder_settings(row: dict[str, Any]) -> dict[str, Any]:
    """A cell's settings as its recipe has them; empty where the row holds none."""
    try:
        config = json.loads(row["decoder_config"])
    except ValueError:
        config = {}
    return dict(config) if isinstance(config, dict) else {}
