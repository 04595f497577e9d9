"""From a configuration to cells and to the manifest: all on the driver, before any actor."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.cells import Cell, Mode, ModelSpec, digest
from cluster.manifest import MANIFEST, Item, batches
from decoders import (
    Checkpoint,
    Decoder,
    ModelError,
    check,
    find_checkpoint,
    load_tokenizer,
    make_decoder,
    nearest,
)
from decoders.chat import chat_text
from decoders.likelihood import encode_pair
from decoders.models import max_length_of
from decoders.models.families import block_of, family_of, generation_of, visibility_of
from decoders.recipes.remote import Remote
from evaluators import (
    ChoicePrompt,
    ChoiceTask,
    CorpusTask,
    Prompt,
    Sample,
    Task,
    TextPrompt,
    get_task,
    tasks,
)
from jobs.config import DecoderConfig, RunConfig
from jobs.errors import UserError
from jobs.fit import check_model, check_partner, check_settings
from jobs.sweep import sweep
from reports.schema import SCHEMA_VERSION

UNKNOWN = "unknown"
"""The dtype of a server's model."""


@dataclass(frozen=True)
class Plan:
    """A run before it runs: what the configuration means for these models and these data."""

    config: RunConfig

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """Of the models that the configuration lists, and of second models that it does not."""
        return {name: find_checkpoint(m.source or name) for name, m in self.config.models.items()}

    @property
    def models(self) -> dict[str, ModelSpec]:
        """Every model that a cell needs, by name."""
        found: dict[str, ModelSpec] = {}
        for cell in self.cells:
            for spec in (cell.model, cell.partner, cell.scorer):
                if spec is not None and (spec.dtype != UNKNOWN or spec.name not in found):
                    found[spec.name] = spec
        return found

    @cached_property
    def cells(self) -> list[Cell]:
        """Every point of the sweep, each once.

        Raises:
            UserError, DecoderError, UnknownTaskError: a name or a setting is not valid.
        """
        for name in self.config.tasks:
            self._task(name)
        self._check_scorer()
        cells: dict[str, Cell] = {}
        for entry in self.config.decoders:
            self._check_entry(entry)
            wanted = [t for t in self.config.tasks if entry.tasks is None or t in entry.tasks]
            points = itertools.product(self.config.modes, entry.models, wanted)
            for mode, name, task in points:
                for decoder in sweep(entry, task):
                    for cell in self._cells(mode, name, task, decoder):
                        cells.setdefault(cell.cell_id, cell)
        return list(cells.values())

    @property
    def servers(self) -> list[Remote]:
        """The settings of every remote cell."""
        return [cell.decoder for cell in self.cells if isinstance(cell.decoder, Remote)]

    @cached_property
    def digest(self) -> str:
        """Identifies the run: equal for the same cells on the same samples."""
        drawn = {
            name: [task.limit, task.data, task.repeats] for name, task in self.config.tasks.items()
        }
        cells = sorted([cell.cell_id, cell.slots, cell.seed] for cell in self.cells)
        tables = {"trace": self.config.trace, "schema_version": SCHEMA_VERSION}
        return digest({"cells": cells, "drawn": drawn, **tables})

    @property
    def run_id(self) -> str:
        return f"{self.config.name}-{self.digest[:8]}"

    def describe(self, name: str) -> dict[str, Any]:
        """What a reader of the report wants to know of a model."""
        checkpoint = self.checkpoints[name]
        try:
            family, visibility = family_of(checkpoint), visibility_of(checkpoint)
        except ModelError:  # a joint sampler, or a tokenizer alone
            family, visibility = str(checkpoint.config.get("model_type")), None
        # Of a model whose tokenizer alone is used there may be no weights.
        alone = self.models[name].dtype == UNKNOWN
        return {
            "family": family,
            "visibility": visibility,
            "parameters": None if alone else checkpoint.parameters,
            "bundled": checkpoint.is_bundled,
        }

    def manifest(self) -> pa.Table:
        """Every row that the run owes, as one table."""
        return pa.concat_tables([MANIFEST.empty_table(), *self.batches()])

    def batches(self) -> Iterator[pa.Table]:
        """The rows of the manifest, a table a cell.

        Raises:
            DataError: the data of a task cannot be used.
        """
        samples = {name: self._samples(name) for name in self.config.tasks}
        read: dict[tuple[str, str, str], list[Item]] = {}

        def items(cell: Cell) -> list[Item]:
            key = (cell.model.name, cell.model.digest, cell.task)
            if key not in read:
                once = self._items(cell, samples[cell.task])
                repeats = range(self.config.tasks[cell.task].repeats)
                read[key] = [replace(item, repeat=repeat) for repeat in repeats for item in once]
            room = self._room(cell)
            return [item if room is None else _fitting(item, room) for item in read[key]]

        return batches(self.cells, items)

    def _cells(self, mode: Mode, model: str, task: str, decoder: Decoder) -> Iterator[Cell]:
        """A point of the sweep; a guided one has the guider alone beside it, since what guidance
        adds to the guider is what it is for."""
        checkpoint = self.checkpoints[model]
        decoder = decoder.resolved(
            lambda text: self._tokenizer(model).encode(text, add_special_tokens=False)
        )
        partner = self._partner(decoder, model)
        if (model, decoder.fingerprint) not in self._fitting:
            check_settings(decoder, model, checkpoint)
            if partner is not None:
                second = self.checkpoints[partner.name]
                check_partner(decoder, model, checkpoint, partner.name, second)
            self._fitting.add((model, decoder.fingerprint))
        spec = self._tokens(model) if decoder.engine == "remote" else self._spec(model)
        yield self._cell(mode, spec, task, decoder, partner)
        if decoder.engine == "guided" and partner is not None:
            shared = {"gen_length": decoder.gen_length, "temperature": decoder.temperature}
            yield self._cell(mode, partner, task, make_decoder("ar", shared), None)

    def _cell(
        self, mode: Mode, model: ModelSpec, task: str, decoder: Decoder, partner: ModelSpec | None
    ) -> Cell:
        options, kind = self.config.tasks[task], self._task(task)
        if options.num_fewshot > kind.max_fewshot:
            raise UserError(
                f"tasks.{task}.num_fewshot must be at most {kind.max_fewshot}, "
                f"got {options.num_fewshot}"
            )
        if isinstance(kind, ChoiceTask | CorpusTask) != (decoder.engine == "likelihood"):
            asked = (
                "scores choices"
                if isinstance(kind, ChoiceTask)
                else "scores given texts"
                if isinstance(kind, CorpusTask)
                else "wants written answers"
            )
            raise UserError(
                f"task {task} {asked}, decoder {decoder.recipe} does otherwise; name the tasks "
                "that each decoder runs under its `tasks`"
            )
        if isinstance(kind, CorpusTask) and (options.chat or decoder.settings().get("cfg_scale")):
            raise UserError(f"task {task} has no prompts: neither chat nor cfg_scale fit it")
        scorer = self.config.scorer if kind.needs_scorer else None
        return Cell(
            model=model,
            decoder=decoder,
            task=task,
            task_version=kind.version,
            num_fewshot=options.num_fewshot,
            chat=options.chat,
            mode=mode,
            seed=self.config.seed,
            scorer=self._spec(scorer) if scorer else None,
            partner=partner,
            options=kind.options,
        )

    def _spec(self, name: str) -> ModelSpec:
        options, found = self.config.models[name], self.checkpoints[name]
        return ModelSpec(name, found.source, found.digest, options.dtype, options.slots)

    def _tokens(self, name: str) -> ModelSpec:
        """A model of which only the tokenizer is used."""
        if name not in self._vocabularies:
            self._vocabularies[name] = digest(self._tokenizer(name).get_vocab())
        source, slots = self.checkpoints[name].source, self.config.models[name].slots
        return ModelSpec(name, source, self._vocabularies[name], UNKNOWN, slots)

    def _partner(self, decoder: Decoder, model: str) -> ModelSpec | None:
        """The second model: one of the run by its name, else what its setting names, in the
        precision of the first."""
        source = decoder.partner
        if source is None:
            return None
        if source in self.config.models:
            return self._spec(source)
        if source not in self._sources:
            try:
                found = find_checkpoint(source)
            except ModelError as error:
                raise UserError(
                    f"decoder {decoder.recipe}: {decoder.partner_setting} {source!r} is no model "
                    f"of this run ({', '.join(self.config.models)}), and {error}"
                ) from error
            known = [n for n in self.config.models if _same(self.checkpoints[n], found)]
            name = source if found.name in self.config.models else found.name
            self._sources[source] = known[0] if known else name
            self.checkpoints.setdefault(self._sources[source], found)
        if self._sources[source] in self.config.models:
            return self._spec(self._sources[source])
        name, options = self._sources[source], self.config.models[model]
        found = self.checkpoints[name]
        return ModelSpec(name, found.source, found.digest, options.dtype, options.slots)

    def _check_entry(self, entry: DecoderConfig) -> None:
        for name in entry.models:
            if name not in self.config.models:
                raise UserError(
                    f"decoder {entry.recipe}: there is no model {name!r} in this run"
                    f"{nearest(name, self.config.models)}"
                )
            check_model(entry.recipe, name, self.checkpoints[name])
        for key, named in (("per_task", entry.per_task), ("tasks", entry.tasks or ())):
            for task in named:
                if task not in tasks():
                    raise UserError(
                        f"decoder {entry.recipe}: {key} names {task!r}, which is no task"
                        f"{nearest(task, tasks())}"
                    )

    def _check_scorer(self) -> None:
        scorer = self.config.scorer
        needy = [name for name in self.config.tasks if self._task(name).needs_scorer]
        if needy and scorer is None:
            raise UserError(
                f"task {needy[0]} needs `scorer`: the name of a causal model of the run"
            )
        if scorer is not None and scorer not in self.config.models:
            raise UserError(
                f"scorer: there is no model {scorer!r} in this run"
                f"{nearest(scorer, self.config.models)}"
            )
        if scorer is not None:
            if generation_of(self.checkpoints[scorer]) != "autoregressive":
                raise UserError(f"scorer must be a causal model, {scorer!r} is a diffusion model")
            check(self.checkpoints[scorer])

    def _task(self, name: str) -> Task:
        """A task of the run with its options.

        Raises:
            UnknownTaskError, OptionError: there is none, or not with these.
        """
        return get_task(name, self.config.tasks[name].options)

    def _samples(self, name: str) -> list[tuple[Sample, Prompt]]:
        """The samples that the limit leaves, in document order, with the prompts that they have in
        the whole set."""
        options, task = self.config.tasks[name], self._task(name)
        data = None if options.data is None else Path(options.data)
        samples = task.load(data)
        pairs = list(zip(samples, task.prompts(samples, options.num_fewshot, data), strict=True))
        if options.limit is None or options.limit >= len(pairs):
            return pairs
        chosen = sorted(range(len(pairs)), key=lambda n: _draw(name, pairs[n][0].sample_id))
        return [pairs[n] for n in sorted(chosen[: options.limit])]

    def _items(self, cell: Cell, pairs: list[tuple[Sample, Prompt]]) -> list[Item]:
        model, chat = cell.model.name, cell.chat
        tokenizer = self._tokenizer(model)
        block = None if cell.decoder.engine == "remote" else block_of(self.checkpoints[model])
        if chat and not tokenizer.chat_template:
            raise UserError(f"tasks.*.chat: the tokenizer of {model!r} has no chat template")
        items = []
        ids: tuple[int, ...]
        choices: tuple[tuple[int, ...], ...]
        for sample, prompt in pairs:
            text = prompt.text
            if chat:
                text = chat_text(tokenizer, prompt.messages(chat == "multiturn"))
            encode = partial(tokenizer.encode, add_special_tokens=not chat)
            if isinstance(prompt, TextPrompt):
                ids = (self._first_token(model),)
                choices = (tuple(tokenizer.encode(text, add_special_tokens=False)),)
            elif isinstance(prompt, ChoicePrompt):
                # lm-eval puts no space before an answer that opens the assistant's turn.
                choices_of = (c.removeprefix(" ") if chat else c for c in prompt.choices)
                pairs_of = [encode_pair(encode, text, choice) for choice in choices_of]
                ids, choices = pairs_of[0][0], tuple(answer for _, answer in pairs_of)
            else:
                ids, choices = tuple(encode(text)), ()
            items.append(Item(sample, Prompt(text, prompt.until), ids, block, choices))
        return items

    def _room(self, cell: Cell) -> int | None:
        """Tokens that prompt and choice, or the prompt beside its canvas, have in the smaller of a
        cell's models; None for a server, whose business it is."""
        decoder, checkpoint = cell.decoder, self.checkpoints[cell.model.name]
        if decoder.engine == "remote":
            return None
        most = self._lengths(cell.model.name)
        if decoder.engine == "likelihood":  # a causal model need not read a choice's last token
            return most + (visibility_of(checkpoint) == "causal")
        room = decoder.room(most, block_of(checkpoint))
        if cell.partner is None or decoder.partner_kind == "sampler":
            return room
        return min(room, decoder.room(self._lengths(cell.partner.name)))

    def _lengths(self, model: str) -> int:
        if model not in self._positions:
            self._positions[model] = max_length_of(self.checkpoints[model])
        return self._positions[model]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {}

    def _first_token(self, model: str) -> int:
        """What comes before a text that stands alone, as lm-eval has it: BOS, or else EOS."""
        tokenizer = self._tokenizer(model)
        for found in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if found is not None:
                return int(found)
        raise UserError(f"the tokenizer of {model!r} has neither BOS nor EOS")

    def _tokenizer(self, model: str) -> Any:
        if model not in self._tokenizers:
            self._tokenizers[model] = load_tokenizer(self.checkpoints[model])
        return self._tokenizers[model]

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _vocabularies(self) -> dict[str, str]:
        return {}

    @cached_property
    def _sources(self) -> dict[str, str]:
        """What settings name as second models, outside of the run's own: source -> name."""
        return {}

    @cached_property
    def _fitting(self) -> set[tuple[str, str]]:
        """Model and decoder of what was found to go together."""
        return set()


def _fitting(item: Item, room: int) -> Item:
    """The item with the end of its prompt, as much as there is room for, which is what lm-eval's
    own models are fed. Where there is none it stays as it is, for the engine to refuse."""
    kept = room - max(map(len, item.choices), default=0)
    cut = len(item.prompt_ids) - kept
    if cut <= 0 or kept < 1:
        return item
    return replace(item, prompt_ids=item.prompt_ids[cut:], truncated_tokens=cut)


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two names stand for one checkpoint on this machine."""
    return one.folder == other.folder and one.digest == other.digest


def _draw(task: str, sample_id: str) -> bytes:
    """The place of a sample in the fixed random order that a limit takes from the front of, so
    that a larger limit holds the smaller one."""
    return hashlib.sha256(f"{task}/{sample_id}".encode()).digest()
