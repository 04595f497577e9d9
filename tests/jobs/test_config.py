from pathlib import Path

import pytest
import yaml

from jobs.config import CONFIGS, EMBEDDED, STAND_INS, load_config
from jobs.errors import UserError
from jobs.sweep import sweep


def write(folder: Path, **changes: object) -> Path:
    tree = {**yaml.safe_load(EMBEDDED.read_text()), **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_every_shipped_config_is_valid() -> None:
    found = sorted(CONFIGS.glob("*.yaml"))
    assert EMBEDDED in found
    for path in found:
        config = load_config(path)
        assert config.name == path.stem
        for entry in config.decoders:
            for task in config.tasks:
                assert list(sweep(entry, task)), f"{path.stem}: {entry.recipe} on {task}"


def test_the_default_sweeps_all_tasks_and_four_budgets() -> None:
    config = load_config(None)
    assert set(config.tasks) == {"gsm8k", "gsm8k-resampled", "mmlu", "humaneval", "lm1b"}
    assert set(config.models) == {"tiny-mdlm", "tiny-ar"}
    (llada,) = [d for d in config.decoders if d.recipe == "llada"]
    for task in config.tasks:
        steps = {**llada.settings, **llada.per_task.get(task, {})}["steps"]
        assert isinstance(steps, list)
        assert len(steps) >= 4


def test_set_and_limit_override() -> None:
    config = load_config(
        None, ["tasks.gsm8k.limit=5", "decoders.0.settings.steps=[8]", "models.tiny-ar.slots=3"]
    )
    assert config.tasks["gsm8k"].limit == 5
    assert config.decoders[0].settings["steps"] == [8]
    assert config.models["tiny-ar"].slots == 3
    assert {task.limit for task in load_config(None, limit=2).tasks.values()} == {2}
    elsewhere = load_config(None, ["tasks.mmlu.data=hf:cais/mmlu"], data="other").tasks
    assert elsewhere["mmlu"].data == "hf:cais/mmlu"
    assert elsewhere["gsm8k"].data == "other"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modelz={}"], r"unknown key 'modelz'; did you mean 'models'"),
        (["tasks.gsm8k.limits=3"], r"unknown key 'tasks.gsm8k.limits'; did you mean 'limit'"),
        (["cluster.gpus=1"], r"unknown key 'cluster.gpus'; did you mean 'num_gpus'"),
        (["decoders.0.model=x"], r"unknown key 'decoders.0.model'; did you mean 'models'"),
        (["decoders.0.task=[gsm8k]"], r"unknown key 'decoders.0.task'; did you mean 'tasks'"),
        (["tasks.gsm8k.limit=0"], r"tasks.gsm8k.limit: .*greater than or equal to 1, got 0"),
        (["modes=[fast]"], r"modes.0: .*throughput.*got 'fast'"),
        (["models={}"], r"models: .*at least 1"),
        (["tasks.gsm8k.limit"], r"--set wants KEY=VALUE"),
        (["decoders.9.recipe=ar"], r"'9' must be an index from 0 to 3"),
        (["seed=[1"], r"not valid YAML"),
        (["name=../../etc"], r"name: "),
    ],
)
def test_mistakes_are_named_with_the_nearest_valid_key(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(None, overrides)


def test_files_that_are_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")
    for text, words in (("- a\n- b\n", "must be a mapping"), ("a: [", "not valid YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=words):
            load_config(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "bad.yaml")
    tag = tmp_path / "tag.yaml"
    tag.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tag)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    tree = yaml.safe_load(EMBEDDED.read_text())
    del tree["decoders"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match="decoders is missing"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{num_gpus: 1.5}", "num_gpus must be at most 1 or a whole number"),
        ("{num_gpus: 1, tensor_parallel: 2}", "takes as many GPUs; leave num_gpus"),
        ("{row_timeout_s: 0}", "cluster.row_timeout_s"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(settings: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(None, [f"cluster={settings}"])


BUNDLED = {
    "models": {"tiny-bd": None},
    "tasks": {"mmlu": {"limit": 2}},
    "decoders": [{"recipe": "llada2", "models": ["tiny-bd"]}],
}


def test_models_bundled_takes_the_section_before_other_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, bundled=BUNDLED, cluster={"num_gpus": 1}, seed=7, modes=["latency"])
    own = load_config(path)
    assert set(own.models) == {"tiny-mdlm", "tiny-ar"}
    assert (own.name, own.scorer, own.cluster.num_gpus) == ("embedded", "tiny-ar", 1)

    config = load_config(path, ["tasks.mmlu.limit=5", STAND_INS])
    assert (config.name, list(config.models)) == ("embedded-bundled", ["tiny-bd"])
    assert {name: task.limit for name, task in config.tasks.items()} == {"mmlu": 5}
    assert [entry.recipe for entry in config.decoders] == ["llada2"]
    assert (config.scorer, config.cluster.num_gpus) == (None, None)
    assert (config.seed, config.modes) == (7, ["latency"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": {}}, r"unknown key 'bundled.task'; did you mean 'tasks'"),
        ({"tasks": {"mmlu": {"limits": 2}}}, r"'bundled.tasks.mmlu.limits'; did you mean 'limit'"),
        ({"models": {"tiny": {"source": "a/b"}}}, r"bundled.models: .*must be a bundled name"),
        ({"decoders": []}, r"bundled.decoders: .*at least 1"),
    ],
)
def test_a_mistake_in_the_section_is_told_whether_it_runs_or_not(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = write(tmp_path, bundled={**BUNDLED, **change})
    for overrides in ([], [STAND_INS]):
        with pytest.raises(UserError, match=words):
            load_config(path, overrides)


def test_models_bundled_needs_the_section() -> None:
    with pytest.raises(UserError, match="has no section `bundled`"):
        load_config(None, [STAND_INS])
