"""Two processes, each with half of the weights: the same tokens, and one end for both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decoders import (
    DecoderError,
    Request,
    find_checkpoint,
    load_model,
    load_tokenizer,
    make_decoder,
    make_engine,
)
from decoders.joint import load_sampler
from decoders.ranks import RankError, Ranks
from tests.decoders.decoding import decoded

PROMPTS = ("Tom has 3 apples and buys 4 more. How many are there?", "The sky", "def add(a, b):")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    made = Ranks(2, "cpu")
    yield made
    made.close()
    assert not any(map(is_alive, made.pids))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def met(condition: Callable[[], Any], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.parametrize(
    ("recipe", "model", "partner", "settings"),
    [
        ("llada", "tiny-mdlm", None, {"gen_length": 16, "steps": 4, "temperature": 0.5}),
        ("fast-dllm", "tiny-mdlm", None, {"gen_length": 16, "block_length": 8, "cache": "dual"}),
        ("ar", "tiny-ar", None, {"gen_length": 12}),
        ("specdiff", "tiny-ar", "tiny-mdlm", {"gen_length": 8, "drafter": "tiny-mdlm"}),
        ("guided", "tiny-mdlm", "tiny-ar", {"gen_length": 8, "guider": "tiny-ar"}),
        ("joint", "tiny-mdlm", "tiny-joint", {"gen_length": 8, "sampler": "tiny-joint"}),
    ],
)
def test_two_ranks_write_what_one_writes(
    ranks: Ranks, recipe: str, model: str, partner: str | None, settings: dict[str, Any]
) -> None:
    """With fewer slots than rows, so that slots are refilled, and one row ended by the host."""
    decoder, tokenizer = make_decoder(recipe, settings), load_tokenizer(find_checkpoint(model))
    requests = [
        Request(text[:3], tuple(tokenizer(text)["input_ids"]), decoder, trace=n == 1)
        for n, text in enumerate(PROMPTS)
    ]
    if recipe == "ar":
        requests[0] = replace(requests[0], is_complete=lambda ids: len(ids) >= 5)
    alone, split = load_model(find_checkpoint(model)), ranks.load(model, "float32")
    assert split.parameters < 0.6 * alone.parameters
    one: Any = None
    two: Any = None
    if partner == "tiny-joint":
        one, two = load_sampler(partner, alone), ranks.sampler(partner, split)
    elif partner is not None:
        one, two = load_model(find_checkpoint(partner)), ranks.load(partner, "float32")
    expected = decoded(make_engine(alone, decoder, 2, one), requests)
    found = decoded(ranks.engine(split, decoder, 2, two), requests)
    assert expected.keys() == found.keys()
    for sid, result in expected.items():
        assert found[sid].output_ids == result.output_ids
        assert (found[sid].nfe, found[sid].token_forwards) == (result.nfe, result.token_forwards)
        assert (found[sid].trace is None) == (result.trace is None)
    if recipe == "ar":
        assert len(found[PROMPTS[0][:3]].output_ids) == 5
    ranks.keep([])


def test_what_all_ranks_refuse_ends_none_of_them(ranks: Ranks) -> None:
    model, decoder = ranks.load("tiny-mdlm", "float32"), make_decoder("llada", {"gen_length": 8})
    engine = ranks.engine(model, decoder, 2)
    with pytest.raises(DecoderError, match="the prompt is empty"):
        engine.submit(Request("empty", (), decoder))
    assert decoded(engine, [Request("a", (5, 6), decoder)]).keys() == {"a"}
    with pytest.raises(DecoderError, match="causal"):
        ranks.engine(model, make_decoder("ar", {}), 2).submit(
            Request("b", (5,), make_decoder("ar", {}))
        )
    ranks.keep([])


def test_a_killed_rank_is_told() -> None:
    told: list[str] = []
    ranks = Ranks(2, "cpu", on_loss=told.append)
    os.kill(ranks.pids[0], signal.SIGKILL)
    assert met(lambda: told)
    assert told[0] == "rank 1 of 2 ended with code -9"
    with pytest.raises(RankError, match="rank"):
        ranks.load("tiny-mdlm", "float32")
    ranks.close()


def test_ranks_do_not_outlive_the_first() -> None:
    """SIGKILL leaves it no time to end them."""
    code = (
        "import time; from decoders.ranks import Ranks; ranks = Ranks(2, 'cpu')\n"
        "ranks.load('tiny-mdlm', 'float32'); print(*ranks.pids, flush=True); time.sleep(600)"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    pids = [int(pid) for pid in first.stdout.readline().split()]
    assert len(pids) == 1
    assert all(map(is_alive, pids))
    first.kill()
    first.wait()
    assert met(lambda: not any(map(is_alive, pids)))
