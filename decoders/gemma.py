"""DiffusionGemma through transformers' own `generate`, one sample a call.

Its draws come from torch's global generators, so that a sample gets them seeded by its sid and
shares a call with no other: its tokens depend on nothing but itself.

Legend: S steps, C positions of a canvas, W positions of all canvases, G positions that are kept,
V vocabulary, L positions so far.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoders.models.base import Model
from decoders.noise import seed_of
from decoders.recipes.diffusion_gemma import DiffusionGemma
from decoders.sampling import entropy, top2_gap
from decoders.slots import Timing
from decoders.types import DecoderError, Request, Result, Trace


class GemmaEngine:
    """Decodes the requests one after the other; more slots make it no faster."""

    def __init__(self, model: Model, slots: int) -> None:
        if slots < 1:
            raise DecoderError(f"slots must be at least 1, got {slots}")
        if model.family != "diffusion_gemma":
            raise DecoderError(
                f"{DiffusionGemma.recipe} runs only DiffusionGemma; {model.name} is {model.family}"
            )
        self.model, self.slots = model, slots
        self._canvas: int = model.network.config.canvas_length
        self._waiting: deque[tuple[Request, DiffusionGemma]] = deque()

    @property
    def load(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        """Queues a request.

        Raises:
            DecoderError: the recipe is another, the prompt is empty or holds an id outside the
                vocabulary, or it does not fit the context together with whole canvases.
        """
        decoder, prompt, model = request.decoder, request.prompt_ids, self.model
        if not isinstance(decoder, DiffusionGemma):
            raise DecoderError(f"{decoder.recipe} does not run on {model.name}")
        if not prompt:
            raise DecoderError("the prompt is empty")
        if min(prompt) < 0 or max(prompt) >= model.vocabulary:
            raise DecoderError(
                f"the prompt holds a token outside the {model.vocabulary} of the model"
            )
        length = decoder.span(len(prompt), self._canvas)
        if length > model.max_length:
            raise DecoderError(
                f"prompt and whole canvases take {len(prompt)} + {length - len(prompt)} = {length} "
                f"positions, {model.name} has {model.max_length}"
            )
        self._waiting.append((request, decoder))

    def step(self) -> list[Result]:
        """Decodes one waiting request to its end."""
        return [self._decode(*self._waiting.popleft())] if self._waiting else []

    def _decode(self, request: Request, decoder: DiffusionGemma) -> Result:
        began_s = time.perf_counter()
        device, network = self.model.device, self.model.network
        prompt_1L = torch.tensor([request.prompt_ids], device=device)
        options = self._options(request, decoder)
        watch = None
        if request.trace:
            watch = _Watch(decoder, self._canvas, self.model.vocabulary)
            options |= {"streamer": watch, "logits_processor": watch.processors()}
        with _counted(network) as fed, _own_draws(seed_of(request.sid), device):
            with Timing(device) as timing:
                written = network.generate(prompt_1L, **options)
            decode_s = timing.seconds()
        output = written.sequences[0, prompt_1L.shape[1] :][: decoder.gen_length].tolist()
        ends = (n for n, token in enumerate(output, 1) if token in self.model.stop_ids)
        output = output[: next(ends, len(output))]
        trace: Trace | None = None
        commit_steps: tuple[int, ...] = ()
        if watch is not None:
            trace, commit_steps = watch.assemble(len(output), self.model.eos_id)
        return Result(
            sid=request.sid,
            output_ids=tuple(output),
            nfe=len(fed.encoder) + len(fed.decoder),
            nfe_block=len(fed.decoder),
            token_forwards=sum(fed.encoder) + sum(fed.decoder),
            decode_s=decode_s,
            latency_s=time.perf_counter() - began_s,
            commit_steps=commit_steps,
            trace=trace,
        )

    def _options(self, request: Request, decoder: DiffusionGemma) -> dict[str, Any]:
        """What `generate` is told: everything that a checkpoint's generation_config.json could
        say otherwise."""
        early = decoder.confidence_threshold
        return {
            "max_new_tokens": decoder.gen_length,
            "max_length": len(request.prompt_ids) + decoder.gen_length,
            "max_denoising_steps": decoder.steps,
            "t_min": float(decoder.t_min),
            "t_max": float(decoder.t_max),
            "sampler_config": _bound(decoder),
            "stability_threshold": decoder.stability_threshold,
            "confidence_threshold": None if early is None else float(early),
            "eos_token_id": sorted(self.model.stop_ids),
            # What follows a stop token is cut off, so that its filling does not matter.
            "pad_token_id": self.model.eos_id,
            "cache_implementation": "dynamic",
            "return_dict_in_generate": True,
        }


def _stock() -> Any:
    """transformers' module; a version without it has loaded no model to come here with."""
    from transformers.models.diffusion_gemma import generation_diffusion_gemma

    return generation_diffusion_gemma


def _bound(decoder: DiffusionGemma) -> Any:
    return _stock().EntropyBoundSamplerConfig(entropy_bound=float(decoder.entropy_bound))


@contextmanager
def _own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators for one sample and leaves them as they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # `torch.manual_seed` would also seed GPUs that are not restored.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@dataclass
class _Fed:
    """Positions of each pass."""

    encoder: list[int] = field(default_factory=list)
    """One pass a canvas: the prompt, then the canvas before."""
    decoder: list[int] = field(default_factory=list)
    """One pass a denoising step: the canvas."""


@contextmanager
def _counted(network: Any) -> Iterator[_Fed]:
    """Counts what the network is fed."""
    fed = _Fed()

    def encoder(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        fed.encoder.append(kwargs["input_ids"].numel())

    def decoder(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        fed.decoder.append(kwargs["decoder_input_ids"].numel())

    with ExitStack() as stack:
        for part, hook in ((network.model.encoder, encoder), (network.model.decoder, decoder)):
            stack.enter_context(part.register_forward_pre_hook(hook, with_kwargs=True))
        yield fed


@dataclass
class _Step:
    """One denoising step of a canvas."""

    canvas: int
    accepted_C: Tensor
    """Positions that the sampler did not fill with random tokens anew."""
    surest_C: Tensor
    """What it ranked."""
    gap_C: Tensor
    entropy_C: Tensor
    draft_C: Tensor = field(init=False)
    """The likeliest tokens."""
    elapsed_s: float = field(init=False)


class _Watch:
    """Sees each step, as a logits processor and as a streamer, and changes nothing."""

    def __init__(self, decoder: DiffusionGemma, canvas: int, vocabulary: int) -> None:
        stock = _stock()
        self._length, self._canvas = decoder.gen_length, canvas
        self._temper = stock.LinearTemperatureScheduleLogitsProcessor(
            float(decoder.t_min), float(decoder.t_max), decoder.steps
        )
        self._sampler = stock.EntropyBoundSampler(
            _bound(decoder), canvas, vocabulary, decoder.steps
        )
        self._steps: list[_Step] = []
        self._puts = 0
        self._began_s = time.perf_counter()

    def processors(self) -> Any:
        """The list that `generate` puts its own temperatures behind."""
        from transformers import LogitsProcessorList

        return LogitsProcessorList([self])

    def __call__(self, input_ids: Tensor, scores: Tensor, cur_step: Tensor) -> Tensor:
        """Looks at a step's logits [1, C, V], with the sampler's rule at the step's temperature."""
        tempered_1CV = self._temper(input_ids, scores, cur_step=cur_step)
        blank_1C = torch.zeros(scores.shape[:2], dtype=torch.int64, device=scores.device)
        self._sampler.accept_canvas(blank_1C, blank_1C, tempered_1CV, cur_step)
        self._steps.append(
            _Step(
                canvas=self._puts - 1,
                accepted_C=self._sampler.accepted_token_mask[0].cpu(),
                surest_C=-entropy(tempered_1CV)[0].cpu(),
                gap_C=top2_gap(scores)[0].cpu(),
                entropy_C=entropy(scores)[0].cpu(),
            )
        )
        return scores

    def put_draft(self, value: Tensor) -> None:
        """The likeliest tokens after the step, [1, C]; on the host, so that its work is done."""
        self._steps[-1].draft_C = value[0]
        self._steps[-1].elapsed_s = time.perf_counter() - self._began_s

    def put(self, value: Tensor) -> None:
        """The prompt, then each finished canvas, all of which is now accepted."""
        self._puts += 1
        if self._steps:
            self._steps[-1].accepted_C.fill_(True)

    def end(self) -> None:
        """Nothing is left to see."""

    def assemble(self, written: int, filler: int) -> tuple[Trace, tuple[int, ...]]:
        """The trace, and of each of the `written` output positions the step that changed it last.

        There are no masks, so that the trace reads:
        tokens: finished canvases, this step's likeliest tokens, and `filler` where no canvas is.
        committed: where these tokens differ from the step before; all of a canvas at its first.
        confidence: minus the entropy by which the sampler ranks; NaN outside the canvas.
        masked_left: positions that the step did not accept and those of canvases to come; the last
        step of a canvas leaves none in it.
        top2_gap, entropy: means over the canvas, of the logits before the temperature.
        """
        size, steps, kept = self._canvas, len(self._steps), self._length
        width = -(-kept // size) * size
        tokens_SW = np.full((steps, width), filler, np.int32)
        committed_SW = np.zeros((steps, width), np.bool_)
        confidence_SW = np.full((steps, width), np.nan, np.float32)
        masked_left, gaps, entropies = [], [], []
        for n, step in enumerate(self._steps):
            low = step.canvas * size
            here, inside = slice(low, low + size), min(size, kept - low)
            draft_C = step.draft_C.numpy()
            new = n == 0 or self._steps[n - 1].canvas < step.canvas
            committed_SW[n, here] = True if new else draft_C != tokens_SW[n - 1, here]
            tokens_SW[n:, here] = draft_C
            confidence_SW[n, here] = step.surest_C.numpy()
            accepted = int(step.accepted_C[:inside].sum())
            masked_left.append(kept - low - accepted)
            gaps.append(float(step.gap_C[:inside].mean()))
            entropies.append(float(step.entropy_C[:inside].mean()))
        trace = Trace(
            committed=committed_SW[:, :kept],
            tokens=tokens_SW[:, :kept],
            confidence=confidence_SW[:, :kept],
            masked_left=np.array(masked_left, np.int32),
            top2_gap=np.array(gaps, np.float32),
            entropy=np.array(entropies, np.float32),
            elapsed_s=np.array([step.elapsed_s for step in self._steps]),
        )
        last = steps - committed_SW[::-1, :written].argmax(0)
        return trace, tuple(int(step) for step in last)
