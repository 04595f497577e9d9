"""From configuration to cells and manifest."""

import json
from pathlib import Path

import pytest

from decoders import DecoderError
from evaluators import DataError, UnknownTaskError
from jobs.config import load_config
from jobs.errors import UserError
from jobs.plan import Plan


def plan(*overrides: str, limit: int | None = 3) -> Plan:
    return Plan(load_config(None, overrides, limit))


def test_the_sweep_has_every_point_once() -> None:
    cells = plan().cells
    assert len({cell.cell_id for cell in cells}) == len(cells)
    points = {(c.model.name, c.task, c.decoder.budget) for c in cells}
    assert len(points) == len(cells)
    for steps in (4, 8, 16, 32, 64):
        assert ("tiny-mdlm", "gsm8k-resampled", steps) in points
    assert ("tiny-mdlm", "gsm8k", 64) not in points, "a task overrides the sweep"
    assert ("tiny-ar", "gsm8k", 64) in points
    assert all((c.scorer is not None) == (c.task == "lm1b") for c in cells)
    both = plan("modes=[throughput, latency]").cells
    assert len(both) == 2 * len(cells)


def test_prompts_are_the_same_for_every_budget_and_do_not_depend_on_the_limit() -> None:
    small, large = plan(limit=2).manifest().to_pylist(), plan(limit=6).manifest().to_pylist()
    sids = {row["sid"] for row in large}
    assert {row["sid"] for row in small} < sids, "a larger limit holds the smaller one"
    assert len(sids) == len(large)
    prompts: dict[tuple[str, str], set[str]] = {}
    for row in large:
        prompts.setdefault((row["prompt_sha256"][:8], row["sample_id"]), set()).add(row["prompt"])
    assert all(len(texts) == 1 for texts in prompts.values())


def test_the_digest_tells_runs_apart_that_differ_in_results() -> None:
    base = plan().digest
    assert plan().digest == base
    assert plan("models.tiny-mdlm.slots=2").digest != base
    assert plan(limit=4).digest != base
    assert plan("seed=1").digest != base
    assert plan("cluster.pool=1").digest == base


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (["tasks.gsm9k={}"], UnknownTaskError, "gsm8k"),
        (["decoders.0.recipe=lada"], DecoderError, "did you mean 'llada'"),
        (["decoders.0.models=[tiny-mdml]"], UserError, "did you mean 'tiny-mdlm'"),
        (["decoders.0.models=[tiny-ar]"], UserError, "needs a masked-diffusion model"),
        (["decoders.1.models=[tiny-mdlm]"], UserError, "needs a causal model"),
        (["decoders.0.settings.steps=0"], DecoderError, "steps must be a whole number >= 1, got 0"),
        (["decoders.0.settings.steps=[]"], UserError, "empty list"),
        (["decoders.0.per_task.gsm={}"], UserError, "per_task names 'gsm'"),
        (["models.tiny-mdlm.source=nowhere"], DecoderError, "no model 'nowhere'"),
        (["scorer=null"], UserError, "needs `scorer`"),
        (["scorer=tiny-mdlm"], UserError, "must be a causal model"),
        (["scorer=tiny"], UserError, "no model 'tiny'"),
        (["tasks.lm1b.num_fewshot=2"], UserError, "at most 0, got 2"),
        (["tasks.gsm8k.num_fewshot=99"], UserError, "num_fewshot"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(
    overrides: list[str], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        assert plan(*overrides).cells


def test_data_of_the_users_own_is_read(tmp_path: Path) -> None:
    lines = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    (tmp_path / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    own = Plan(load_config(None, ["tasks={gsm8k: {}}"], data=str(tmp_path))).manifest()
    assert own.num_rows == 4 * 5
    assert set(own["prompt"].to_pylist()) == {f"Question: {d['question']}\nAnswer:" for d in lines}
    with pytest.raises(DataError, match="no such folder"):
        Plan(load_config(None, data=str(tmp_path / "absent"))).manifest()


def test_chat_needs_a_template() -> None:
    with pytest.raises(UserError, match="no chat template"):
        plan("tasks.gsm8k.chat=true").manifest()
