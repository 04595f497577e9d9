"""The shipped configurations with the bundled models: all of them planned, one of them run."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from decoders import bundled
from evaluators import get_task
from jobs import evaluate
from jobs.config import CONFIGS, STAND_INS, load_config
from jobs.plan import Plan
from jobs.sweep import sweep


def stand_ins(path: Path) -> list[str]:
    """What runs the configuration without a hub: nothing if its own models are bundled."""
    return [STAND_INS] if "bundled" in yaml.safe_load(path.read_text()) else []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_plans_on_the_bundled_models(path: Path) -> None:
    overrides = stand_ins(path)
    plan = Plan(load_config(path, overrides))
    assert len(plan.cells) > 1
    assert set(plan.models) <= set(bundled())
    own = load_config(path)
    assert {entry.recipe for entry in plan.config.decoders} == {e.recipe for e in own.decoders}
    for task in own.tasks:
        for entry in own.decoders:
            for decoder in sweep(entry, task):
                named = {*entry.models, decoder.partner or entry.models[0]}
                assert named <= {*own.models, *bundled()}
        assert get_task(task).max_fewshot >= own.tasks[task].num_fewshot
    needy = any(get_task(task).needs_scorer for task in own.tasks)
    assert (own.scorer in own.models) is needy


def test_an_experiment_runs_on_the_bundled_models(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    smaller = ["decoders.0.settings.gen_length=8", "decoders.1.settings.gen_length=8"]
    smaller += ["decoders.2.settings.gen_length=8", "decoders.2.settings.gamma=[4]"]
    smaller += ["decoders.2.settings.steps=[1, 2]"]
    sets = [part for each in [STAND_INS, *smaller] for part in ("--set", each)]
    config = str(CONFIGS / "specdiff.yaml")
    assert evaluate.main(["--config", config, "--limit", "2", "--out", str(out), *sets]) == 0
    assert "vs spec" in capsys.readouterr().out

    samples = pd.read_parquet(out / "samples")
    assert set(samples.task) == {"lm1b", "openwebtext", "summarisation"}
    assert set(samples.model) == {"tiny-ar"}
    assert len(samples) == 3 * 4 * 2
    assert (samples.status == "ok").all()
    drafting = samples[samples.decoder.isin(["specdiff", "speculative"])]
    assert (drafting.drafted_tokens > 0).all()
    assert samples[samples.output_text.str.strip() != ""].score.notna().all()
    assert (out / "report.html").read_text("utf-8").count("Drafts</h3>") == 1
    facts = json.loads((out / "run.json").read_text("utf-8"))
    assert (facts["config"]["name"], set(facts["models"])) == (
        "specdiff-bundled",
        {"tiny-ar", "tiny-mdlm"},
    )
