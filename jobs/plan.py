"""From a configuration to cells and to the manifest: all on the driver, before any actor."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.cells import Cell, Mode, ModelSpec, digest
from cluster.manifest import Item, build
from decoders import (
    DIFFUSION_FAMILIES,
    RECIPES,
    Checkpoint,
    Decoder,
    check,
    family_of,
    find_checkpoint,
    load_tokenizer,
    make_decoder,
    nearest,
)
from evaluators import Prompt, Sample, get_task, tasks
from jobs.config import DecoderConfig, RunConfig
from jobs.errors import UserError


@dataclass(frozen=True)
class Plan:
    """A run before it runs: what the configuration means for these models and these data."""

    config: RunConfig

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        found = {name: find_checkpoint(m.source or name) for name, m in self.config.models.items()}
        for checkpoint in found.values():
            check(checkpoint)
        return found

    @cached_property
    def models(self) -> dict[str, ModelSpec]:
        return {
            name: ModelSpec(
                name=name,
                source=self.checkpoints[name].source,
                digest=self.checkpoints[name].digest,
                dtype=model.dtype,
                slots=model.slots,
            )
            for name, model in self.config.models.items()
        }

    @cached_property
    def cells(self) -> list[Cell]:
        """Every point of the sweep, each once.

        Raises:
            UserError, DecoderError, UnknownTaskError: a name or a setting is not valid.
        """
        for name in self.config.tasks:
            get_task(name)
        self._check_scorer()
        cells: dict[str, Cell] = {}
        for entry in self.config.decoders:
            for name in entry.models:
                self._check_fit(entry, name)
            for task in entry.per_task:
                if task not in tasks():
                    raise UserError(
                        f"decoder {entry.recipe}: per_task names {task!r}, which is no task"
                        f"{nearest(task, tasks())}"
                    )
            points = itertools.product(self.config.modes, entry.models, self.config.tasks)
            for mode, name, task in points:
                for decoder in sweep(entry, task):
                    cell = self._cell(mode, name, task, decoder)
                    cells.setdefault(cell.cell_id, cell)
        return list(cells.values())

    @cached_property
    def digest(self) -> str:
        """Identifies the run: equal for the same cells on the same samples."""
        drawn = {name: [task.limit, task.data] for name, task in self.config.tasks.items()}
        cells = sorted([cell.cell_id, cell.slots, cell.seed] for cell in self.cells)
        return digest({"cells": cells, "drawn": drawn, "trace": self.config.trace})

    @property
    def run_id(self) -> str:
        return f"{self.config.name}-{self.digest[:8]}"

    def describe(self, name: str) -> dict[str, Any]:
        """What a reader of the report wants to know of a model."""
        family = family_of(self.checkpoints[name])
        visibility = "bidirectional" if family in DIFFUSION_FAMILIES else "causal"
        checkpoint = self.checkpoints[name]
        return {
            "family": family,
            "visibility": visibility,
            "parameters": checkpoint.parameters,
            "bundled": checkpoint.is_bundled,
        }

    def manifest(self) -> pa.Table:
        """Every row that the run owes.

        Raises:
            DataError: the data of a task cannot be used.
        """
        samples = {name: self._samples(name) for name in self.config.tasks}
        read: dict[tuple[str, str], list[Item]] = {}

        def items(cell: Cell) -> list[Item]:
            key = (cell.model.name, cell.task)
            if key not in read:
                read[key] = self._items(cell.model.name, samples[cell.task], cell.chat)
            return read[key]

        return build(self.cells, items)

    def _cell(self, mode: Mode, model: str, task: str, decoder: Decoder) -> Cell:
        options, kind = self.config.tasks[task], get_task(task)
        if options.num_fewshot > kind.max_fewshot:
            raise UserError(
                f"tasks.{task}.num_fewshot must be at most {kind.max_fewshot}, "
                f"got {options.num_fewshot}"
            )
        scorer = self.config.scorer if kind.needs_scorer else None
        return Cell(
            model=self.models[model],
            decoder=decoder,
            task=task,
            task_version=kind.version,
            num_fewshot=options.num_fewshot,
            chat=options.chat,
            mode=mode,
            seed=self.config.seed,
            scorer=self.models[scorer] if scorer else None,
        )

    def _check_fit(self, entry: DecoderConfig, name: str) -> None:
        if name not in self.config.models:
            raise UserError(
                f"decoder {entry.recipe}: there is no model {name!r} in this run"
                f"{nearest(name, self.config.models)}"
            )
        if entry.recipe not in RECIPES:
            make_decoder(entry.recipe, {})  # raises, with the nearest name
        wanted = RECIPES[entry.recipe].generation
        family = family_of(self.checkpoints[name])
        if (wanted == "diffusion") != (family in DIFFUSION_FAMILIES):
            kind = "masked-diffusion" if wanted == "diffusion" else "causal"
            raise UserError(
                f"decoder {entry.recipe} needs a {kind} model, {name!r} is of family {family}"
            )

    def _check_scorer(self) -> None:
        scorer = self.config.scorer
        needy = [name for name in self.config.tasks if get_task(name).needs_scorer]
        if needy and scorer is None:
            raise UserError(
                f"task {needy[0]} needs `scorer`: the name of a causal model of the run"
            )
        if scorer is not None and scorer not in self.config.models:
            raise UserError(
                f"scorer: there is no model {scorer!r} in this run"
                f"{nearest(scorer, self.config.models)}"
            )
        if scorer is not None and family_of(self.checkpoints[scorer]) in DIFFUSION_FAMILIES:
            raise UserError(f"scorer must be a causal model, {scorer!r} is a diffusion model")

    def _samples(self, name: str) -> list[tuple[Sample, Prompt]]:
        """The samples that the limit leaves, in document order, with the prompts that they have in
        the whole set."""
        options, task = self.config.tasks[name], get_task(name)
        data = None if options.data is None else Path(options.data)
        samples = task.load(data)
        pairs = list(zip(samples, task.prompts(samples, options.num_fewshot, data), strict=True))
        if options.limit is None or options.limit >= len(pairs):
            return pairs
        chosen = sorted(range(len(pairs)), key=lambda n: _draw(name, pairs[n][0].sample_id))
        return [pairs[n] for n in sorted(chosen[: options.limit])]

    def _items(self, model: str, pairs: list[tuple[Sample, Prompt]], chat: bool) -> list[Item]:
        tokenizer = self._tokenizer(model)
        if chat and not tokenizer.chat_template:
            raise UserError(f"tasks.*.chat: the tokenizer of {model!r} has no chat template")
        items = []
        for sample, prompt in pairs:
            text = prompt.text
            if chat:
                message = [{"role": "user", "content": text}]
                text = tokenizer.apply_chat_template(
                    message, add_generation_prompt=True, tokenize=False
                )
            ids = tokenizer.encode(text, add_special_tokens=not chat)
            items.append(Item(sample, Prompt(text, prompt.until), tuple(ids)))
        return items

    def _tokenizer(self, model: str) -> Any:
        if model not in self._tokenizers:
            self._tokenizers[model] = load_tokenizer(self.checkpoints[model])
        return self._tokenizers[model]

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {}


def sweep(entry: DecoderConfig, task: str) -> Iterator[Decoder]:
    """The decoders of an entry for a task: every combination of the listed settings."""
    settings: Mapping[str, Any] = {**entry.settings, **entry.per_task.get(task, {})}
    axes = [value if isinstance(value, list) else [value] for value in settings.values()]
    for key, axis in zip(settings, axes, strict=True):
        if not axis:
            raise UserError(f"decoder {entry.recipe}: {key} is an empty list")
    for point in itertools.product(*axes):
        yield make_decoder(entry.recipe, dict(zip(settings, point, strict=True)))


def _draw(task: str, sample_id: str) -> bytes:
    """The place of a sample in the fixed random order that a limit takes from the front of, so
    that a larger limit holds the smaller one."""
    return hashlib.sha256(f"{task}/{sample_id}".encode()).digest()
