"""A cell of the sweep, and the identity of every row that belongs to it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

import decoders
from evaluators import Prompt, Sample, Task, get_task

Mode = Literal["throughput", "latency"]
MODES: tuple[Mode, ...] = get_args(Mode)


def digest(value: Any, length: int = 16) -> str:
    """The first hexadecimal digits of a stable digest of anything JSON-serialisable."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class ModelSpec:
    """How a worker loads a model."""

    name: str
    source: str
    digest: str
    dtype: str
    slots: int


@dataclass(frozen=True)
class Cell:
    """(model, decoder with its budget, task, mode): one point of a sweep."""

    model: ModelSpec
    """Of a remote cell only the tokenizer."""
    decoder: "decoders.Decoder"
    task: str
    task_version: str
    num_fewshot: int
    chat: bool | Literal["multiturn"]
    mode: Mode
    seed: int
    scorer: ModelSpec | None
    partner: ModelSpec | None = None
    """The second model of recipes that need one: drafter, guider or joint sampler."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Every setting of the task's own."""

    @property
    def kind(self) -> Task:
        """The task with the cell's options."""
        return get_task(self.task, self.options)

    @property
    def slots(self) -> int:
        return 1 if self.mode == "latency" else self.model.slots

    @property
    def engine_key(self) -> tuple[str, str, str, int]:
        """Rows that agree in this share an engine, and so a batch. Recipes do not share one, so
        that none pays for the passes of another."""
        other = self.partner.name if self.partner else ""
        if self.decoder.engine == "remote":
            other = self.decoder.settings()["url"]
        return self.model.name, self.decoder.recipe, other, self.slots

    @cached_property
    def cell_id(self) -> str:
        """Equal for equal results: what cannot change a token or a score is left out, so the slot
        count counts only where the dtype makes it matter."""
        return digest(
            {
                "model": self.model.digest,
                "dtype": self.model.dtype,
                "slots": None if self.model.dtype == "float32" else self.slots,
                "decoder": self._decoder,
                "partner": [self.partner.digest, self.partner.dtype] if self.partner else None,
                "task": [self.task, self.task_version],
                "num_fewshot": self.num_fewshot,
                "chat": self.chat,
                "mode": self.mode,
                "scorer": self.scorer.digest if self.scorer else None,
                **({"options": dict(self.options)} if self.options else {}),
            }
        )

    @property
    def _decoder(self) -> str:
        """The decoder but for the name of a second model, whose digest counts instead."""
        if self.partner is None or self.decoder.partner_setting is None:
            return self.decoder.fingerprint
        settings = self.decoder.settings()
        settings.pop(self.decoder.partner_setting)
        return digest(settings)

    def sid(self, sample: Sample, prompt: Prompt, repeat: int = 0) -> str:
        """The identity of one row, for ever: cell, sample as it is, prompt, seed and which of the
        sample's outputs it is. The first is the one of a run without repeats."""
        item = [sample.sample_id, sample.target, dict(sample.fields)]
        parts = [self.cell_id, item, prompt.sha256, self.seed]
        return digest([*parts, repeat] if repeat else parts, length=24)

    def to_json(self) -> dict[str, Any]:
        """For a worker in another process; `from_json` is the inverse."""
        found: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("model", "scorer", "partner"):
            found[name] = found[name].__dict__ if found[name] else None
        settings = self.decoder.settings()
        settings.pop("version")
        return {**found, "decoder": settings}

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Cell":
        settings = dict(found["decoder"])
        specs = {
            name: ModelSpec(**found[name]) if found[name] else None
            for name in ("model", "scorer", "partner")
        }
        decoder = decoders.make_decoder(settings.pop("recipe"), settings)
        return Cell(**{**found, **specs, "decoder": decoder})
