"""The benchmark: its plain loops emit the engine's tokens, its floor is what a hand counts, its
output is what it says."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.pipeline import calls_in_flight
from decoders import Model, Request, make_decoder, make_engine
from decoders.models.shapes import random_model
from decoders.models.stated import find_shape
from decoders.slots import Observed, Ran, Span, Timing
from jobs.bench.__main__ import main
from jobs.bench.floor import Costs, floor_s
from jobs.bench.growth import Base, exponent, points
from jobs.bench.rates import Rates, measure_rates
from jobs.bench.reference import reference_for
from jobs.bench.show import show
from jobs.bench.through import read
from jobs.errors import run_main
from tests.conformance import loader
from tests.decoders.decoding import decoded

MODELS = loader(Path(__file__).parent.parent / "decoders" / "models")
PROMPTS = [tuple(range(3, 3 + n)) for n in (5, 17, 30, 9)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def causal() -> Model:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        initializer_range=0.5,
        attn_implementation="sdpa",
        tie_word_embeddings=False,
    )
    return Model(
        name="causal",
        digest="",
        family="llama",
        visibility="causal",
        network=LlamaForCausalLM(config).eval().requires_grad_(False),
        mask_id=None,
        eos_id=7,
        eot_id=None,
        stop_ids=frozenset({7}),
        vocabulary=60,
        max_length=256,
    )


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("llada", {"steps": 16}),
        ("llada", {"steps": 24, "block_length": 16}),
        *(
            ("fast-dllm", {"cache": cache, "block_length": 16, **rule})
            for cache in ("none", "prefix", "dual")
            for rule in ({"threshold": 0.3}, {"rule": "fixed", "steps": 16})
        ),
        ("ar", {}),
    ],
)
def test_the_loops_emit_the_tokens_of_the_engine(recipe: str, settings: dict) -> None:
    model = causal() if recipe == "ar" else MODELS("llada_a")
    decoder = make_decoder(recipe, {"gen_length": 32, **settings})
    engine = make_engine(model, decoder, 3)
    asked = [Request(str(n), prompt, decoder) for n, prompt in enumerate(PROMPTS)]
    emitted = {sid: result.output_ids for sid, result in decoded(engine, asked).items()}
    for plain in (False, True):
        loop = reference_for(model, decoder, plain)
        with torch.inference_mode():
            assert emitted == {request.sid: loop(model, request) for request in asked}


def test_the_costs_of_a_position_by_hand() -> None:
    costs = Costs.of(causal())
    # Per layer q, o: 8 x 8; k, v: 8 x 4; three matrices of the MLP: 8 x 16.
    assert costs.layer_weights == 2 * (2 * 64 + 2 * 32 + 3 * 128)
    assert costs.head_weights == 60 * 8
    assert costs.flops(Span(3, 10, 5), "block pass") == (
        2 * 3 * 1152 + 2 * 2 * 3 * 10 * 8 * 2 + 2 * 3 * 480
    )
    # Four positions that see 1, 2, 3 and 4 keys, and one row of logits.
    assert costs.flops(Span(4, 4, 1), "prefill") == 2 * 4 * 1152 + 4 * 10 * 16 + 2 * 480
    # Two slots share the weights; keys and values of 10 positions are read, of 3 written.
    assert costs.bytes(Span(3, 10, 5), "block pass", 2) == 4 * ((1152 + 480) / 2 + 13 * 16)


def test_the_floor_is_the_larger_of_arithmetic_and_bytes() -> None:
    costs = Costs(layer_weights=100, head_weights=10, attention_width=0, cache_width=0, itemsize=2)
    passes = [Ran("decode step", Timing(torch.device("cpu")), (Span(1, 1, 1),) * 2)]
    assert floor_s(passes, costs, Rates(1e9, 1.0), 2) == 2 * 220
    assert floor_s(passes, costs, Rates(1.0, 1e9), 2) == 2 * 110
    assert floor_s(passes, costs, Rates(1.0, 1e9), 1) == 2 * 220


def test_a_precision_that_the_cpu_emulates_has_the_rate_that_layers_have() -> None:
    whole, half = (
        measure_rates(torch.device("cpu"), dtype).matrix_flops_s
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half > whole / 50


def test_engines_tell_of_every_pass() -> None:
    model = MODELS("llada_a")
    decoder = make_decoder("fast-dllm", {"gen_length": 32, "block_length": 16, "threshold": 0.3})
    engine, told = make_engine(model, decoder, 2), list[Ran]()
    assert isinstance(engine, Observed)
    engine.observer = told.append
    result = decoded(engine, [Request("s", PROMPTS[0], decoder)])["s"]
    kinds = [ran.kind for ran in told]
    assert len(kinds) == result.nfe and kinds.count("block pass") == result.nfe_block
    assert sum(ran.spans[0].fed for ran in told) == result.token_forwards
    assert {ran.spans[0].keys for ran in told} == {37}


def test_a_shape_decodes_its_full_budget() -> None:
    model = random_model(find_shape("shape:llada-tiny"))
    decoder = make_decoder("fast-dllm", {"gen_length": 32, "block_length": 16})
    result = decoded(make_engine(model, decoder, 2), [Request("s", PROMPTS[0], decoder)])["s"]
    assert result.nfe == 32, "with random weights no position is sure of itself"
    assert not {model.mask_id, model.eos_id} & set(result.output_ids)


SMALL = ["--model", "shape:llada-tiny", "--prompt-length", "8-20", "--slots", "2", "--rounds", "1"]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "gen_length=16", "--set", "block_length=8"]
    recipes = ["--recipe", "fast-dllm", *settings, "--recipe", "llada", *settings]
    assert main([*SMALL, *recipes, "--against", "reference", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["recipe"] for result in found["results"]] == ["fast-dllm", "llada"]
    first = found["results"][0]
    assert found["speedup_over_reference"] == first["speedup_over_reference"] > 0
    assert found["tokens_equal"] is True and first["samples_compared"] == 2
    assert first["samples"] == 4 and first["nfe"] == 16
    assert first["tokens_s"] == pytest.approx(16 * first["samples_s"])
    assert set(first["steps"]) == {"full pass", "block pass"}
    assert first["steps"]["block pass"]["positions"] == 16
    assert first["floor_s"] > 0 and 0 < first["share_in_passes"] <= 1
    assert found["copy_bytes_s"] > 1e8 and found["matrix_flops_s"] > 1e8
    assert found["peak_memory"]["host_bytes"] > 1e7
    show(found, Console())
    assert "near ties" not in capsys.readouterr().out
    show({**found, "dtype": "bfloat16", "tokens_equal": False}, Console())
    assert "near ties" in capsys.readouterr().out


def test_choices_are_scored_in_one_forward(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--recipe", "likelihood", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)["results"][0]
    assert found["samples"] == 4 and found["nfe"] == 1
    assert found["steps"]["full pass"]["rows"] == 2 and found["share_of_floor"] > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "shape:lada-8b"], "did you mean 'llada-8b'"),
        (["--set", "steps=8"], "before any --recipe"),
        (["--recipe", "llada", "--set", "step=8"], "did you mean 'steps'"),
        (["--recipe", "llada", "--set", "steps"], "KEY=VALUE"),
        (["--prompts", "gsm8k-9shot"], "at most 8 shots"),
        (["--prompts", "gsm9k"], "gsm8k"),
        (["--recipe", "likelihood"], "gsm8k has no choices"),
        (["--model", "shape:llada-tiny", "--tokenizer", "nowhere"], "--tokenizer nowhere"),
        (["--prompt-length", "20-10"], "--prompt-length wants"),
        (["--prompt-length", "8", "--prompts", "gsm8k"], "not both"),
        (["--prompt-length", "2000"], "do not fit the 1024"),
        (["--slots", "0"], "--slots must be at least 1"),
        (["--mode", "latency", "--slots", "4"], "has one slot"),
        (["--recipe", "prophet", "--against", "reference"], "no plain loop for prophet"),
        (
            ["--recipe", "llada", "--set", "temperature=1", "--against", "reference"],
            "temperature 0",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: main([*arguments, "--device", "cpu"]))
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and not printed.out
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert told in printed.err


def test_what_the_memory_does_not_hold_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def starve(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 482.00 MiB. GPU 0 has")

    monkeypatch.setattr("jobs.bench.running.measure_rates", starve)
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: main(["--device", "cpu"]))
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    assert "fewer --slots" in printed and "(CUDA out of memory)" in printed


def test_an_exponent_is_the_slope_between_logarithms() -> None:
    assert exponent([(1, 3.0), (2, 12.0), (4, 48.0)]) == pytest.approx(2.0)
    assert exponent([(1, 5.0), (8, 5.0)]) == pytest.approx(0.0)


def test_growth_varies_one_thing_at_a_time() -> None:
    settings = {"gen_length": 64, "steps": 32}
    base = Base("llada", "tiny-mdlm", settings, 100, 4, ("shape:llada-tiny", "tiny-mdlm"))
    found = list(points(base))
    canvases = [point for point in found if point.axis == "canvas"]
    assert [point.settings["steps"] for point in canvases] == [64, 128, 256, 512, 1024]
    assert {(point.prompt, point.slots) for point in canvases} == {(100, 4)}
    budgets = [point for point in found if point.axis == "budget"]
    assert [point.settings["steps"] for point in budgets] == [8, 16, 32, 64]
    assert {point.settings["gen_length"] for point in budgets} == {64}
    assert [point.model for point in found if point.axis == "parameters"] == list(base.models)


def test_a_run_is_told_from_its_rows(tmp_path: Path) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [("a", 4.0, 4.0), ("a", 8.0, 4.0), ("b", 5.0, 4.0), ("b", 11.0, 6.0)]
    table = pa.table(
        {
            "status": ["ok"] * 4,
            "worker": [worker for worker, _, _ in rows],
            "created_at": [began + timedelta(seconds=end) for _, end, _ in rows],
            "latency_s": [latency for _, _, latency in rows],
        }
    )
    (tmp_path / "samples").mkdir()
    pq.write_table(table, tmp_path / "samples" / "0.parquet")
    assert read(tmp_path) == {
        "samples": 4,
        "samples_s": pytest.approx(4 / 11),
        "workers": 2,
        "tail_s": pytest.approx(3.0),
        "head_s": pytest.approx(1.0),
    }


def test_enough_blocks_are_in_flight_for_the_slots() -> None:
    assert [calls_in_flight(slots, 8) for slots in (1, 8, 32)] == [4, 4, 7]
