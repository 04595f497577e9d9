"""What is measured: a model, a recipe and the prompts that it decodes."""

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from decoders import (
    Decoder,
    Model,
    Request,
    find_checkpoint,
    load_model,
    load_tokenizer,
)
from decoders.likelihood import ChoiceRequest, encode_pair
from decoders.models.shapes import random_model, write_checkpoint
from decoders.models.stated import PREFIX, find_shape
from decoders.ranks import Ranks
from evaluators import ChoicePrompt, ChoiceTask, Prompt, get_task
from jobs.bench.memory import HostMemory
from jobs.bench.rates import synchronize
from jobs.errors import UserError

TOKENIZER = "tiny-mdlm"
"""Reads prompts for shapes, which have no tokenizer."""

_TASK = re.compile(r"([a-z0-9-]+?)(?:-(\d+)shot)?")
_LENGTHS = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Loaded:
    """A model and what reads text for it."""

    source: str
    model: Model
    tokenizer: Any
    load_s: float = 0.0
    host_bytes: int = 0
    """Most of the host's own memory that loading took; pages of the files are not in it."""


class Ask(NamedTuple):
    """One prompt."""

    ids: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...] = ()
    """What may stand after it, for the recipe `likelihood`."""


@dataclass(frozen=True)
class Prompts:
    """Which prompts to decode: a task's, or random tokens of given lengths."""

    task: str | None = None
    shots: int = 0
    low: int = 0
    high: int = 0

    def describe(self) -> str:
        if self.task is not None:
            return f"{self.task}, {self.shots}-shot"
        return f"random, {self.low} to {self.high} tokens"


def load(
    source: str,
    device: str,
    dtype: str,
    checkpoint: Path | None = None,
    tokens: Path | None = None,
    ranks: Ranks | None = None,
) -> Loaded:
    """A checkpoint, or a shape with random weights.

    Args:
        checkpoint: where a shape is written first, to be loaded from there.
        tokens: folder of the tokenizer that a shape reads with.
        ranks: what the model is split over.

    Raises:
        DecoderError: there is no such model, or it cannot be loaded.
        UserError: the shape cannot be written, or the tokenizer not be read.
    """
    if source.startswith(PREFIX) and checkpoint is not None:
        write_shape(source, checkpoint, device, dtype, tokens)
        source = str(checkpoint)
    began = time.perf_counter()
    with HostMemory() as memory:
        is_shape = source.startswith(PREFIX)
        if ranks is not None:
            model = ranks.load(source, dtype)
        elif is_shape:
            model = random_model(find_shape(source), device, dtype)
        else:
            model = load_model(find_checkpoint(source), device, dtype)
        tokenizer = _tokenizer(tokens) if is_shape else load_tokenizer(find_checkpoint(source))
        synchronize(model.device)
    return Loaded(source, model, tokenizer, time.perf_counter() - began, memory.added_bytes)


def _tokenizer(folder: Path | None) -> Any:
    if folder is None:
        return load_tokenizer(find_checkpoint(TOKENIZER))
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--tokenizer {folder}: cannot be loaded: {error}") from error


def write_shape(
    source: str, folder: Path, device: str, dtype: str, tokens: Path | None = None
) -> None:
    """Writes a shape's random model as a checkpoint, unless there is one.

    Raises:
        UserError: it cannot be written there.
    """
    if (folder / "config.json").exists():
        return
    tokens = tokens or find_checkpoint(TOKENIZER).folder
    try:
        write_checkpoint(find_shape(source), folder, tokens, device, dtype)
    except OSError as error:
        raise UserError(f"--checkpoint {folder}: {error.strerror or error}") from error


def parse_prompts(task: str | None, length: str | None) -> Prompts:
    """The options `--prompts TASK[-Nshot]` and `--prompt-length N[-M]`.

    Raises:
        UserError: they are no such thing, or both are given.
    """
    if task is not None and length is not None:
        raise UserError("give --prompts or --prompt-length, not both")
    if length is not None:
        match = _LENGTHS.fullmatch(length)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high:
            raise UserError(
                f"--prompt-length wants N or LOW-HIGH, at least 1, got {length!r}; e.g. 128-1024"
            )
        return Prompts(low=low, high=high)
    match = _TASK.fullmatch(task or "gsm8k-0shot")
    if match is None:
        raise UserError(f"--prompts wants TASK or TASK-Nshot, got {task!r}; e.g. gsm8k-5shot")
    kind = get_task(match[1])
    shots = int(match[2] or 0)
    if shots > kind.max_fewshot:
        raise UserError(f"--prompts: {match[1]} has at most {kind.max_fewshot} shots, got {shots}")
    return Prompts(match[1], shots)


def prompt_ids(
    wanted: Prompts, loaded: Loaded, decoders: Sequence[Decoder], count: int, seed: int
) -> list[Ask]:
    """`count` prompts that fit the model with every decoder's canvas, in a fixed random order; a
    task with fewer begins anew.

    Raises:
        UserError: none fits, or a recipe wants choices and the task has none.
    """
    model, chooser = loaded.model, random.Random(seed)

    def fits(length: int) -> bool:
        return all(d.span(length, model.block) <= model.max_length for d in decoders)

    if wanted.task is None:
        if not fits(wanted.high):
            raise UserError(
                f"--prompt-length {wanted.high} and the canvas do not fit the {model.max_length} "
                f"positions of {model.name}"
            )
        special = {model.mask_id, model.eos_id, model.eot_id, *model.stop_ids}
        usual = [token for token in range(min(model.vocabulary, 4096)) if token not in special]
        lengths = [chooser.randint(wanted.low, wanted.high) for _ in range(count)]
        some = tuple((token,) for token in usual[:4])
        return [Ask(tuple(chooser.choices(usual, k=length)), some) for length in lengths]
    task = get_task(wanted.task)
    if any(d.engine == "likelihood" for d in decoders) and not isinstance(task, ChoiceTask):
        raise UserError(f"--prompts: {wanted.task} has no choices; recipe likelihood scores some")
    samples = task.load(None)
    prompts = task.prompts(samples, wanted.shots, None)
    order = list(range(len(prompts)))
    chooser.shuffle(order)
    found: list[Ask] = []
    for index in order:
        ask = _read(loaded.tokenizer, prompts[index])
        tokens = set(ask.ids).union(*ask.choices)
        room = len(ask.ids) + max(map(len, ask.choices), default=0)
        if fits(room) and max(tokens) < model.vocabulary and model.mask_id not in tokens:
            found.append(ask)
        if len(found) == count:
            return found
    if not found:
        raise UserError(
            f"--prompts: no prompt of {wanted.describe()} fits the {model.max_length} positions of "
            f"{model.name} with the canvas; choose fewer shots or a shorter gen_length"
        )
    return [found[n % len(found)] for n in range(count)]


def task_rows(wanted: Prompts) -> int | None:
    """Samples of the whole task, if there is one."""
    return None if wanted.task is None else len(get_task(wanted.task).load(None))


def _read(tokenizer: Any, prompt: Prompt) -> Ask:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        return ids

    if not isinstance(prompt, ChoicePrompt):
        return Ask(tuple(encode(prompt.text)))
    pairs = [encode_pair(encode, prompt.text, choice) for choice in prompt.choices]
    return Ask(pairs[0][0], tuple(answer for _, answer in pairs))


def requests(asks: Sequence[Ask], decoder: Decoder) -> list[Request]:
    """One request a prompt."""
    if decoder.engine == "likelihood":
        return [ChoiceRequest(str(n), ids, decoder, choices=c) for n, (ids, c) in enumerate(asks)]
    return [Request(str(n), ask.ids, decoder) for n, ask in enumerate(asks)]
