"""Selection rules against plain loops, ties included."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from decoders.selection import Factor, Portion, Runs, Threshold, ThresholdOrTop, Top, share_of

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ROW = st.lists(
    st.one_of(st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.01, 0.99), st.just(-torch.inf)),
    min_size=1,
    max_size=12,
)


class Plain:
    """A context that settles ties to the left and draws ones."""

    def settle(self, row: int, scores_W: torch.Tensor, count: int) -> torch.Tensor:
        order = sorted(range(len(scores_W)), key=lambda i: (-scores_W[i], i))[:count]
        taken = torch.zeros(len(scores_W), dtype=torch.bool)
        taken[order] = True
        return taken & (scores_W > -torch.inf)


def taken(rule: object, row: list[float], amount: float = 0, outside: float = 0) -> list[int]:
    scores = torch.tensor([row], dtype=torch.float64)
    numbers = torch.tensor([float(amount)]), torch.tensor([float(outside)])
    return rule(scores, *numbers, Plain())[0].nonzero().flatten().tolist()


def ordered(row: list[float]) -> list[int]:
    free = [i for i, value in enumerate(row) if value > -torch.inf]
    return sorted(free, key=lambda i: (-row[i], i))


@QUICK
@given(ROW, st.integers(0, 14))
def test_top(row: list[float], amount: int) -> None:
    assert taken(Top(), row, amount) == sorted(ordered(row)[:amount])


@QUICK
@given(ROW, st.floats(0, 1), st.integers(0, 9))
def test_portion(row: list[float], share: float, outside: int) -> None:
    masks = torch.tensor(float(len(ordered(row)) + outside))
    count = int(masks * torch.tensor(share))
    assert taken(Portion(), row, share, outside) == sorted(ordered(row)[:count])


@QUICK
@given(ROW, st.sampled_from([0.25, 0.5, 0.9, 1.0]), st.booleans(), st.integers(1, 5))
def test_threshold(row: list[float], tau: float, strict: bool, most: int) -> None:
    order = ordered(row)
    above = [i for i in order if (row[i] > tau if strict else row[i] >= tau)]
    assert taken(Threshold(tau, strict), row) == sorted({*order[:1], *above})
    limited = [i for i in order[:most] if row[i] >= tau]
    assert taken(Threshold(tau, most=True), row, most) == sorted({*order[:1], *limited})


@QUICK
@given(ROW, st.sampled_from([0.5, 0.9]), st.integers(0, 6))
def test_threshold_or_top(row: list[float], tau: float, quota: int) -> None:
    order = ordered(row)
    above = [i for i in order if row[i] > tau]
    expected = above if len(above) >= quota else order[:quota]
    assert taken(ThresholdOrTop(tau), row, quota) == sorted(expected)


@QUICK
@given(ROW, st.sampled_from([0.5, 1.0, 2.0]))
def test_factor_with_its_quirk(row: list[float], factor: float) -> None:
    order = ordered(row)
    count = len(order)
    for j in range(1, len(order)):
        if row[order[j]] < 1 - factor / (j + 2):
            count = j
            break
    if count == len(order) - 1:
        count += 1
    assert taken(Factor(factor), row) == sorted(order[:count])


@QUICK
@given(st.lists(st.one_of(st.floats(0.01, 0.99), st.just(-torch.inf)), min_size=1, max_size=12))
def test_runs(row: list[float]) -> None:
    order, runs = ordered(row), []
    for i, value in enumerate(row):
        if value == -torch.inf:
            continue
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    expected = {i for i in order if row[i] > 0.9} | set(order[:1])
    for run in runs:
        peak = max(row[i] for i in run)
        expected |= {i for i in run if row[i] == peak and peak > 0.4}
    assert taken(Runs(0.9, 0.4), row) == sorted(expected)


def test_the_remainder_goes_first() -> None:
    assert [share_of(10, 4, step) for step in range(4)] == [3, 3, 2, 2]
    assert [share_of(2, 4, step) for step in range(4)] == [1, 1, 0, 0]
