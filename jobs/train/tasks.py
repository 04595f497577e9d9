"""What a run trains: a language model by one of three objectives. See `joint` for the sampler."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from jobs.train.batches import Mixer, pack
from jobs.train.blocks import TILE, BlockDiffusion
from jobs.train.config import TrainConfig
from jobs.train.corpus import KINDS, Corpus
from jobs.train.data import Problem
from jobs.train.model import batch_loss, build_model, start_from
from jobs.train.objectives import Diffusion, NextToken, Objective
from jobs.train.publish import publish
from jobs.train.validate import Blockwise, Decoding, NextTokens, Unmasking, exact_match

OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "mdlm": Diffusion,
    "ar": NextToken,
    "bd": BlockDiffusion,
}


class Loss(NamedTuple):
    """Of one step."""

    total: Tensor
    parts: Tensor
    """Sum of each part of the loss, in the order of the task's `parts`."""
    mass: Tensor
    """What these are divided by to give means."""


class Task(Protocol):
    """A model in training, apart from the loop around it."""

    mixer: Mixer
    positions: int
    """Positions of one step that go through the trained model."""

    @property
    def model(self) -> Any:
        """Whose parameters are trained and kept in checkpoints."""
        ...

    @property
    def parts(self) -> Sequence[str]:
        """Names of the loss's parts."""
        ...

    def loss(self, step: int) -> Loss: ...

    def validate(self, last: bool) -> dict[str, Any]: ...

    def publish(self, folder: Path) -> None: ...


def compiles(config: TrainConfig, device: torch.device) -> bool:
    return config.compile == "yes" or (config.compile == "auto" and device.type == "cuda")


class LanguageModel:
    """A transformer of the configured shape, fresh or from a checkpoint (`init`)."""

    parts = KINDS

    def __init__(
        self,
        recipe: str,
        config: TrainConfig,
        corpus: Corpus,
        tokenizer: Tokenizer,
        problems: Sequence[Problem],
        device: torch.device,
        init: str | None = None,
    ) -> None:
        self.recipe, self.config, self.device = recipe, config, device
        self.tokenizer, self.problems = tokenizer, problems[: config.validation_problems]
        self.objective = OBJECTIVES[recipe](config)
        streams = self.objective.streams
        self.span = config.batch_tokens
        if streams > 1:
            self.span = config.batch_tokens // streams // TILE * TILE
        self.positions = self.span * streams
        self.mixer = Mixer(corpus, self.objective.layout, self.span, config.seed)
        self.tokens = torch.from_numpy(corpus.tokens.astype(np.int16)).to(device)
        model = build_model(config.shape, config.seed, self.objective.attention)
        if init is not None:
            start_from(model, init)
        self.model = model.to(device)
        self.noise = torch.Generator(device)
        self.batch_loss: Callable[..., Any] = (
            torch.compile(batch_loss, dynamic=False) if compiles(config, device) else batch_loss
        )

    def loss(self, step: int) -> Loss:
        rows = self.mixer.rows(step)
        self.noise.manual_seed(self.config.seed * 1_000_003 + step)
        packed = pack(rows, self.tokens, self.span, self.mixer.max_rows)
        batch = self.objective.batch(packed, self.noise, len(KINDS))
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            total, by_kind = self.batch_loss(self.model, batch)
        return Loss(total, by_kind, batch.kind_mass)

    def validate(self, last: bool) -> dict[str, Any]:
        decodings = self._decodings() if last else self._decodings()[:1]
        scores = {}
        for how in decodings:
            score = exact_match(how, self.model, self.tokenizer, self.problems, self.device)
            scores[str(how)] = {"right": score.right, "passes": round(score.passes, 2)}
        return {"exact_match": scores} if self.problems else {}

    def _decodings(self) -> list[Decoding]:
        """The one to watch by first, then those of the run's end."""
        if self.recipe == "ar":
            return [NextTokens(64)]
        if self.recipe == "mdlm":
            return [
                *(Unmasking(64, steps) for steps in (64, 32, 16, 8)),
                *(Unmasking(64, 64, block) for block in (32, 16)),
                Unmasking(80, 80),
                Unmasking(80, 80, 16),
            ]
        size = self.config.bd_size
        return [
            Blockwise(80, size, part, threshold)
            for part, threshold in (
                (max(size // 2, 1), 0.9),
                (max(size // 4, 1), 0.9),
                (size, 0.9),
                (size, 1.0),
                (max(size // 2, 1), 0.7),
                (max(size // 2, 1), 0.5),
            )
        ]

    def publish(self, folder: Path) -> None:
        publish(self.recipe, self.model, self.config, self.tokenizer, folder)
