"""The configuration of an evaluation: strict at the door, plain values inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs.errors import UserError
from jobs.strict import Model, parse_yaml, read_yaml, validated

CONFIGS = Path(__file__).resolve().parent / "configs"
EMBEDDED = CONFIGS / "embedded.yaml"
STAND_INS = "models=bundled"
"""The override that runs a configuration's section `bundled`."""

Count = Annotated[int, Field(ge=1)]
Setting = bool | int | float | str | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """A model of the run, under the name that the results will carry."""

    source: str | None = None
    """A bundled name, a folder, a GGUF file or a hub name; the model's own name if left out."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """float32 gives the same tokens for any number of slots; lower precision need not."""
    slots: Count = 8
    """Samples decoded at once: more fill a GPU, each costs memory for its canvas. For a server,
    requests in flight."""


class TaskConfig(_Strict):
    limit: Count | None = None
    """Samples drawn from the task, in a fixed random order; all if left out."""
    repeats: Count = 1
    """Outputs for each sample, each with its own noise; a decoder without noise repeats itself."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    chat: bool | Literal["multiturn"] = False
    """Wrap the prompt as a user's message in the model's chat template; `multiturn`: each example
    as a question of the user's and an answer of the assistant's."""
    data: str | None = None
    """A folder with another version of the data, or hf:OWNER/NAME."""
    options: dict[str, Setting] = {}
    """Settings of this task alone, e.g. lm1b's prefix_words."""


class DecoderConfig(_Strict):
    """A recipe on some models; every list among the settings is swept."""

    recipe: str
    models: list[str]
    settings: dict[str, Setting | list[Setting]] = {}
    tasks: list[str] | None = None
    """Those of the run's tasks that it is for; all if left out."""
    per_task: dict[str, dict[str, Setting | list[Setting]]] = {}
    """Settings that a task overrides."""


class ClusterConfig(_Strict):
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs a model actor takes: a part of one (0.5: two share it) or a whole number; left out: one
    if the cluster has any, else none."""
    tensor_parallel: Count = 1
    """GPUs of one node that each actor splits its models over: for those too large for one. With
    `num_gpus: 0` as many processes on CPUs."""
    accelerator_type: str | None = None
    """Use this kind of GPU alone, by Ray's name for it, e.g. H100."""
    pool: Count | None = None
    """Model actors; left out: as many as the free GPUs, or the CPUs, hold."""
    rows_per_block: Count | None = None
    """Rows that an actor takes at once, and gives back at once; left out: by slots and rows."""
    row_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Wall seconds that a row may take from its slot to its score; a worker in which one takes
    longer is ended, and the row that did it gets the status `timeout`."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Rows that each engine decodes before its first counted one, and that are not counted."""
    wait_s: Annotated[float, Field(gt=0)] = 300.0
    """How long to wait for resources that are taken by others, or, where `pool` is given, for nodes
    that the cluster has yet to start."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> "ClusterConfig":
        if self.num_gpus is not None and self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(f"num_gpus must be at most 1 or a whole number ({self.num_gpus:g})")
        if self.tensor_parallel > 1 and self.num_gpus not in (None, 0, self.tensor_parallel):
            raise ValueError(
                f"an actor of tensor_parallel {self.tensor_parallel} takes as many GPUs; leave "
                f"num_gpus ({self.num_gpus:g}) out, or 0 for CPUs"
            )
        return self


class RunConfig(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    decoders: Annotated[list[DecoderConfig], Field(min_length=1)]
    modes: Annotated[list[Literal["throughput", "latency"]], Field(min_length=1)] = ["throughput"]
    """throughput: slots full. latency: one sample at a time, alone on the machine."""
    seed: int = 0
    trace: bool = True
    """Keep every denoising step, for convergence and replay."""
    scorer: str | None = None
    """The causal model of the run that scores free text (lm1b)."""
    cluster: ClusterConfig = ClusterConfig()


class BundledConfig(_Strict):
    """What `--set models=bundled` runs of an experiment: each section replaces the whole section of
    that name, since a tiny canvas wants other budgets, blocks and often an easier task."""

    models: Annotated[dict[str, ModelConfig], Field(min_length=1)]
    """By their bundled names, so that no result carries the name of a model that did not run."""
    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    decoders: Annotated[list[DecoderConfig], Field(min_length=1)]
    scorer: str | None = None
    cluster: ClusterConfig = ClusterConfig()
    """Not the experiment's own: a GPU that it asks for need not be there."""

    @field_validator("models")
    @classmethod
    def _by_name(cls, models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name, model in models.items():
            if model.source is not None:
                raise ValueError(f"{name!r} must be a bundled name, without a source")
        return models


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    data: str | None = None,
    text: str | None = None,
) -> RunConfig:
    """Reads a YAML file (or `text`, or the embedded default) and applies `KEY=VALUE` overrides;
    `limit` is every task's, `data` that of the tasks that name none. `models=bundled` takes the
    file's section `bundled` first, wherever it stands among the overrides.

    Raises:
        UserError: the file cannot be read or parsed, or a key or value is not valid; the message
            names the place, what it got, and the nearest valid key.
    """
    file = path or EMBEDDED
    tree = read_yaml(file, "config") if text is None else parse_yaml(text, "--config-json")
    tree = _with_stand_ins(tree, file, STAND_INS in overrides)
    for override in overrides:
        if override != STAND_INS:
            _override(tree, override)
    config = _validated(RunConfig, tree)
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, got {limit}")
    tasks = {
        name: task.model_copy(update={"limit": limit or task.limit, "data": task.data or data})
        for name, task in config.tasks.items()
    }
    return config.model_copy(update={"tasks": tasks})


def _with_stand_ins(tree: dict[str, Any], file: Path, wanted: bool) -> dict[str, Any]:
    """The tree without its section `bundled`, which has taken the others' places if wanted. It is
    checked in either case: a mistake there is found by whoever made it."""
    section = tree.pop("bundled", None)
    if section is None:
        if wanted:
            raise UserError(
                f"--set {STAND_INS}: config {file} has no section `bundled` with models, tasks and "
                "decoders to take instead of its own"
            )
        return tree
    if not isinstance(section, dict):
        raise UserError(f"config: bundled must be a mapping, got {type(section).__name__}")
    _validated(BundledConfig, section, "bundled")
    if not wanted:
        return tree
    own = {key: value for key, value in tree.items() if key not in ("scorer", "cluster")}
    return {**own, "name": f"{tree.get('name')}-bundled", **section}


def _validated(kind: type[Model], tree: dict[str, Any], section: str = "") -> Model:
    """Of a file, or of a section of it, where a model or a task without options may stand bare."""
    for key in ("models", "tasks"):
        if isinstance(tree.get(key), dict):
            tree[key] = {name: {} if v is None else v for name, v in tree[key].items()}
    return validated(kind, tree, "config", section)


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set wants KEY=VALUE, got {override!r}; e.g. --set tasks.gsm8k.limit=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {key}: the value is not valid YAML: {text!r}") from error
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        if isinstance(node, list):
            node = node[_index(key, part, len(node))]
        elif isinstance(node, dict):
            if not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
    if isinstance(node, list):
        node[_index(key, last, len(node))] = value
    else:
        node[last] = value


def _index(key: str, part: str, length: int) -> int:
    if not part.isdigit() or int(part) >= length:
        raise UserError(f"--set {key}: {part!r} must be an index from 0 to {length - 1}")
    return int(part)
