"""Nothing is lost: the output distribution by enumeration of every choice that drafting and
verification can take, with the engine's own rules."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from decoders.selection import share_of
from decoders.verification import (
    Tolerance,
    acceptance,
    drawn_from,
    fixed_now,
    following,
    leading,
    residual,
    tempered,
    tolerated,
)

Text = tuple[int, ...]
WORDS = 3
"""Tokens of the enumerated toy world."""


class Drafted(NamedTuple):
    """One way that drafting can go."""

    weight: float
    tokens: Text
    q_GV: Tensor


Drafting = Callable[[Text, int], Iterator[Drafted]]


def toy(seed: int, *key: object) -> Tensor:
    """A distribution over the toy's tokens, the same whenever it is asked for."""
    generator = torch.Generator().manual_seed(hash((seed, *key)) % 2**40)
    logits = 1.5 * torch.randn(WORDS, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def target(seed: int) -> Callable[[Text], Tensor]:
    return cache(lambda text: toy(seed, text))


def causal_drafting(seed: int) -> Drafting:
    """A causal drafter: every sequence of draws."""

    def drafting(text: Text, count: int) -> Iterator[Drafted]:
        for tokens in itertools.product(range(WORDS), repeat=count):
            q = [toy(seed, text + tokens[:n]) for n in range(count)]
            weight = float(
                torch.stack([q[n][t] for n, t in enumerate(tokens)] or [torch.ones(())]).prod()
            )
            yield Drafted(
                weight, tokens, torch.stack(q) if q else torch.zeros(0, WORDS, dtype=torch.float64)
            )

    return drafting


def diffusion_drafting(seed: int, steps: int, order: str, biased: bool = False) -> Drafting:
    """A diffusion drafter: every draw and, for the random order, every ranking of each step, with
    the engine's own rules of what is fixed and what is drawn from what."""

    def drafting(text: Text, count: int) -> Iterator[Drafted]:
        if not count:
            yield Drafted(1.0, (), torch.zeros(0, WORDS, dtype=torch.float64))
            return
        taken = min(steps, count)
        empty = (-1,) * count
        # Canvas and, per position, what its token was drawn from -> weight.
        states: dict[tuple[Text, tuple[Text, ...]], float] = {(empty, (empty,) * count): 1.0}
        for step in range(taken - 1):
            fixing = torch.tensor([share_of(count, taken, step)])
            later: dict[tuple[Text, tuple[Text, ...]], float] = defaultdict(float)
            for (canvas, origin), weight in states.items():
                chance_GV = chances(seed, text, canvas)
                ways = [
                    (drawn, ranked, odds * part)
                    for drawn, odds in draws(chance_GV, canvas)
                    for ranked, part in rankings(chance_GV, drawn, order)
                ]
                open_BG = (torch.tensor([canvas]) < 0).expand(len(ways), -1)
                ranked_BG = torch.stack([ranked for _, ranked, _ in ways])
                now_BG = fixed_now(open_BG, ranked_BG, fixing).tolist()
                for (drawn, _, odds), now in zip(ways, now_BG, strict=True):
                    fresh = tuple(d if f else c for c, d, f in zip(canvas, drawn, now, strict=True))
                    source = tuple(canvas if f else o for o, f in zip(origin, now, strict=True))
                    later[fresh, source] += weight * odds
            states = later
        for (canvas, origin), weight in states.items():
            chance_GV = chances(seed, text, canvas)
            early_G = torch.tensor(canvas) >= 0
            for drawn, odds in draws(chance_GV, canvas):
                if biased:
                    past = [chances(seed, text, origin[n])[n] for n in range(count)]
                    q_GV = torch.where(early_G[:, None], torch.stack(past), chance_GV)
                else:
                    q_GV = drawn_from(chance_GV[None], torch.tensor([drawn]), early_G[None])[0]
                yield Drafted(weight * odds, drawn, q_GV)

    return drafting


@cache
def chances(seed: int, text: Text, canvas: Text) -> Tensor:
    """What a denoising step draws each position from, [G, V]."""
    return torch.stack([toy(seed, text, canvas, n) for n in range(len(canvas))])


def draws(chance_GV: Tensor, canvas: Text) -> Iterator[tuple[Text, float]]:
    """Every draw of the masked positions, with its probability."""
    options = [range(WORDS) if token < 0 else (token,) for token in canvas]
    table = chance_GV.tolist()
    for drawn in itertools.product(*options):
        odds = 1.0
        for n, token in enumerate(canvas):
            odds *= table[n][drawn[n]] if token < 0 else 1.0
        yield drawn, odds


def rankings(chance_GV: Tensor, drawn: Text, order: str) -> Iterator[tuple[Tensor, float]]:
    if order == "confidence":
        yield chance_GV.gather(1, torch.tensor(drawn)[:, None])[:, 0], 1.0
        return
    every = list(itertools.permutations(range(len(drawn))))
    for places in every:
        yield torch.tensor(places, dtype=torch.float64), 1 / len(every)


def written(
    p: Callable[[Text], Tensor], drafting: Drafting, gamma: int, length: int
) -> dict[Text, float]:
    """The distribution of whole texts of `length` tokens, over every draft, every verdict and
    every token drawn after it, round by round."""

    @cache
    def rounds(text: Text) -> dict[Text, float]:
        """What one round adds to a text."""
        count = min(gamma, length - len(text) - 1)
        ways = list(drafting(text, count))
        drafts_BG = torch.tensor([way.tokens for way in ways], dtype=torch.int64).reshape(
            len(ways), count
        )
        q_BGV = torch.stack([way.q_GV for way in ways])
        p_BWV = torch.stack(
            [torch.stack([p(text + way.tokens[:n]) for n in range(count + 1)]) for way in ways]
        )
        weight_B = torch.tensor([way.weight for way in ways], dtype=torch.float64)
        chance_BG = acceptance(p_BWV[:, :-1], q_BGV, drafts_BG)
        added: dict[Text, float] = defaultdict(float)
        for verdicts in itertools.product([True, False], repeat=count):
            verdict_BG = torch.tensor(verdicts, dtype=torch.bool).expand(len(ways), count)
            odds_BG = torch.where(verdict_BG, chance_BG, 1 - chance_BG)
            kept_B = leading(verdict_BG)
            next_BV = following(p_BWV, q_BGV, kept_B)
            odds_BV = (weight_B * odds_BG.prod(-1))[:, None] * next_BV
            for way, kept, odds in zip(ways, kept_B.tolist(), odds_BV.tolist(), strict=True):
                for token, part in enumerate(odds):
                    added[(*way.tokens[:kept], token)] += part
        return dict(added)

    found: dict[Text, float] = defaultdict(float)
    frontier: dict[Text, float] = {(): 1.0}
    while frontier:
        text = min(frontier, key=len)
        weight = frontier.pop(text)
        if len(text) == length:
            found[text] += weight
            continue
        for more, part in rounds(text).items():
            frontier[text + more] = frontier.get(text + more, 0.0) + weight * part
    return dict(found)


def alone(p: Callable[[Text], Tensor], length: int) -> dict[Text, float]:
    """The target's own distribution of texts."""
    found = {(): 1.0}
    for _ in range(length):
        found = {
            (*text, token): weight * float(chance)
            for text, weight in found.items()
            for token, chance in enumerate(p(text))
        }
    return found


def distance(one: dict[Text, float], other: dict[Text, float]) -> float:
    """Total variation."""
    return sum(abs(one.get(t, 0) - other.get(t, 0)) for t in one.keys() | other.keys()) / 2


@pytest.mark.parametrize("gamma", [1, 2, 3, 4])
def test_speculative_is_exact(gamma: int) -> None:
    for seed in range(3):
        p = target(seed)
        texts = written(p, causal_drafting(seed + 100), gamma, gamma + 2)
        assert distance(texts, alone(p, gamma + 2)) < 1e-12


@pytest.mark.parametrize("gamma", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_specdiff_is_exact(gamma: int, steps: int, order: str) -> None:
    p = target(gamma)
    drafting = diffusion_drafting(100 + steps, min(steps, gamma), order)
    texts = written(p, drafting, gamma, gamma + 1)
    assert distance(texts, alone(p, gamma + 1)) < 1e-12


def test_drafts_verified_against_what_they_were_drawn_from_are_biased() -> None:
    """The tempting rule fails, so the enumeration can tell."""
    far = []
    for seed in range(5):
        p = target(seed)
        expected = alone(p, 3)
        exact = written(p, diffusion_drafting(seed + 100, 2, "confidence"), 2, 3)
        biased = written(p, diffusion_drafting(seed + 100, 2, "confidence", biased=True), 2, 3)
        assert distance(exact, expected) < 1e-12
        far.append(distance(biased, expected))
    assert max(far) > 0.02, far


def test_a_greedy_verdict_is_the_general_one_at_temperature_0() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BWV = torch.randn(64, 4, 5, generator=generator)
    drafts_BG = torch.randint(0, 5, (64, 3), generator=generator)
    q_BGV = torch.rand(64, 3, 5, generator=generator, dtype=torch.float64).softmax(-1)
    p_BWV = tempered(logits_BWV, [0.0] * 64)
    chance_BG = acceptance(p_BWV[:, :-1], q_BGV, drafts_BG)
    best_BW = logits_BWV.argmax(-1)
    assert ((chance_BG == 1) == (drafts_BG == best_BW[:, :-1])).all()
    assert ((chance_BG == 0) == (drafts_BG != best_BW[:, :-1])).all()
    kept_B = leading(chance_BG == 1)
    next_BV = following(p_BWV, q_BGV, kept_B)
    assert (next_BV.argmax(-1) == best_BW.gather(1, kept_B[:, None])[:, 0]).all()
    torch.testing.assert_close(next_BV.amax(-1), torch.ones(64, dtype=torch.float64))


def test_where_p_and_q_agree_the_residual_is_p() -> None:
    p_BV = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert residual(p_BV, p_BV).equal(p_BV)


def test_what_a_guider_lets_pass() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 4, 4)
    drafts = torch.arange(4)[None]
    for tolerance, passing in [
        (Tolerance(), [True, False, False, False]),
        (Tolerance(top_k=3), [True, True, True, False]),
        (Tolerance(top_k=3, relative=0.5), [True, True, False, False]),
        (Tolerance(top_k=2**31, threshold=0.1), [True, True, True, False]),
        (Tolerance(top_k=2**31, threshold=0.6), [False] * 4),
    ]:
        passed, chance = tolerated(logits, drafts, [tolerance])
        assert passed.tolist() == [passing]
        torch.testing.assert_close(chance, torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
