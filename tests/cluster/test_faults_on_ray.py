"""Real processes, killed for real, on a Ray cluster of several nodes on this machine."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.__main__ import soak
from tests.soak.bench import Bench, bench, executions, kill, samples, wait_for, write_data

ROWS = 60
POISON = {7: "KILL", 23: "RAISE"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Bench]:
    """A head without GPUs, and two nodes with two fake ones each."""
    with bench({"num_cpus": 3}, *[{"num_cpus": 1, "num_gpus": 2}] * 2) as made:
        yield made


def prepare(folder: Path, special: dict[int, str] | None = None) -> tuple[Path, list[str]]:
    out = folder / "run"
    (out / "executions").mkdir(parents=True)
    data = write_data(folder / "data", ROWS, special)
    return out, ["--data", str(data), "--set", "cluster.rows_per_block=8"]


def test_kills_of_worker_ledger_and_driver_lose_nothing(cluster: Bench, tmp_path: Path) -> None:
    figures = soak(cluster, kills=4, rows=300, seed=5, every=60, folder=tmp_path, special=POISON)
    assert figures.good, str(figures)
    assert figures.kills.total() >= 4
    assert figures.rows % 600 == 0


def test_a_stop_is_clean_and_the_same_command_goes_on(cluster: Bench, tmp_path: Path) -> None:
    out, arguments = prepare(tmp_path)
    arguments += ["--set", "cluster.num_gpus=0", "--set", "cluster.pool=1"]
    driver = cluster.drive(out, *arguments, worker="SlowWorker")
    wait_for(lambda: len(executions(out)) > 20)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 143
    told = (tmp_path / "run.log").read_text()
    assert "stopped; the same command goes on" in told
    assert "Traceback" not in told
    progress = json.loads((out / "progress.json").read_text())
    assert progress["state"] == "stopped"
    assert progress["total"] == 2 * ROWS
    before = executions(out)
    assert cluster.drive(out, *arguments).wait(300) == 0
    assert Counter(row["status"] for row in samples(out)) == {"ok": 2 * ROWS}
    again = len(executions(out)) - 2 * ROWS
    assert again <= 8, f"{again} of {len(before)} rows: those in the slots, and those to follow"


def test_a_node_that_goes_takes_nothing_with_it(cluster: Bench, tmp_path: Path) -> None:
    """Two actors of two GPUs each, on a node of their own; one node is pulled out."""
    out, arguments = prepare(tmp_path)
    driver = cluster.drive(
        out, *arguments, "--set", "cluster.tensor_parallel=2", worker="SlowWorker"
    )
    wait_for(lambda: len(list((out / "executions").glob("*.log"))) == 2)
    wait_for(lambda: len(executions(out)) > 20)
    seen = [json.loads(place.read_text()) for place in (out / "executions").glob("*.json")]
    assert [place["gpus"] for place in seen] == ["0,1", "0,1"]
    assert len({place["node"] for place in seen}) == 2
    cluster.remove(cluster.nodes.pop())
    assert driver.wait(300) == 0, (tmp_path / "run.log").read_text()[-2000:]
    assert Counter(row["status"] for row in samples(out)) == {"ok": 2 * ROWS}
    assert len(executions(out)) - 2 * ROWS <= 4 * 8


def test_what_the_cluster_does_not_have_is_told(cluster: Bench, tmp_path: Path) -> None:
    out, arguments = prepare(tmp_path)
    wanted = ["--set", "cluster.accelerator_type=H100", "--set", "cluster.num_gpus=1"]
    assert cluster.drive(out, *arguments, *wanted).wait(120) == 2
    told = (tmp_path / "run.log").read_text()
    assert "need 1 GPUs of type H100, the cluster has" in told


def test_the_bench_kills_nobody_elses_processes(cluster: Bench) -> None:
    assert os.getpid() not in cluster.processes("")
    assert not kill(2**22 + 1)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        wait_for(lambda: False, seconds=0.1)
    assert time.monotonic() - began < 5
