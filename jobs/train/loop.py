"""The training loop of every recipe: draw, step, log, validate, save."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from jobs.train.batches import Mixer, pack
from jobs.train.checkpoint import load_checkpoint, save_checkpoint
from jobs.train.config import TrainConfig, TrainError
from jobs.train.corpus import KINDS, Corpus
from jobs.train.data import Problem
from jobs.train.model import batch_loss, build_model
from jobs.train.objectives import OBJECTIVES
from jobs.train.optim import make_optimizers, rate_factor
from jobs.train.publish import publish
from jobs.train.validate import Decoding, exact_match


class Length(NamedTuple):
    """How long a run is, all its resumed parts together: steps, or minutes on the clock."""

    steps: int | None
    minutes: float | None
    pause: float | None = None
    """Where this part of the run stops, to be resumed later: in the length's own unit."""

    def paused(self, step: int, seconds: float) -> bool:
        here = step if self.steps is not None else seconds / 60
        return self.pause is not None and here >= self.pause

    def progress(self, step: int, seconds: float) -> float:
        if self.steps is not None:
            return step / max(self.steps, 1)
        return seconds / 60 / (self.minutes or 1.0)


class Run:
    """One model in training. `train` does all; the parts are methods for its sake."""

    def __init__(
        self,
        recipe: str,
        config: TrainConfig,
        length: Length,
        corpus: Corpus,
        tokenizer: Tokenizer,
        problems: Sequence[Problem],
        out: Path,
        device: torch.device,
    ) -> None:
        self.recipe, self.config, self.length, self.out = recipe, config, length, out
        self.tokenizer, self.device = tokenizer, device
        self.problems = problems[: config.validation_problems]
        self.objective = OBJECTIVES[recipe](config)
        self.mixer = Mixer(corpus, self.objective.layout, config.batch_tokens, config.seed)
        self.tokens = torch.from_numpy(corpus.tokens.astype(np.int16)).to(device)
        self.model = build_model(config.shape, config.seed).to(device)
        self.optimizers = make_optimizers(self.model, config)
        self.noise = torch.Generator(device)
        self.step, self.seconds_before, self.validated = 0, 0.0, 0
        compiled = config.compile == "yes" or (config.compile == "auto" and device.type == "cuda")
        self.loss: Callable[..., Any] = (
            torch.compile(batch_loss, dynamic=False) if compiled else batch_loss
        )

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint"

    def resume(self) -> None:
        """Goes on from the checkpoint in the output folder."""
        state = load_checkpoint(self.checkpoint, self.model, self.optimizers)
        shape = self.config.asdict()["shape"]
        if state["recipe"] != self.recipe or state["config"]["shape"] != shape:
            raise TrainError(f"{self.checkpoint} is of another recipe or shape")
        self.step, self.seconds_before = state["step"], state["seconds"]
        self.validated = state["validated"]
        self.mixer.restore(state["data"])

    def save(self, seconds: float) -> None:
        state = {
            "recipe": self.recipe,
            "step": self.step,
            "seconds": seconds,
            "validated": self.validated,
            "data": self.mixer.state(),
            "config": self.config.asdict(),
        }
        save_checkpoint(self.checkpoint, self.model, self.optimizers, state)

    def one_step(self, progress: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """One update; returns the loss, its sums and masses by kind, and the learning rate."""
        config = self.config
        rate = config.lr * rate_factor(config, self.step, progress)
        rows = self.mixer.rows(self.step)
        self.noise.manual_seed(config.seed * 1_000_003 + self.step)
        packed = pack(rows, self.tokens, config.batch_tokens, self.mixer.max_rows)
        batch = self.objective.batch(packed, self.noise, len(KINDS))
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            loss, by_kind = self.loss(self.model, batch, self.objective.causal)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach(), by_kind, batch.kind_mass, rate

    def validate(self, decodings: Sequence[Decoding]) -> dict[str, float]:
        return {
            str(how): exact_match(
                self.model, self.tokenizer, self.problems, how, self.objective.causal, self.device
            )
            for how in decodings
        }

    def train(self) -> None:
        """Runs to the end of its length, then publishes the weights; or stops at the pause."""
        self.out.mkdir(parents=True, exist_ok=True)
        config, begin, saved = self.config, time.perf_counter(), self.seconds_before
        logged_step, logged_at = self.step, 0.0
        sums = masses = torch.zeros(len(KINDS), device=self.device)
        losses = torch.zeros((), device=self.device)
        seconds = self.seconds_before
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:

            def write(row: dict[str, Any]) -> None:
                line = json.dumps(row)
                log.write(line + "\n")
                log.flush()
                print(line, flush=True)

            while (progress := self.length.progress(self.step, seconds)) < 1.0:
                if self.length.paused(self.step, seconds):
                    self.save(seconds)
                    return
                loss, by_kind, mass, rate = self.one_step(progress)
                losses, sums, masses = losses + loss, sums + by_kind, masses + mass
                here = time.perf_counter() - begin
                seconds = self.seconds_before + here
                if self.step % config.log_every == 0 or self.step == 1:
                    count = self.step - logged_step
                    means = (sums / masses.clamp(min=1.0)).tolist()
                    here = time.perf_counter() - begin
                    row = {
                        "step": self.step,
                        "loss": round(losses.item() / count, 6),
                        "by_kind": {k: round(m, 4) for k, m in zip(KINDS, means, strict=True) if m},
                        "tokens": self.step * config.batch_tokens,
                        "seconds": round(seconds, 2),
                        "tokens_per_s": round(count * config.batch_tokens / (here - logged_at)),
                        "lr": rate,
                    }
                    write(row)
                    losses, sums, masses = losses * 0, sums * 0, masses * 0
                    logged_step, logged_at = self.step, here
                due = int(self.length.progress(self.step, seconds) * config.validations)
                if self.problems and self.validated < min(due, config.validations - 1):
                    self.validated = due
                    write({"step": self.step, "exact_match": self.validate([Decoding(64, 64)])})
                if seconds - saved > config.save_minutes * 60:
                    saved = seconds
                    self.save(seconds)
            seconds = self.seconds_before + time.perf_counter() - begin
            self.save(seconds)
            publish(self.recipe, self.model, config.shape, self.tokenizer, self.out / "model")
            if self.problems and config.validations:
                causal = self.objective.causal
                decodings = [Decoding(64, 64)] if causal else FINAL_DECODINGS
                write({"step": self.step, "exact_match": self.validate(decodings)})


FINAL_DECODINGS = [
    *(Decoding(64, steps) for steps in (64, 32, 16, 8)),
    *(Decoding(64, 64, block) for block in (32, 16)),
    Decoding(80, 80),
    Decoding(80, 80, 16),
]
