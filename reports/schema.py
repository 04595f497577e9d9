"""The result tables: the one place where their columns are written.

A run directory holds four tables, each a folder of zstd Parquet files that pandas, DuckDB
and `datasets` read as they are:

- `samples`: one row for each (cell, sample, repeat): the identity `sid`, what came out, its cost.
- `steps`: one row for each denoising step of a traced sample.
- `cells`: one row for each cell of the sweep: its settings and the task's own aggregates.
- `vocabulary`: what the token ids of the other tables stand for (since version 4).

Nothing here imports the rest of the project, so that a report can be made wherever the
Parquet files are.
"""

from typing import Literal, get_args

import pyarrow as pa

SCHEMA_VERSION = 4
READABLE = (2, 3, SCHEMA_VERSION)
"""Versions that reports read: a later one has nullable columns and tables more, no others. (In 1
`nfe_block` and `nfe_ar` counted something else.)"""

Status = Literal["ok", "error", "timeout", "quarantined", "not_executed"]
STATUSES: tuple[str, ...] = get_args(Status)
"""`ok`: decoded and scored. `not_executed`: decoded, but its program was not run (no sandbox on the
worker's node), so `correct` is null. All but `ok` carry the reason in `error`; those that were not
decoded have no output."""

SAMPLES = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("cell_id", pa.string(), nullable=False),
        # Digest of cell, sample, prompt, seed and repeat: the identity of the row, for ever.
        pa.field("sid", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("repeat", pa.int32()),  # which of the sample's outputs, from 0
        pa.field("category", pa.string()),  # MMLU subject; null where a task has none
        pa.field("model", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),  # recipe name: llada, ar, ...
        pa.field("partner", pa.string()),  # second model: drafter, guider or joint sampler
        # Step budget. Where one forward writes one token or more (`ar`, thresholds) it is
        # gen_length.
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("gen_length", pa.int32(), nullable=False),  # canvas positions
        pa.field("block_length", pa.int32()),  # null without blocks, or where they are the model's
        pa.field("mode", pa.string(), nullable=False),  # throughput | latency
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # one of STATUSES
        pa.field("error", pa.string()),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string()),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32()),  # that the model was fed
        # Cut off from the prompt's beginning, which the model has no positions for.
        pa.field("truncated_tokens", pa.int32()),
        pa.field("output_text", pa.string()),  # up to EOS or the first stop string
        pa.field("output_ids", pa.list_(pa.int32())),  # the whole canvas, EOS filling included
        # Up to EOS or the stop, never the prompt; null where nothing is written (`likelihood`).
        pa.field("generated_tokens", pa.int32()),
        # Forward passes of the row's model that this sample took part in. This and the five
        # columns after it are null for `remote`, whose server does not tell.
        pa.field("nfe", pa.int32()),
        pa.field("nfe_block", pa.int32()),  # of these, passes that fed a part of the canvas
        pa.field("nfe_ar", pa.int32()),  # passes of an autoregressive model, a guider's included
        pa.field("nfe_draft", pa.int32()),  # passes of a drafter or joint sampler; not in nfe
        pa.field("token_forwards", pa.int64()),  # positions pushed through the row's model, summed
        pa.field("draft_token_forwards", pa.int64()),  # the same of the second model
        # Device-synchronised seconds of decoding, as this sample's share: a forward's time is
        # divided over the rows in it by their positions. Sums to the engine's busy time. For
        # `remote` the wall time shared evenly over the requests in flight.
        pa.field("decode_s", pa.float64()),
        # Wall seconds from entering a slot to leaving it. Equals decode_s in latency mode.
        pa.field("latency_s", pa.float64()),
        pa.field("tokens_per_forward", pa.float64()),  # generated_tokens / nfe
        pa.field("correct", pa.int8()),  # 1, 0, or null where the task has no right answer
        # What the checker said of a program that ran, and the tier of the sandbox that it ran in.
        pa.field("detail", pa.string()),
        pa.field("sandbox", pa.string()),
        pa.field("score", pa.float64()),  # the task's headline number for this sample
        pa.field("answer", pa.string()),  # what the filter extracted
        pa.field("metrics", pa.map_(pa.string(), pa.float64())),  # e.g. both GSM8K filters
        # Convergence, in steps counted from 1; null where there is no trace or no answer.
        pa.field("first_correct_step", pa.int32()),
        pa.field("converged_step", pa.int32()),  # right from there on to the end
        pa.field("last_change_step", pa.int32()),  # the answer changed there for the last time
        pa.field("oscillated", pa.bool_()),  # right at some step, wrong at the end
        # Share of the generated tokens that were written or the model's best after an eighth, a
        # quarter and half of the step budget; null without a trace or such a step.
        pa.field("top1_share_eighth", pa.float32()),
        pa.field("top1_share_quarter", pa.float32()),
        pa.field("top1_share_half", pa.float32()),
        # Prophet: the step that committed all that was left, and the gap that decided it or, where
        # none did, the last step's.
        pa.field("early_commit_step", pa.int32()),
        pa.field("early_commit_gap", pa.float64()),
        pa.field("edited_tokens", pa.int32()),  # written tokens that were rewritten, each time
        pa.field("commit_steps", pa.list_(pa.int32())),  # per canvas position, from 1; 0: never
        pa.field("drafted_tokens", pa.int32()),  # proposed to the row's model or the guider
        pa.field("accepted_tokens", pa.int32()),  # of these, kept
        pa.field("device", pa.string()),  # GPU or processor; remote:HOST for `remote`
        pa.field("dtype", pa.string()),
        pa.field("slots", pa.int32()),
        pa.field("worker", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ],
    metadata={"unmask.table": "samples", "unmask.schema_version": str(SCHEMA_VERSION)},
)

STEPS = pa.schema(
    [
        pa.field("sid", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),  # from 1
        pa.field("nfe", pa.int32(), nullable=False),  # forwards taken up to and with this step
        # What this step wrote: canvas positions, token ids and their confidence, aligned.
        pa.field("committed", pa.list_(pa.int32()), nullable=False),
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),
        pa.field("confidence", pa.list_(pa.float32()), nullable=False),
        pa.field("masked_left", pa.int32(), nullable=False),  # masks in the canvas after it
        # The answer if decoding stopped here: masks filled with this step's best tokens.
        pa.field("answer", pa.string()),
        pa.field("correct", pa.int8()),
        # Share of the finally generated tokens that are written or the best here; null of none.
        pa.field("top1_share", pa.float32()),
        pa.field("top2_gap", pa.float32()),  # mean logit gap over the masked positions
        pa.field("entropy", pa.float32()),  # mean entropy there, nats
        pa.field("elapsed_s", pa.float64(), nullable=False),  # decode_s up to and with this step
    ],
    metadata={"unmask.table": "steps", "unmask.schema_version": str(SCHEMA_VERSION)},
)

CELLS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("cell_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("task_version", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("decoder_config", pa.string(), nullable=False),  # JSON, every setting
        pa.field("decoder_fingerprint", pa.string(), nullable=False),
        pa.field("partner", pa.string()),  # second model, as in samples
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("gen_length", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("num_fewshot", pa.int32(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),  # rows of the cell
        pa.field("statuses", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("metrics", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("acceptance", pa.float64()),  # accepted over drafted tokens of all rows
        pa.field("early_commit_share", pa.float64()),  # of the rows where it could happen
        # What a reader must know of a metric, or why there is none, by its name.
        pa.field("remarks", pa.map_(pa.string(), pa.string())),
    ],
    metadata={"unmask.table": "cells", "unmask.schema_version": str(SCHEMA_VERSION)},
)

VOCABULARY = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        # An id of `output_ids` or `tokens`; those that do not occur in the run are left out.
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("text", pa.string()),  # null where the bytes alone are no whole characters
        pa.field("bytes", pa.binary()),  # null for an id that the tokenizer does not know
        pa.field("special", pa.bool_(), nullable=False),  # EOS and its kind: no text of the output
    ],
    metadata={"unmask.table": "vocabulary", "unmask.schema_version": str(SCHEMA_VERSION)},
)

TABLES = {"samples": SAMPLES, "steps": STEPS, "cells": CELLS, "vocabulary": VOCABULARY}
