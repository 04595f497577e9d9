"""The model actor without Ray: error rows, one engine at a time, weights once, servers."""

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cluster import worker as worker_module
from cluster.cells import Cell, ModelSpec
from cluster.manifest import Item, build
from cluster.worker import FAILED, DecodeWorker
from decoders import find_checkpoint, make_decoder
from decoders.recipes.remote import Remote
from evaluators import Prompt, Sample, sandbox


def spec(name: str, slots: int = 2) -> ModelSpec:
    found = find_checkpoint(name)
    return ModelSpec(name, found.source, found.digest, "float32", slots)


def cell(recipe: str, model: str, partner: str | None = None, **settings: Any) -> Cell:
    return Cell(
        model=spec(model),
        decoder=make_decoder(recipe, {"gen_length": 8, **settings}),
        task="gsm8k",
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
        partner=spec(partner) if partner else None,
    )


LLADA = cell("llada", "tiny-mdlm", steps=2)
DREAM = cell("dream", "tiny-mdlm", steps=2)
AR = cell("ar", "tiny-ar")
GOOD: dict[str, tuple[int, ...]] = {"a": (5, 6, 7), "b": (9,), "c": (8, 7, 6, 5)}


def decode(
    folder: Path,
    cells: list[Cell],
    prompts: dict[str, tuple[int, ...]] = GOOD,
    warmup: int = 0,
    fields: Mapping[str, Any] = MappingProxyType({"answer": "#### 1"}),
) -> list[dict[str, Any]]:
    """Rows of every cell on every prompt, as one block."""
    items = [
        Item(Sample(name, "1", None, dict(fields)), Prompt(f"prompt {name}", ()), ids)
        for name, ids in prompts.items()
    ]
    table = build(cells, lambda _: items)
    batch = {}
    for name in table.column_names:
        column = np.empty(table.num_rows, dtype=object)
        column[:] = table[name].to_pylist()
        batch[name] = column
    folder.mkdir(exist_ok=True)
    actor = DecodeWorker(
        "run", {c.cell_id: c.to_json() for c in cells}, str(folder), False, "cpu", 1, warmup
    )

    async def run() -> list[dict[str, Any]]:
        return [answer async for answer in actor(batch)]

    (answer,) = asyncio.run(run())
    if list(answer["status"]) == [FAILED]:
        raise RuntimeError(str(answer["error"][0]))
    rows = [row for part in sorted(folder.glob("*.samples.parquet")) for row in read(part)]
    assert sorted(answer["status"]) == sorted(row["status"] for row in rows)
    return rows


def read(part: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(part).to_pylist()
    return rows


def test_a_sample_that_cannot_be_decoded_is_a_row_and_its_neighbours_live(tmp_path: Path) -> None:
    bad = {"empty": (), "mask": (5, 1, 6), "long": (5,) * 1020, "stranger": (5, 99_999)}
    rows = {
        (row["decoder"], row["sample_id"]): row
        for row in decode(tmp_path, [LLADA, AR], {**GOOD, **bad})
    }
    assert len(rows) == 2 * 7
    assert {rows["llada", name]["status"] for name in GOOD} == {"ok"}
    words = {
        "empty": "the prompt is empty",
        "mask": "the prompt holds the mask token (id 1)",
        "long": "1020 + 8 = 1028 positions, tiny-mdlm has 1024",
        "stranger": "a token outside the 3072 of the model",
    }
    for name, said in words.items():
        row = rows["llada", name]
        assert row["status"] == "error"
        assert said in row["error"]
        assert row["output_text"] is None
    assert rows["ar", "mask"]["status"] == "ok", "a causal model has no mask token"
    assert "1028 positions, tiny-ar has 1024" in rows["ar", "long"]["error"]


def test_one_engine_at_a_time_and_a_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, weakref.ref[Any], int]] = []
    loaded: list[str] = []
    real_make, real_load = worker_module.make_engine, worker_module.load_model

    def make(model: Any, decoder: Any, slots: int, partner: Any = None) -> Any:
        gc.collect()
        alive = sum(engine() is not None for _, engine, _ in made)
        engine = real_make(model, decoder, slots, partner)
        made.append((decoder.recipe, weakref.ref(engine), alive))
        return engine

    def load(checkpoint: Any, *more: Any) -> Any:
        loaded.append(checkpoint.name)
        return real_load(checkpoint, *more)

    monkeypatch.setattr(worker_module, "make_engine", make)
    monkeypatch.setattr(worker_module, "load_model", load)
    eight = cell("llada", "tiny-mdlm", steps=8)
    rows = decode(tmp_path, [LLADA, eight, DREAM, AR])
    assert len(rows) == 4 * len(GOOD)
    assert {row["status"] for row in rows} == {"ok"}
    assert sorted(recipe for recipe, _, _ in made) == ["ar", "dream", "llada"]
    assert all(alive == 0 for _, _, alive in made), "an engine that has ended is gone"
    assert sorted(loaded) == ["tiny-ar", "tiny-mdlm"]


def test_warm_up_rows_are_decoded_first_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[tuple[str, int]] = []
    real = worker_module.make_engine

    def make(model: Any, decoder: Any, slots: int, partner: Any = None) -> Any:
        engine = real(model, decoder, slots, partner)
        take = engine.submit

        def submit(request: Any) -> None:
            submitted.append((request.sid, engine.load))
            take(request)

        engine.submit = submit
        return engine

    plain = decode(tmp_path / "plain", [LLADA, AR])
    monkeypatch.setattr(worker_module, "make_engine", make)
    warmed = decode(tmp_path / "warmed", [LLADA, AR], {"bad": (), **GOOD}, warmup=5)
    kept = {row["sid"]: row["output_ids"] for row in warmed if row["status"] == "ok"}
    assert kept == {row["sid"]: row["output_ids"] for row in plain}
    assert [row["status"] for row in warmed].count("error") == 2
    assert len(submitted) == 2 * (5 + 4)
    for engine in (submitted[:9], submitted[9:]):
        assert [sid for sid, _ in engine[:5]] == [f"warm-up {n}" for n in range(5)]
        assert engine[5][1] == 0, "a counted row waits until the others are out"
        assert all(not sid.startswith("warm-up") for sid, _ in engine[5:])


def test_a_second_model_shares_the_weights_of_its_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = worker_module.load_model

    def load(checkpoint: Any, *more: Any) -> Any:
        loaded.append(checkpoint.name)
        return real(checkpoint, *more)

    monkeypatch.setattr(worker_module, "load_model", load)
    guided = cell("guided", "tiny-mdlm", "tiny-ar", guider="tiny-ar")
    drafted = cell("speculative", "tiny-ar", "tiny-ar", drafter="tiny-ar")
    rows = decode(tmp_path, [AR, guided, drafted])
    assert sorted(loaded) == ["tiny-ar", "tiny-mdlm"]
    assert {row["status"] for row in rows} == {"ok"}
    texts = {(row["decoder"], row["sample_id"]): row["output_text"] for row in rows}
    for name in GOOD:
        assert texts["guided", name] == texts["ar", name], "deterministic guidance is the guider"
        assert texts["speculative", name] == texts["ar", name]
    assert {row["partner"] for row in rows if row["decoder"] != "ar"} == {"tiny-ar"}
    assert all(row["drafted_tokens"] for row in rows if row["decoder"] != "ar")


@pytest.fixture
def server() -> Iterator[Callable[[], str]]:
    """A server that answers with the prompt, turned to capitals; it refuses one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ok = body["prompt"] != "prompt b"
            answer = {"choices": [{"text": body["prompt"].upper()}]} if ok else {"error": "not b"}
            data = json.dumps(answer).encode()
            self.send_response(200 if ok else 400)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
    yield lambda: f"http://127.0.0.1:{found.server_port}/v1"
    found.shutdown()
    found.server_close()


def test_a_servers_rows_load_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Callable[[], str]
) -> None:
    def no_model(*_: Any) -> None:
        raise AssertionError("a server has its own")

    monkeypatch.setattr(worker_module, "load_model", no_model)
    recipe = Remote(url=server(), server_model="m", retries=0)
    rows = {row["sample_id"]: row for row in decode(tmp_path, [replace(AR, decoder=recipe)])}
    assert rows["a"]["output_text"] == "PROMPT A"
    assert rows["a"]["generated_tokens"] == len(rows["a"]["output_ids"]) > 0
    assert rows["a"]["nfe"] is None
    assert rows["b"]["status"] == "error"
    assert "HTTP 400 Bad Request: not b" in rows["b"]["error"]
    assert {row["device"] for row in rows.values()} == {f"remote:{recipe.host}"}


def test_a_worker_that_cannot_go_on_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no memory left")

    ended = threading.Event()
    monkeypatch.setattr(worker_module, "load_model", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    with pytest.raises(RuntimeError, match="no memory left"):
        decode(tmp_path, [LLADA], {"a": (5,)})
    assert ended.wait(10)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Lengths of prompts that engines have no memory for; all, if it is empty."""
    lengths: set[int] = set()
    real = worker_module.make_engine

    def make(*arguments: Any) -> Any:
        engine: Any = real(*arguments)
        held: list[int] = []
        submit, step = engine.submit, engine.step

        def hold(request: Any) -> None:
            held.append(len(request.prompt_ids))
            submit(request)

        def starve() -> Any:
            if not lengths or lengths.intersection(held):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 482.00 MiB.")
            return step()

        engine.submit, engine.step = hold, starve
        return engine

    monkeypatch.setattr(worker_module, "make_engine", make)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    return lengths


@pytest.mark.parametrize("warmup", [0, 2])
def test_slots_that_the_memory_does_not_hold_end_the_run(
    tmp_path: Path, large: set[int], warmup: int
) -> None:
    with pytest.raises(
        RuntimeError, match=r"hold tiny-mdlm with 2 slots.*models\.tiny-mdlm\.slots"
    ):
        decode(tmp_path, [LLADA], {**GOOD, "d": (5,), "e": (6,)}, warmup=warmup)


def test_a_row_that_the_memory_does_not_hold_is_an_error_alone(
    tmp_path: Path, large: set[int]
) -> None:
    large.add(9)
    rows = decode(tmp_path, [LLADA], {**GOOD, "x": (5,) * 9, "y": (6,) * 9})
    found = {row["sample_id"]: (row["status"], row["error"]) for row in rows}
    assert [found.pop(name) for name in GOOD] == [("ok", None)] * len(GOOD)
    for status, error in found.values():
        assert status == "error" and "out of memory" in error


def test_a_node_without_a_sandbox_says_so_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = worker_module.load_model

    def probe() -> sandbox.Probe:
        order.append("probe")
        return sandbox.Probe(None, {"landlock": "the kernel has no Landlock"}, "3.11.0")

    def load(*arguments: Any) -> Any:
        order.append("load")
        return real(*arguments)

    monkeypatch.setattr(sandbox, "probe", probe)
    monkeypatch.setattr(worker_module, "load_model", load)
    fields = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    pass\n"}
    programs = replace(LLADA, task="humaneval")
    for row in decode(tmp_path, [programs], fields=fields):
        assert row["status"] == "not_executed"
        assert "landlock: the kernel has no Landlock" in row["error"]
        assert (row["detail"], row["sandbox"], row["correct"]) == (None, None, None)
    assert order[:2] == ["probe", "load"]
    order.clear()
    decode(tmp_path / "other", [LLADA])
    assert order == ["load"], "a run without programs needs no sandbox"
