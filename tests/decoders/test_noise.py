import torch

from decoders.noise import CounterNoise, seed_of
from decoders.sampling import categorical, gumbel_argmax, gumbel_scores, leader


def draw(seeds: list[int], step: int, places: list[int], vocabulary: int = 7) -> torch.Tensor:
    rows = len(seeds)
    race = CounterNoise().race(
        torch.tensor(seeds),
        torch.full((rows,), step),
        torch.tensor(places).expand(rows, -1),
        vocabulary,
    )
    return (-race).exp()


def test_a_draw_belongs_to_seed_step_and_position_alone() -> None:
    both = draw([3, 5], 2, [10, 11, 12])
    assert torch.equal(both[1:], draw([5], 2, [10, 11, 12]))
    assert torch.equal(both[:, 1:], draw([3, 5], 2, [11, 12]))
    assert not torch.equal(both, draw([3, 5], 3, [10, 11, 12]))
    assert seed_of("a") != seed_of("b")


def test_draws_are_uniform_and_uncorrelated() -> None:
    drawn = draw(list(range(40)), 1, list(range(50)), 50).flatten()
    assert drawn.min() > 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    expected = drawn.numel() / 100
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 55 < chi_square < 155  # 99 degrees of freedom: both ends are beyond 1 in 1,000
    pairs = torch.stack([drawn[:-1], drawn[1:]])
    assert torch.corrcoef(pairs)[0, 1].abs() < 0.015


def test_gumbel_race_samples_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    rows = 20_000
    race = -draw(list(range(rows)), 0, [0], 4).log()
    expected = logits.softmax(0)
    for tokens in (
        gumbel_argmax(logits.expand(rows, 1, 4), 1.0, race),
        categorical(expected.expand(rows, 1, 4), race),
    ):
        share = torch.bincount(tokens[:, 0], minlength=4) / rows
        assert torch.allclose(share, expected, atol=0.015)
    greedy = gumbel_argmax(logits.expand(rows, 1, 4), 0.0, race)
    assert (greedy == 2).all()


def test_a_race_in_parts_has_the_same_winner() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 50, generator=generator)
    logits[0, 0, [7, 33]] = 9.0
    logits[1, 2, :20] = -torch.inf
    places = (torch.tensor([3, 5, 8]), torch.tensor([1, 2, 3]), torch.arange(4).expand(3, -1))
    whole = CounterNoise().race(*places, 50)
    for temperature in (0.0, 0.7):
        parts = [
            (low, CounterNoise().race_of(*places, range(low, min(low + 8, 50))))
            for low in range(0, 50, 8)
        ]
        assert torch.equal(torch.cat([race for _, race in parts], -1), whole)
        found = leader(
            (low, gumbel_scores(logits[..., low : low + 8], temperature, race))
            for low, race in parts
        )
        assert torch.equal(found, gumbel_argmax(logits, temperature, whole))
    assert leader([(0, logits[..., :20]), (20, logits[..., 20:])])[0, 0] == 7
