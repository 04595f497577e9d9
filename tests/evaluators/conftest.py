"""lm-eval's own tasks over the bundled data, as the judge of ours; no network, no task scan."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from evaluators.store import BUNDLED

# The first example pays for imports and a shared machine pauses at will: no time limit each.
settings.register_profile("evaluators", deadline=None)
settings.load_profile("evaluators")

HARNESS_SEED = 1234

Harness = Callable[..., Any]


def bundled(name: str) -> Any:
    return pq.read_table(BUNDLED / f"{name}.parquet")


@pytest.fixture(scope="session")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        if "HF_HOME" not in os.environ:
            patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        yield


@pytest.fixture(scope="session")
def harness(offline: None) -> Harness:
    """Builds lm-eval's task from one of its YAML files, with Arrow tables for its data set."""
    import lm_eval
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(lm_eval.__file__).parent / "tasks"

    def build(yaml: str, tables: dict[str, pa.Table], num_fewshot: int = 0) -> Any:
        config = load_yaml(folder / yaml, resolve_func=False)
        for key in ("dataset_path", "dataset_name", "tag", "task_alias", "include"):
            config.pop(key, None)
        data = DatasetDict({split: Dataset(table) for split, table in tables.items()})
        # Called with the task's metadata, which says nothing about the data.
        config["custom_dataset"] = lambda **metadata: data
        config["num_fewshot"] = num_fewshot
        task = ConfigurableTask(config=config)
        task.set_fewshot_seed(HARNESS_SEED)
        return task

    return build


@pytest.fixture(scope="session")
def gsm8k_harness(harness: Harness) -> Any:
    tables = {"train": bundled("gsm8k_train"), "test": bundled("gsm8k_test")}
    return harness("gsm8k/gsm8k.yaml", tables)


@pytest.fixture(scope="session")
def harness_prompts() -> Callable[..., list[str]]:
    """The prompts of lm-eval's unsharded run, in document order."""

    def build(task: Any, num_fewshot: int, limit: int | None = None) -> list[str]:
        task.set_config("num_fewshot", num_fewshot)
        task.set_fewshot_seed(HARNESS_SEED)
        task.build_all_requests(limit=limit)
        return [instance.args[0] for instance in task.instances]

    return build


@pytest.fixture(scope="session")
def harness_score(offline: None) -> Callable[[Any, Any, str], dict[str, float]]:
    """lm-eval's verdict on one output: exact_match by the name of each filter."""
    from lm_eval.api.instance import Instance

    def judge(task: Any, doc: Any, output: str) -> dict[str, float]:
        instance = Instance("generate_until", doc, ("", {}), 0)
        instance.resps = [output]
        verdict = {}
        for chain in task._filters:
            chain.apply([instance])
            filtered = instance.filtered_resps[chain.name]
            verdict[chain.name] = float(task.process_results(doc, [filtered])["exact_match"])
        return verdict

    return judge
