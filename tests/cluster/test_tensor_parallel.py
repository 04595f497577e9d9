"""A worker whose models are split over two processes: it ends with either of them, and no row is
lost; pools of such workers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cells import Cell, ModelSpec
from cluster.manifest import Item, build
from cluster.parts import read_parts
from cluster.session import ResourceError, plan_pool
from cluster.store import Store
from cluster.watchdog import EXIT_CODE
from decoders import Request, find_checkpoint, load_model, make_decoder, make_engine
from evaluators import Prompt, Sample
from tests.decoders.decoding import decoded
from tests.soak.lives import prepare

SETTINGS = {"gen_length": 32, "steps": 16}
PROMPTS = {str(n): tuple(range(5, 15 + n)) for n in range(8)}


def cell() -> Cell:
    found = find_checkpoint("tiny-mdlm")
    return Cell(
        model=ModelSpec("tiny-mdlm", found.source, found.digest, "float32", 2),
        decoder=make_decoder("llada", SETTINGS),
        task="gsm8k",
        task_version="1",
        num_fewshot=0,
        chat=False,
        mode="throughput",
        seed=0,
        scorer=None,
    )


def test_a_rank_that_dies_takes_its_worker_and_no_row(tmp_path: Path) -> None:
    items = [
        Item(Sample(name, "7", None, {"answer": "#### 7"}), Prompt(f"prompt {name}", ()), ids)
        for name, ids in PROMPTS.items()
    ]
    run = tmp_path / "run"
    prepare(run, cell(), build([cell()], lambda _: items))
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.lives", str(run), "600", "SplitWorker"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "killed").exists()
    assert json.loads(done.stdout) == [EXIT_CODE, 0], done.stderr
    assert "rank 1 of 2" in done.stderr
    names = ["sample_id", "status", "device", "output_ids", "worker"]
    parts = read_parts(Store.open(run / "parts"), names)
    rows = {row["sample_id"]: row for _, part in parts for row in part.to_pylist()}
    assert sum(part.num_rows for _, part in read_parts(Store.open(run / "parts"), names)) == 8
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert all(row["device"].endswith(" x2") for row in rows.values())
    engine = make_engine(load_model(find_checkpoint("tiny-mdlm")), cell().decoder, 4)
    alone = decoded(engine, [Request(name, ids, cell().decoder) for name, ids in PROMPTS.items()])
    assert {name: row["output_ids"] for name, row in rows.items()} == {
        name: list(result.output_ids) for name, result in alone.items()
    }


def test_a_pool_of_split_models(ray_session: None) -> None:
    """Two processes an actor on the session's two cores; on GPUs as many as it has not."""
    pool = plan_pool(100, 0, None, latency=False, wait_s=1, tensor_parallel=2)
    assert (pool.size, pool.num_gpus, pool.threads, pool.tensor_parallel) == (1, 0.0, 1, 2)
    with pytest.raises(ResourceError, match="with 2 GPU"):
        plan_pool(100, None, None, latency=False, wait_s=1, tensor_parallel=2)
