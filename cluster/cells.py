"""A cell of the sweep, and the identity of every row that belongs to it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from decoders import Decoder, make_decoder
from evaluators import Prompt, Sample

Mode = Literal["throughput", "latency"]


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
    decoder: Decoder
    task: str
    task_version: str
    num_fewshot: int
    chat: bool
    mode: Mode
    seed: int
    scorer: ModelSpec | None

    @property
    def slots(self) -> int:
        return 1 if self.mode == "latency" else self.model.slots

    @property
    def cell_id(self) -> str:
        """Equal for equal results: what cannot change a token or a score is left out, so the slot
        count counts only where the dtype makes it matter."""
        return digest(
            {
                "model": self.model.digest,
                "dtype": self.model.dtype,
                "slots": None if self.model.dtype == "float32" else self.slots,
                "decoder": self.decoder.fingerprint,
                "task": [self.task, self.task_version],
                "num_fewshot": self.num_fewshot,
                "chat": self.chat,
                "mode": self.mode,
                "scorer": self.scorer.digest if self.scorer else None,
            }
        )

    def sid(self, sample: Sample, prompt: Prompt) -> str:
        """The identity of one sample's row, for ever: cell, sample as it is, prompt and seed."""
        item = [sample.sample_id, sample.target, dict(sample.fields)]
        return digest([self.cell_id, item, prompt.sha256, self.seed], length=24)

    def to_json(self) -> dict[str, Any]:
        """For a worker in another process; `from_json` is the inverse."""
        fields = {**self.__dict__, "model": self.model.__dict__}
        fields["scorer"] = self.scorer.__dict__ if self.scorer else None
        settings = self.decoder.settings()
        settings.pop("version")
        return {**fields, "decoder": settings}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> "Cell":
        settings = dict(fields["decoder"])
        return Cell(
            **{
                **fields,
                "model": ModelSpec(**fields["model"]),
                "scorer": ModelSpec(**fields["scorer"]) if fields["scorer"] else None,
                "decoder": make_decoder(settings.pop("recipe"), settings),
            }
        )
