"""Settings of a training run, and how `--set KEY=VALUE` changes them."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any


class TrainError(Exception):
    """A mistake that the user can mend: one line on stderr, exit code 2."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the transformer: a Llama with tied embeddings."""

    vocab_size: int = 3072
    hidden_size: int = 192
    layers: int = 8
    heads: int = 6
    intermediate_size: int = 512
    max_positions: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what a run computes, apart from its data and its length."""

    shape: Shape = field(default_factory=Shape)
    seed: int = 0
    corpus_scale: float = 1.0
    """Part of the generated documents and of the long texts that goes into the corpus."""
    batch_tokens: int = 131072
    """Positions of one step that go through the model; documents do not see each other."""
    lr: float = 5e-3
    optimizer: str = "muon"
    """`muon`: Muon for the matrices, AdamW for embeddings and norms. `adamw`: AdamW for all."""
    weight_decay: float = 0.05
    warmup_steps: int = 300
    hold: float = 0.3
    """Part of the run at the full learning rate; then it falls in a line to zero."""
    clip: float = 1.0
    t_min: float = 0.01
    """Least masking rate: bounds the weight 1/t of a masked token."""
    prefix_share: float = 0.35
    """Part of the responses of which a random prefix is left clean, as late in a decoding."""
    fill_weight: float = 0.25
    """Loss weight of an end-of-text token after the first one, in a diffusion row."""
    problem_weight: float = 3.0
    """Loss weight of word problems and drills against text, whose loss is larger by nature."""
    question_weight: float = 0.2
    """Loss weight of a prompt's tokens where the next token is predicted (ar, bd)."""
    bd_size: int = 16
    """Positions a block of the block-diffusion model: a power of two up to 128."""
    unroll: int = 6
    """Most tokens that a joint sampler writes in training before the full model is asked again;
    how many is drawn from 1 to this for each step."""
    joint_rows: int = 160
    """Documents a step of a joint sampler, each up to `joint_length` positions."""
    joint_length: int = 160
    candidates: int = 32
    """Masked positions of a document among which a joint sampler writes and is judged."""
    teacher_share: float = 0.3
    """Part of a joint sampler's rows whose tokens come from the data, not from its own draws."""
    stray_share: float = 0.5
    """Part of its rows whose positions are drawn in proportion to their entropy, since a token that
    was certain beforehand teaches nothing; in the others the least entropy is next, as decoded."""
    hidden_weight: float = 4.0
    """Weight of its distance to the full model's hidden states, against the divergence."""
    log_every: int = 100
    save_minutes: float = 2.0
    validations: int = 4
    """How often a run is validated, at equal distances; the last time at its end. 0: never."""
    validation_problems: int = 500
    compile: str = "auto"
    """`auto`: torch.compile on a GPU; `yes`, `no`."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("optimizer", ("muon", "adamw")),
            ("compile", ("auto", "yes", "no")),
        ):
            if getattr(self, name) not in allowed:
                raise TrainError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.shape.hidden_size % (2 * self.shape.heads):
            raise TrainError("hidden_size must be an even multiple of heads")
        if self.bd_size not in (2, 4, 8, 16, 32, 64, 128):
            raise TrainError(f"bd_size must be a power of two up to 128, got {self.bd_size}")
        positive = ("batch_tokens", "lr", "log_every", "t_min", "clip", "corpus_scale", "unroll")
        for name in (*positive, "joint_rows", "joint_length", "candidates"):
            if getattr(self, name) <= 0:
                raise TrainError(f"{name} must be positive, got {getattr(self, name)}")

    def asdict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def with_settings(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """Applies `KEY=VALUE` strings; keys are the fields of `TrainConfig` and `Shape`.

    Raises:
        TrainError: on an unknown key (naming the nearest one) or a value of another type.
    """
    outer = {f.name for f in dataclasses.fields(TrainConfig)} - {"shape"}
    inner = {f.name for f in dataclasses.fields(Shape)}
    changes: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise TrainError(f"--set wants KEY=VALUE, got {setting!r}")
        if key not in outer | inner:
            near = difflib.get_close_matches(key, sorted(outer | inner), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TrainError(f"--set: unknown key {key!r}{hint}")
        target, owner = (changes, config) if key in outer else (shape, config.shape)
        kind = type(getattr(owner, key))
        try:
            target[key] = kind(text)
        except ValueError:
            raise TrainError(f"--set {key} wants {kind.__name__}, got {text!r}") from None
    return dataclasses.replace(config, shape=dataclasses.replace(config.shape, **shape), **changes)
