"""From hidden states to what is written: logits, tokens, confidence, selection.

Legend: B rows, Q positions fed, W positions of the window, V vocabulary, D width, S slots.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from decoders.batch import Batch
from decoders.models.base import Model
from decoders.noise import CounterNoise, Noise
from decoders.peaks import Peaks
from decoders.sampling import (
    Credit,
    Sampler,
    categorical_confidence,
    categorical_scores,
    filtered,
    gumbel_scores,
    leader,
)
from decoders.schedule import Pass
from decoders.selection import Chance
from decoders.threads import side_by_side
from decoders.window import Window

RACED = 2**24
"""Numbers of a race that are held at once, in float64 and a few times over."""
HEAD_ROWS = 16
"""Positions whose logits a thread of its own pays for."""


@dataclass(frozen=True)
class Draws:
    """The noise of one pass, as the rules and samplers ask for it; a rule's `Context`."""

    noise: Noise
    batch: Batch
    window: Window
    wanted_BW: Tensor
    """Positions that a token is drawn for."""

    def uniform(self) -> Tensor:
        window = self.window
        return self.noise.uniform(*self._keys, window.positions_BW, window.masked_BW)

    def exponential(self) -> Tensor:
        window = self.window
        return self.noise.exponential(*self._keys, window.positions_BW, window.masked_BW)

    @property
    def _keys(self) -> tuple[Tensor, Tensor]:
        return self.batch.whole("seed"), self.batch.whole("step")

    def settle(self, row: int, scores_W: Tensor, count: int) -> Tensor:
        ask, size = self.batch.asks[row], len(scores_W)
        if ask.ranked_masks:
            places = (scores_W > -torch.inf).nonzero().flatten()
        else:
            low, high = ask.ranked or (ask.low, ask.high)
            places = torch.arange(low, high) - ask.low
        inside = (places >= 0) & (places < size)
        handed = torch.full(places.shape, -torch.inf, dtype=scores_W.dtype)
        handed[inside] = scores_W[places[inside]]
        taken = places[handed.topk(min(count, len(handed))).indices]
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[taken[(taken >= 0) & (taken < size)]] = True
        return chosen & (scores_W > -torch.inf)

    def races(self, vocabulary: int) -> Iterator[tuple[slice, Tensor]]:
        """Exponential variates [B, W, V'] of the tokens, in parts that are no larger than `RACED`
        numbers: float64 over a whole vocabulary would take gigabytes."""
        positions_BW = self.window.positions_BW
        if not isinstance(self.noise, CounterNoise):  # a reference's generator draws all at once
            whole = slice(0, vocabulary)
            yield whole, self.noise.race(*self._keys, positions_BW, vocabulary, self.wanted_BW)
            return
        size = max(1, RACED // positions_BW.numel())
        for low in range(0, vocabulary, size):
            part = range(low, min(low + size, vocabulary))
            drawn = self.noise.race_of(*self._keys, positions_BW, part)
            yield slice(part.start, part.stop), drawn


class Proposer:
    """Fills in a window: what each position would become and which are written.

    All rows of a window have one sampler and one rule.

    Args:
        model: whose head gives the logits.
        noise: the source of randomness.
        slots: that rows may belong to.
        fused: read the logits with the kernel of `decoders.kernels.head`.
    """

    def __init__(self, model: Model, noise: Noise, slots: int, fused: bool = False) -> None:
        self.model, self._noise, self._slots = model, noise, slots
        self.peaks = Peaks(fused)
        self._stops = torch.tensor(sorted(model.stop_ids), device=model.device)
        self._credit: Tensor | None = None

    @property
    def layout(self) -> int:
        """Changes when the memory that passes leave something in moves."""
        return 0 if self._credit is None else self._credit.data_ptr()

    def __call__(
        self,
        window: Window,
        batch: Batch,
        states_BQD: Tensor,
        blank_BQD: Tensor | None,
    ) -> None:
        """One selection from the states of the fed positions; `blank_BQD` are those of a masked
        prompt, where the pass is guided."""
        ask = batch.asks[0]
        amount_B, outside_B = batch.real("amount").float(), batch.whole("outside").float()
        if blank_BQD is None and self._masks_do(ask, states_BQD):
            self._propose_masks(window, batch, states_BQD)
            draws = Draws(self._noise, batch, window, window.masked_BW)
            window.commit_BW = ask.rule(window.confidence_BW, amount_B, outside_B, draws)
            return
        logits_BWV = self.logits(window.positions_BW, batch, states_BQD)
        if blank_BQD is not None:
            blank_BWV = self.logits(window.positions_BW, batch, blank_BQD)
            scale = batch.real("guidance").float() + 1
            guided_BWV = blank_BWV + scale.to(logits_BWV.dtype)[:, None, None] * (
                logits_BWV - blank_BWV
            )
            # Models that never choose the mask give it -inf in both, whose difference is nothing.
            logits_BWV = guided_BWV.where(blank_BWV > -torch.inf, -torch.inf)
        draws = Draws(self._noise, batch, window, window.masked_BW)
        if ask.sampler.credit is not None:
            logits_BWV = self._credited(ask.sampler.credit, window, batch, logits_BWV)
        eligible_BW = window.masked_BW & window.within_BW
        if isinstance(ask.rule, Chance):  # chosen before anything is drawn for them, as in Dream
            level_BW = torch.zeros(eligible_BW.shape, device=states_BQD.device)
            level_BW.masked_fill_(~eligible_BW, -torch.inf)
            window.commit_BW = ask.rule(level_BW, amount_B, outside_B, draws)
            draws = replace(draws, wanted_BW=window.commit_BW)
        tokens_BW, confidence_BW = self.propose(ask.sampler, logits_BWV, draws)
        window.chosen_BW = tokens_BW
        if ask.sampler.skip_mask:
            eligible_BW = eligible_BW & (tokens_BW != window.mask_id)
        window.confidence_BW = confidence_BW.masked_fill(~eligible_BW, -torch.inf)
        if not isinstance(ask.rule, Chance):
            window.commit_BW = ask.rule(window.confidence_BW, amount_B, outside_B, draws)
        if ask.edit is not None:
            window.edit_BW = (
                ~window.masked_BW
                & window.within_BW
                & (tokens_BW != window.tokens_BW)
                & (confidence_BW > ask.edit)
            )
        if ask.early is not None:
            self._commit_early(window, batch, logits_BWV)

    @staticmethod
    def _masks_do(ask: Pass, states_BQD: Tensor) -> bool:
        """Whether nothing is asked of a position but a mask's likeliest token and its confidence.
        On a CPU, where shapes are free, nothing else is computed then."""
        sampler = ask.sampler
        plain = not sampler.temperature and sampler.credit is None
        plain = plain and sampler.confidence in ("probability", "margin", "entropy")
        plain = plain and ask.edit is None and ask.early is None
        return plain and not isinstance(ask.rule, Chance) and states_BQD.device.type == "cpu"

    def _propose_masks(self, window: Window, batch: Batch, states_BQD: Tensor) -> None:
        """Tokens and confidences of the masks that may be written."""
        sampler, eligible_BW = batch.asks[0].sampler, window.masked_BW & window.within_BW
        row_N, place_N = eligible_BW.nonzero(as_tuple=True)
        if not batch.narrow:
            place_N = batch.fed_rows(window.positions_BW, self.model.shift)[row_N, place_N]
        states_ND = states_BQD[row_N, place_N]
        draws = Draws(self._noise, batch, window, window.masked_BW)

        def read(states_MD: Tensor) -> tuple[Tensor, Tensor]:
            return self.propose(sampler, self.model.head(states_MD)[None], draws)

        number = min(torch.get_num_threads(), len(states_ND) // HEAD_ROWS)
        parts = states_ND.chunk(max(1, number))
        tokens, confidence = zip(*side_by_side(read, parts), strict=True)
        tokens_1N, confidence_1N = torch.cat(tokens, 1), torch.cat(confidence, 1)
        if sampler.skip_mask:
            confidence_1N = confidence_1N.masked_fill(tokens_1N == window.mask_id, -torch.inf)
        confidence_BW = torch.full(eligible_BW.shape, -torch.inf, dtype=confidence_1N.dtype)
        window.chosen_BW = window.tokens_BW.masked_scatter(eligible_BW, tokens_1N)
        window.confidence_BW = confidence_BW.masked_scatter(eligible_BW, confidence_1N)

    def logits(
        self,
        positions_BW: Tensor,
        batch: Batch,
        states_BQD: Tensor,
        shift: int | None = None,
    ) -> Tensor:
        """Logits [B, W, V] that predict the positions, by the model's shift: the row before a
        position, or of the first fed position that row itself."""
        shift = self.model.shift if shift is None else shift
        if batch.narrow:
            return self.model.head(states_BQD)
        index_BW1 = batch.fed_rows(positions_BW, shift)[..., None]
        return self.model.head(states_BQD.gather(1, index_BW1.expand(-1, -1, states_BQD.shape[2])))

    def propose(self, sampler: Sampler, logits_BWV: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Each position's token and confidence, [B, W]. May write into `logits_BWV`."""
        if sampler.no_mask:
            logits_BWV[..., self.model.mask_id] = -torch.inf
        if sampler.style == "categorical":
            return self._categorical(sampler, logits_BWV, draws)
        if sampler.no_eos:
            logits_BWV[..., self.model.eos_id] = -torch.inf
        if sampler.temperature:
            tokens_BW = leader(
                (part.start, gumbel_scores(logits_BWV[..., part], sampler.temperature, race_BWV))
                for part, race_BWV in draws.races(logits_BWV.shape[-1])
            )
        elif sampler.confidence == "probability" and not sampler.eos_last:
            return self.peaks.best(logits_BWV, sampler.double)
        else:
            tokens_BW = self.peaks.tokens(logits_BWV)
        if sampler.eos_last:
            # As published: at temperature 0 EOS and EoT both leave the softmax, else only EoT.
            if not sampler.temperature:
                logits_BWV[..., self.model.eos_id] = -torch.inf
            if self.model.eot_id is not None:
                logits_BWV[..., self.model.eot_id] = -torch.inf
        if sampler.confidence == "random":
            return tokens_BW, draws.uniform()
        return tokens_BW, self.peaks.probability(logits_BWV, tokens_BW, sampler.double)

    def _categorical(
        self, sampler: Sampler, logits_BWV: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        if sampler.temperature:
            logits_BWV = logits_BWV / sampler.temperature
        logits_BWV = filtered(logits_BWV, sampler.top_p, sampler.top_k)
        if sampler.temperature:
            p_BWV = logits_BWV.softmax(-1)
            tokens_BW = leader(
                (part.start, categorical_scores(p_BWV[..., part], race_BWV))
                for part, race_BWV in draws.races(p_BWV.shape[-1])
            )
            confidence_BW = categorical_confidence(p_BWV, tokens_BW, sampler.confidence)
        else:
            tokens_BW, confidence_BW = self.peaks.categorical(logits_BWV, sampler.confidence)
        if sampler.confidence == "position":
            window = draws.window
            place_W = torch.arange(tokens_BW.shape[1], device=tokens_BW.device)
            masked_BW = window.masked_BW & window.within_BW
            last_B1 = torch.where(masked_BW, place_W, 0).amax(1, keepdim=True).clamp(min=1)
            confidence_BW = confidence_BW * (1 - place_W / last_B1)
        return tokens_BW, confidence_BW

    def _credited(self, credit: Credit, window: Window, batch: Batch, logits_BWV: Tensor) -> Tensor:
        """Adds what each token earned in the block's earlier steps. The sums lie by slot and place
        in the window, and begin anew with a block."""
        width, vocabulary = logits_BWV.shape[1:]
        if self._credit is None or self._credit.shape[1] < width:
            self._credit = torch.zeros(self._slots + 1, width, vocabulary, device=logits_BWV.device)
        slots_B = window.slots_B
        kept_B = torch.where(batch.whole("fresh") > 0, 0.0, credit.decay)
        sums_BWV = self._credit[slots_B, :width] * kept_B[:, None, None]
        best_BW, token_BW = logits_BWV.float().softmax(-1).max(-1)
        gain_BW = best_BW**credit.power * window.masked_BW
        sums_BWV.scatter_add_(2, token_BW[..., None], gain_BW[..., None])
        self._credit[slots_B, :width] = sums_BWV
        return logits_BWV + credit.weight * torch.log(sums_BWV + 1).to(logits_BWV.dtype)

    def _commit_early(self, window: Window, batch: Batch, logits_BWV: Tensor) -> None:
        """Prophet: where the mean gap over the region reaches the threshold, all masks of the view
        are written."""
        token_BW, gap_BW = self.peaks.gap(logits_BWV)
        place_BW = window.positions_BW
        low_B1, high_B1 = batch.whole("early_low")[:, None], batch.whole("early_high")[:, None]
        region_BW = (place_BW >= low_B1) & (place_BW < high_B1)
        region_BW = region_BW & (window.masked_BW | (batch.whole("early_masked") == 0)[:, None])
        stops_BW = torch.isin(token_BW, self._stops) & (batch.whole("early_skip") == 1)[:, None]
        telling_BW = region_BW & ~stops_BW
        region_BW = torch.where(telling_BW.any(1, keepdim=True), telling_BW, region_BW)
        gap_BW = gap_BW * region_BW
        window.gap_B = gap_BW.sum(1) / region_BW.sum(1).clamp(min=1)
        window.done_B = window.gap_B >= batch.real("early_threshold")
        window.commit_BW = torch.where(window.done_B[:, None], window.masked_BW, window.commit_BW)

    def joint(
        self,
        window: Window,
        batch: Batch,
        states_BQD: Tensor,
        advance: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> None:
        """ADJUST's draws: the surest mask is written, the sampler renews the states, and so on.

        Args:
            window: the whole canvas of each row.
            states_BQD: of a full pass; a shifted model's are moved here, so that row p predicts p.
            advance: (tokens of the window [B, W], states [B, Q, D]) to the states after them; None
                draws all from the first states.
        """
        sampler, tokens_BW = batch.asks[0].sampler, window.tokens_BW
        if self.model.shift:
            states_BQD = torch.cat([states_BQD[:, :1], states_BQD[:, :-1]], dim=1)
        count_B = batch.whole("draws")
        draws = Draws(self._noise, batch, window, window.masked_BW)
        most = max(ask.draws for ask in batch.asks)
        for n in range(most):
            if n == 0 or advance is not None:
                logits_BWV = self.logits(window.positions_BW, batch, states_BQD, shift=0)
                chosen_BW, confidence_BW = self.propose(sampler, logits_BWV, draws)
            masked_BW = tokens_BW == window.mask_id
            ranked_BW = confidence_BW.masked_fill(~(masked_BW & window.masked_BW), -torch.inf)
            best_B1 = ranked_BW.argmax(1, keepdim=True)
            here_BW = torch.zeros_like(masked_BW).scatter(1, best_B1, True)
            here_BW &= (n < count_B)[:, None] & window.masked_BW & masked_BW
            tokens_BW = torch.where(here_BW, chosen_BW, tokens_BW)
            window.confidence_BW = torch.where(here_BW, ranked_BW, window.confidence_BW)
            window.commit_BW = window.commit_BW | here_BW
            if advance is not None and n + 1 < most:
                states_BQD = advance(tokens_BW, states_BQD)
        window.chosen_BW = tokens_BW
