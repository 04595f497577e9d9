"""Models split over two processes, through Ray: the main job loses one of them and no row."""

import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from decoders import Request, find_checkpoint, load_model, make_decoder, make_engine
from jobs import evaluate

CONFIG = """
name: split
models: {tiny-mdlm: {slots: 2}}
tasks: {gsm8k-resampled: {limit: 10}}
decoders:
  - {recipe: llada, models: [tiny-mdlm], settings: {gen_length: 32, steps: 16}}
trace: false
cluster: {num_gpus: 0, tensor_parallel: 2, pool: 1, rows_per_block: 2}
"""


def ranks() -> list[int]:
    """Ranks beside the workers of this test session, which its token tells from others'."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if b"decoders.rank" in (entry / "cmdline").read_bytes():
                environment = (entry / "environ").read_bytes()
                if os.environ["RAY_AUTH_TOKEN"].encode() in environment:
                    found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture
def run(tmp_path: Path, ray_session: None) -> Path:
    """A run that lost a rank while it was decoding."""
    out, killed = tmp_path / "run", list[int]()
    (tmp_path / "split.yaml").write_text(CONFIG)

    def kill() -> None:
        while not any((out / "parts").glob("*.parquet")):
            time.sleep(0.02)
        killed.extend(ranks())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    assert evaluate.main(["--config", str(tmp_path / "split.yaml"), "--out", str(out)]) == 0
    assert len(killed) == 1
    return out


def test_a_rank_that_dies_takes_its_worker_and_no_row(run: Path) -> None:
    rows = pq.read_table(run / "samples").to_pylist()
    owed = {row["sid"]: row for row in pq.read_table(run / "manifest.parquet").to_pylist()}
    assert [row["sid"] for row in rows] == list(owed)
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["worker"] for row in rows}) == 2
    assert all(row["device"].endswith(" x2") for row in rows)
    decoder = make_decoder("llada", {"gen_length": 32, "steps": 16})
    engine = make_engine(load_model(find_checkpoint("tiny-mdlm")), decoder, 5)
    for sid, row in owed.items():
        engine.submit(Request(sid, tuple(row["prompt_ids"]), decoder))
    alone = {}
    while engine.load:
        alone |= {result.sid: list(result.output_ids) for result in engine.step()}
    assert {row["sid"]: row["output_ids"] for row in rows} == alone
    deadline = time.monotonic() + 30
    while ranks() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ranks()
