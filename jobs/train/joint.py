"""Trains a joint sampler: one layer that follows a frozen masked-diffusion model from token to
token (ADJUST, arXiv 2509.22738; the module is `decoders.joint`).

A document's response is masked at a random rate and the frozen model reads it once. Then up to
`unroll` tokens are written, one at a time, as decoding writes them, and after each the sampler
makes the next hidden states out of its last ones. It learns what the frozen model says of the same
canvas: the divergence of the distributions at masked positions, and the distance of the states.

Legend: B rows, L positions, K candidates of a row, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from decoders import Model, ModelError, find_checkpoint, load_model
from decoders.joint import JointSampler, build_sampler, load_sampler, sampler_config
from decoders.models.base import attention_bias
from jobs.train.batches import Mixer
from jobs.train.config import TrainConfig, TrainError
from jobs.train.corpus import Corpus
from jobs.train.data import Problem
from jobs.train.joint_score import decoded, divergences
from jobs.train.objectives import Diffusion
from jobs.train.publish import write_weights
from jobs.train.tasks import Loss, compiles
from jobs.train.tokenizer import EOS_ID, MASK_ID

GREEDY_SHARE = 0.5
"""Part of the rows that write the likeliest token; the others draw it."""
LEFT_SHARE = 0.5
"""Part of the rows whose candidates are their first masked positions, as in block-wise decoding;
of the others they are any."""


def base_model(source: str, device: torch.device) -> Model:
    """The frozen model, in float32.

    Raises:
        TrainError: there is none, or it is no masked-diffusion model that reads whole canvases.
    """
    try:
        model = load_model(find_checkpoint(source), str(device), "float32")
    except ModelError as error:
        raise TrainError(f"--base: {error}") from None
    if model.visibility != "bidirectional" or model.mask_id != MASK_ID:
        raise TrainError(f"--base {source} is no masked-diffusion model with mask id {MASK_ID}")
    return model


class Canvas(NamedTuple):
    """What a step begins with."""

    truth_BL: Tensor
    tokens_BL: Tensor
    """The truth with masks."""
    real_BL: Tensor
    """Whether a position belongs to the row at all."""
    at_BK: Tensor
    """The candidates' positions."""
    masked_BK: Tensor
    """Whether a candidate is masked; rows with few masks have fewer than K."""
    stray_B1: Tensor
    """Whether the row's positions are drawn, and not those of the least entropy."""
    greedy_B1: Tensor
    """Whether the likeliest token is written, and not a drawn one."""
    taught_B1: Tensor
    """Whether the document's own tokens are written instead."""


class Written(NamedTuple):
    """A write of one token a row."""

    tokens_BL: Tensor
    masked_BK: Tensor


def _mean(value_BK: Tensor, state: Written) -> Tensor:
    """Over the candidates that are masked still."""
    return (value_BK * state.masked_BK).sum() / state.masked_BK.sum().clamp(min=1)


class JointTask:
    """The sampler in training, beside its frozen base."""

    parts = ("divergence", "stale", "distance")

    def __init__(
        self,
        config: TrainConfig,
        base: Model,
        corpus: Corpus,
        tokenizer: Tokenizer,
        problems: Sequence[Problem],
        device: torch.device,
        init: str | None = None,
    ) -> None:
        if base.vocabulary != config.shape.vocab_size:
            raise TrainError(
                f"the corpus has {config.shape.vocab_size} token ids, {base.name} has "
                f"{base.vocabulary}"
            )
        self.config, self.base, self.device = config, base, device
        self.tokenizer, self.problems = tokenizer, problems[: config.validation_problems]
        self.layout = Diffusion(config).layout
        self.mixer = Mixer(corpus, self.layout, config.batch_tokens, config.seed)
        self.tokens = torch.from_numpy(corpus.tokens.astype(np.int16)).to(device)
        stock = base.network.config
        self.published = sampler_config(base, stock.num_attention_heads, stock.intermediate_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: JointSampler = build_sampler(self.published, base).to(device)
        if init is not None:
            try:
                self.model.load_state_dict(load_sampler(init, base).state_dict())
            except (ModelError, RuntimeError) as error:
                raise TrainError(f"--init {init} does not fit: {error}") from None
        self.positions = config.joint_rows * config.joint_length
        self.noise = torch.Generator(device)
        self.full: Callable[[Tensor, Tensor], Tensor] = base.hidden
        self.next: Callable[..., Tensor] = self.model
        if compiles(config, device):
            torch.set_float32_matmul_precision("high")
            self.full = torch.compile(base.hidden, dynamic=False)
            self.next = torch.compile(self.model, dynamic=False)

    def canvas(self, step: int) -> Canvas:
        """Draws the documents of a step and masks them; longer ones than a row are left out."""
        config, device, noise = self.config, self.device, self.noise
        rows = np.stack(self.mixer.rows(step))
        rows = rows[:, rows[4] <= config.joint_length]
        if not rows.shape[1]:
            raise TrainError(f"no document fits joint_length={config.joint_length}")
        table = torch.from_numpy(rows[:, np.arange(config.joint_rows) % rows.shape[1]]).to(device)
        start, length, _, clean, span, _ = table[:, :, None]
        place_L = torch.arange(config.joint_length, device=device)
        source_BL = (start + place_L).clamp(max=len(self.tokens) - 1)
        truth_BL = torch.where(place_L < length, self.tokens[source_BL].long(), EOS_ID)
        real_BL = place_L < span

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=noise, device=device)

        count = len(truth_BL)
        rate_B1 = (torch.arange(count, device=device)[:, None] + uniform(1)) / count
        masked_BL = real_BL & (place_L >= clean) & (uniform(*truth_BL.shape) < rate_B1)
        rank_BL = torch.where(
            uniform(count, 1) < LEFT_SHARE, place_L / -config.joint_length, uniform(*real_BL.shape)
        )
        rank_BL = torch.where(masked_BL, rank_BL, -2.0)
        at_BK = rank_BL.topk(min(config.candidates, config.joint_length), dim=1).indices
        tokens_BL = torch.where(masked_BL, MASK_ID, truth_BL)
        return Canvas(
            truth_BL,
            tokens_BL,
            real_BL,
            at_BK,
            masked_BL.gather(1, at_BK),
            stray_B1=uniform(count, 1) < config.stray_share,
            greedy_B1=uniform(count, 1) < GREEDY_SHARE,
            taught_B1=uniform(count, 1) < config.teacher_share,
        )

    def write(self, canvas: Canvas, before: Written, logits_BKV: Tensor) -> Written:
        """Writes one masked candidate of each row that still has one, by the given logits."""
        logits_BKV = logits_BKV.detach().clone()
        logits_BKV[..., MASK_ID] = float("-inf")
        log_BKV = logits_BKV.log_softmax(-1)
        entropy_BK = -(log_BKV.exp() * log_BKV.clamp(min=-1e4)).sum(-1)
        # The first of exponential clocks of these rates: a draw in proportion to the entropy.
        race_BK = self._log_uniform(entropy_BK.shape) / entropy_BK.clamp(min=1e-4)
        order_BK = torch.where(canvas.stray_B1, race_BK, -entropy_BK)
        pick_B1 = torch.where(before.masked_BK, order_BK, -torch.inf).argmax(1, keepdim=True)
        log_BV = log_BKV.gather(1, pick_B1[..., None].expand(-1, -1, log_BKV.shape[-1]))[:, 0]
        drawn_BV = log_BV - (-self._log_uniform(log_BV.shape)).log()
        order_BV = torch.where(canvas.greedy_B1, log_BV, drawn_BV)
        place_B1 = canvas.at_BK.gather(1, pick_B1)
        token_B1 = torch.where(
            canvas.taught_B1, canvas.truth_BL.gather(1, place_B1), order_BV.argmax(1, keepdim=True)
        )
        any_B1 = before.masked_BK.gather(1, pick_B1)
        token_B1 = torch.where(any_B1, token_B1, before.tokens_BL.gather(1, place_B1))
        return Written(
            before.tokens_BL.scatter(1, place_B1, token_B1),
            before.masked_BK.scatter(1, pick_B1, False),
        )

    def _log_uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.noise, device=self.device).clamp(min=1e-7).log()

    def _logits(self, hidden_BLD: Tensor, at_BK: Tensor) -> Tensor:
        index = at_BK[..., None].expand(-1, -1, hidden_BLD.shape[-1])
        # In bfloat16 the rounding of large logits would hide what a single token changes.
        with torch.autocast(self.device.type, enabled=False):
            return self.base.head(hidden_BLD.float().gather(1, index))

    def loss(self, step: int) -> Loss:
        config = self.config
        self.noise.manual_seed(config.seed * 1_000_003 + step)
        unroll = int(np.random.default_rng([config.seed, 7, step]).integers(1, config.unroll + 1))
        canvas = self.canvas(step)
        bias = attention_bias(canvas.real_BL, torch.float32)
        place_1L = torch.arange(config.joint_length, device=self.device)[None]
        sums = torch.zeros(3, device=self.device)
        mass = torch.zeros(3, device=self.device)
        total = torch.zeros((), device=self.device)
        real = canvas.real_BL.sum()
        cuda = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=cuda):
            with torch.no_grad():
                hidden_BLD = self.full(canvas.tokens_BL, bias)
                logits_BKV = self._logits(hidden_BLD, canvas.at_BK)
            state = Written(canvas.tokens_BL, canvas.masked_BK)
            stale_BKV = logits_BKV.log_softmax(-1)
            for _ in range(unroll):
                state = self.write(canvas, state, logits_BKV)
                with torch.no_grad():
                    target_BLD = self.full(state.tokens_BL, bias)
                    goal_BKV = self._logits(target_BLD, canvas.at_BK).log_softmax(-1)
                    stale = _mean((goal_BKV.exp() * (goal_BKV - stale_BKV)).sum(-1), state)
                with torch.autocast(self.device.type, enabled=False):
                    hidden_BLD = self.next(state.tokens_BL, hidden_BLD.float(), bias, place_1L)
                logits_BKV = self._logits(hidden_BLD, canvas.at_BK)
                apart_BK = (goal_BKV.exp() * (goal_BKV - logits_BKV.log_softmax(-1))).sum(-1)
                apart = _mean(apart_BK, state)
                far_BL = F.smooth_l1_loss(hidden_BLD, target_BLD.float(), reduction="none").mean(-1)
                far = (far_BL * canvas.real_BL).sum() / real
                total = total + (apart + config.hidden_weight * far) / unroll
                sums = sums + torch.stack([apart.detach(), stale, far.detach()])
                mass = mass + 1.0
        return Loss(total, sums, mass)

    def validate(self, last: bool) -> dict[str, Any]:
        if not self.problems:
            return {}
        encoded = [
            (self._ids(problem.prompt), self._ids(problem.response)) for problem in self.problems
        ]
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(self.device.type, enabled=False):
            found: dict[str, Any] = {"apart": divergences(self.base, self.model, encoded)}
            if last:
                found["exact_match"] = decoded(self.base, self.model, self.tokenizer, self.problems)
        torch.set_float32_matmul_precision(precision)
        return found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def publish(self, folder: Path) -> None:
        """Writes the folder that `decoders.joint.load_sampler` loads."""
        write_weights(dict(self.model.named_parameters()), self.published, folder)
