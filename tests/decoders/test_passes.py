"""A pass is a function of one table of numbers, so that it can be replayed."""

import torch
from torch import Tensor

from decoders import Model, Request, Result, make_decoder
from decoders.autoregressive import AutoregressiveEngine
from decoders.batch import Member, batch_of, table
from decoders.graphs import Graphs
from decoders.peaks import Peaks
from decoders.recipes.llada import Llada
from decoders.sampling import probability_of
from decoders.schedule import Row
from decoders.slots import Slot
from tests.decoders.decoding import decoded


def member(number: int, prompt: int) -> Member:
    decoder = Llada(gen_length=8, steps=4, block_length=4)
    row = Row(prompt=prompt, length=prompt + 8, shift=0, block=4)
    slot = Slot(Request(sid=f"s{number}", prompt_ids=(3,) * prompt, decoder=decoder), 0.0)
    return Member(number, slot, row, next(decoder.schedule(row)))


def test_a_table_keeps_every_number_and_fills_up_with_rows_that_write_nothing() -> None:
    members = [member(4, 5), member(1, 9)]
    batch = batch_of(members, table(members, size=4, spare=7), fed=17)
    assert batch.whole("slot").tolist() == [4, 1, 7, 7]
    assert batch.whole("high").tolist() == [9, 13, 0, 0]
    assert batch.whole("seed").tolist()[:2] == [m.slot.seed for m in members]
    assert batch.real("amount").tolist() == [2.0, 2.0, 0.0, 0.0]
    assert batch.window == 4 and batch.canvas == 8 and batch.length == 17
    # Row 2 has no sample: its window is empty, and the row that it reads exists.
    assert batch.fed_rows(batch.places(), 0)[2].tolist() == [0, 0, 0, 0]
    among = table(members, size=2, spare=7, among=[1])
    assert batch_of(members, among, fed=17).whole("slot").tolist() == [7, 1]


def test_the_canvas_has_room_for_the_widest_look_at_the_farthest_row() -> None:
    members = [member(0, 2), member(1, 40)]
    batch = batch_of(members, table(members), fed=48)
    assert batch.reach >= max(40 + batch.window, 40 + batch.canvas, 40 + batch.look)


def test_without_a_gpu_a_pass_runs_as_it_is() -> None:
    graphs, met = Graphs(torch.device("cpu")), []

    def run(given: Tensor) -> Tensor:
        met.append(given)
        return given + 1

    for n in range(3):
        assert graphs.run("key", "layout", run, torch.tensor([n])).tolist() == [n + 1]
    assert len(met) == 3


def test_the_plain_reading_of_logits_is_torchs() -> None:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    reading = Peaks()
    tokens, chance = reading.best(logits, double=True)
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.equal(chance, probability_of(logits, tokens, double=True))
    assert chance.dtype == torch.float64
    token, gap, entropy = reading.look(logits)
    assert torch.equal(token, tokens) and torch.equal(gap, reading.gap(logits)[1])
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logits).entropy())


def test_tokens_past_the_end_are_neither_kept_nor_counted(causal: Model) -> None:
    """As where the host looks every few steps only."""
    decoder = make_decoder("ar", {"gen_length": 24})
    asked = [Request(f"s{n}", tuple(range(8 + n, 20 + 2 * n)), decoder) for n in range(7)]

    def looking(every: int) -> dict[str, Result]:
        engine = AutoregressiveEngine(causal, 3)
        engine._every = every
        return decoded(engine, asked)

    wanted, found = looking(1), looking(8)
    assert any(len(r.output_ids) < 24 for r in wanted.values())
    for sid, result in wanted.items():
        assert found[sid].output_ids == result.output_ids
        assert found[sid].nfe == result.nfe == len(result.output_ids)
        assert found[sid].token_forwards == result.token_forwards
