"""The training loop of every recipe: draw, step, log, validate, save."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from jobs.train.checkpoint import load_checkpoint, save_checkpoint
from jobs.train.config import TrainConfig, TrainError
from jobs.train.optim import make_optimizers, rate_factor
from jobs.train.tasks import Loss, Task


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
    """One task in training. `train` does all; the parts are methods for its sake."""

    def __init__(
        self, recipe: str, task: Task, config: TrainConfig, length: Length, out: Path
    ) -> None:
        self.recipe, self.task, self.config = recipe, task, config
        self.length, self.out = length, out
        self.optimizers = make_optimizers(task.model, config)
        self.step, self.seconds_before, self.validated = 0, 0.0, 0
        self.skipped: Any = 0

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint"

    def resume(self) -> None:
        """Goes on from the checkpoint in the output folder."""
        state = load_checkpoint(self.checkpoint, self.task.model, self.optimizers)
        shape = self.config.asdict()["shape"]
        if state["recipe"] != self.recipe or state["config"]["shape"] != shape:
            raise TrainError(f"{self.checkpoint} is of another recipe or shape")
        self.step, self.seconds_before = state["step"], state["seconds"]
        self.validated = state["validated"]
        self.task.mixer.restore(state["data"])

    def save(self, seconds: float) -> None:
        state = {
            "recipe": self.recipe,
            "step": self.step,
            "seconds": seconds,
            "validated": self.validated,
            "data": self.task.mixer.state(),
            "config": self.config.asdict(),
        }
        save_checkpoint(self.checkpoint, self.task.model, self.optimizers, state)

    def one_step(self, progress: float) -> tuple[Loss, float]:
        """One update; returns the loss, detached, and the learning rate."""
        config = self.config
        rate = config.lr * rate_factor(config, self.step, progress)
        loss = self.task.loss(self.step)
        whole: Any = loss.total  # torch's backward() is not annotated
        whole.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), config.clip)
        for parameter in self.task.model.parameters():
            # A gradient that is not finite is left out, or it would end the run.
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        self.skipped = self.skipped + ~norm.isfinite()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        total, parts = loss.total.detach().nan_to_num(), loss.parts.detach().nan_to_num()
        return Loss(total, parts, loss.mass), rate

    def train(self) -> None:
        """Runs to the end of its length, then publishes the weights; or stops at the pause."""
        self.out.mkdir(parents=True, exist_ok=True)
        config, task = self.config, self.task
        begin, saved = time.perf_counter(), self.seconds_before
        logged_step, logged_at = self.step, 0.0
        sums: Any = 0
        masses: Any = 0
        losses: Any = 0
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
                loss, rate = self.one_step(progress)
                losses, sums, masses = losses + loss.total, sums + loss.parts, masses + loss.mass
                here = time.perf_counter() - begin
                seconds = self.seconds_before + here
                if self.step % config.log_every == 0 or self.step == 1:
                    count = self.step - logged_step
                    means = (sums / masses.clamp(min=1.0)).tolist()
                    here = time.perf_counter() - begin
                    row = {
                        "step": self.step,
                        "loss": round(losses.item() / count, 6),
                        "parts": {k: round(m, 4) for k, m in zip(task.parts, means, strict=True)},
                        "tokens": self.step * task.positions,
                        "seconds": round(seconds, 2),
                        "tokens_per_s": round(count * task.positions / (here - logged_at)),
                        "lr": rate,
                        "skipped": int(self.skipped),
                    }
                    write(row)
                    losses, sums, masses = 0, 0, 0
                    logged_step, logged_at = self.step, here
                due = int(self.length.progress(self.step, seconds) * config.validations)
                if self.validated < min(due, config.validations - 1):
                    self.validated = due
                    write({"step": self.step, **task.validate(last=False)})
                if seconds - saved > config.save_minutes * 60:
                    saved = seconds
                    self.save(seconds)
            seconds = self.seconds_before + time.perf_counter() - begin
            self.save(seconds)
            task.publish(self.out / "model")
            if config.validations:
                write({"step": self.step, **task.validate(last=True)})
