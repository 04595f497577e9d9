"""Rows that kill, hang or raise, and disks that fill up, without Ray: a worker, its ledger, and the
parts that are left."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import keeper
from cluster.cells import Cell, ModelSpec
from cluster.desk import Leases
from cluster.leases import Holder, Ledger
from cluster.manifest import Item, build
from cluster.parts import finished, read_parts
from cluster.rows import Place, error_row
from cluster.store import Store
from cluster.witness import Witness
from cluster.worker import FAILED
from decoders import make_decoder
from evaluators import Prompt, Sample
from tests.soak.lives import prepare
from tests.soak.worker import FreeWorker

SLOTS = 4
CELL = Cell(
    model=ModelSpec("tiny-mdlm", "tiny-mdlm", "d", "float32", SLOTS),
    decoder=make_decoder("llada", {"gen_length": 8, "steps": 2}),
    task="gsm8k",
    task_version="1",
    num_fewshot=0,
    chat=False,
    mode="throughput",
    seed=0,
    scorer=None,
)


def rows(words: list[str]) -> pa.Table:
    """A manifest of one row a word, which its prompt is."""
    items = [
        Item(Sample(str(n), "7", None, {"answer": "#### 7"}), Prompt(word, ()), (1,))
        for n, word in enumerate(words)
    ]
    return build([CELL], lambda _: items)


def lives(run: Path, words: list[str], timeout_s: float) -> tuple[list[int], dict[str, Any]]:
    """How the worker's lives ended, and the row of each word (of plain ones: their number)."""
    prepare(run, CELL, rows(words))
    command = [sys.executable, "-m", "tests.soak.lives", str(run), str(timeout_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    parts = read_parts(Store.open(run / "parts"), ["sid", "status", "error", "prompt"])
    table = pa.concat_tables(part for _, part in parts).to_pylist()
    assert len(table) == len({row["sid"] for row in table}) == len(words)
    return json.loads(done.stdout), {row["prompt"]: row for row in table}


def began(run: Path) -> Counter[str]:
    """How often each row was begun, by its prompt."""
    owed = pq.read_table(run / "manifest.parquet").to_pylist()
    of = {row["sid"]: row["prompt"] for row in owed}
    logs = [log.read_text().split() for log in (run / "executions").glob("*.log")]
    return Counter(of[sid] for log in logs for sid in log)


def test_rows_that_kill_hang_or_raise_harm_nobody_else(tmp_path: Path) -> None:
    bad = {5: "KILL", 12: "HANG", 20: "RAISE", 26: "HOLD", 33: "KILL too"}
    words = [bad.get(n, f"plain {n}") for n in range(40)]
    ends, found = lives(tmp_path, words, timeout_s=2.0)
    plain = {found[word]["status"] for word in words if word.startswith("plain")}
    assert plain == {"ok"}
    assert {word: found[word]["status"] for word in bad.values()} == {
        "KILL": "quarantined",
        "KILL too": "quarantined",
        "HANG": "timeout",
        "HOLD": "quarantined",
        "RAISE": "error",
    }
    assert "died 2 times while it ran alone" in found["KILL"]["error"]
    assert "2 s (cluster.row_timeout_s), alone" in found["HANG"]["error"]
    assert found["RAISE"]["error"] == "RuntimeError: this one cannot be decoded"
    assert ends[-1] == 0
    assert Counter(ends)[-9] == 6, "each that kills: once beside others, twice alone"
    times = began(tmp_path)
    assert times["KILL"] == times["KILL too"] == 3
    assert times["HANG"] == times["RAISE"] == 2
    deaths = len(ends) - 1
    again = sum(times[word] - 1 for word in words if word.startswith("plain"))
    assert again <= deaths * 2 * SLOTS, "at most what was in flight"
    assert max(times.values()) <= 3


def test_a_model_whose_load_kills_is_named_after_three_deaths(tmp_path: Path) -> None:
    prepare(tmp_path, CELL, rows(["plain"]))
    command = [sys.executable, "-m", "tests.soak.lives", str(tmp_path), "60", "LoadCrashedWorker"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    reason, ends = done.stdout.splitlines()
    assert json.loads(ends) == [-signal.SIGSEGV] * 3 + [0]
    told = "a worker died 3 times while it loaded tiny-mdlm, the last time by SIGSEGV"
    assert reason == told
    assert not began(tmp_path), "no row was touched"


def test_a_death_that_leaves_no_word_is_taken_for_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    witness = Witness("a1")
    assert witness.last_words() == "on another node"
    with witness.watching():
        assert "by SIGKILL" in witness.last_words(), "what a process that is gone would leave"
    assert list(tmp_path.iterdir()) == []


def decode(folder: Path, table: pa.Table) -> list[str]:
    batch: dict[str, Any] = {}
    for name in table.column_names:
        batch[name] = np.empty(table.num_rows, dtype=object)
        batch[name][:] = table[name].to_pylist()
    worker = FreeWorker(
        run_id="run",
        cells={CELL.cell_id: CELL.to_json()},
        parts=str(folder),
        trace=False,
        device="cpu",
        threads=1,
    )

    async def take() -> list[str]:
        return [str(status) async for part in worker(batch) for status in part["status"]]

    return asyncio.run(take())


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = Store.put, []

    def put(self: Store, name: str, content: bytes) -> None:
        if time.monotonic() < until:
            refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, content)

    monkeypatch.setattr(Store, "put", put)
    monkeypatch.setattr("cluster.worker.RETRY_S", 0.1)
    until = time.monotonic() + 1.5
    assert decode(tmp_path, rows([f"plain {n}" for n in range(30)])) == ["ok"] * 30
    assert len(refused) > 1
    assert len(finished(Store.open(tmp_path))[0]) == 30


def test_no_flush_returns_before_the_ledger_knows_what_another_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends flushes from any thread, and is gone when the first flush returns."""
    telling, told = threading.Event(), threading.Event()

    def slow(self: Leases, statuses: Mapping[str, str]) -> None:
        telling.set()
        time.sleep(0.3)
        ledger.done(statuses)
        told.set()

    monkeypatch.setattr(Leases, "done", slow)
    ledger = Ledger(":memory:")
    kept = keeper.Keeper(Store.open(tmp_path), Leases(ledger))
    (row,) = rows(["plain"]).to_pylist()
    kept.add(error_row(row, CELL, Place("run", "here:1", "cpu"), "told"), [])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(kept.flush)
        assert telling.wait(10)
        assert len(list(tmp_path.iterdir())) == 1, "the row is durable already"
        assert kept.flush()
        assert told.is_set()
        assert first.result()
    (answer,) = ledger.start(Holder("other", "", ""), [row["sid"]])
    assert answer.verdict == "done"


def test_a_disk_that_stays_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "put", put)
    monkeypatch.setattr(keeper, "WAIT_S", 0.3)
    monkeypatch.setattr("cluster.worker.RETRY_S", 0.1)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    assert decode(tmp_path, rows(["plain"])) == [FAILED]
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_was_cut_short_is_computed_again(tmp_path: Path) -> None:
    table = rows([f"plain {n}" for n in range(20)])
    decode(tmp_path, table.slice(0, 12))
    decode(tmp_path, table.slice(12))
    victim = max(tmp_path.glob("*.samples.parquet"), key=lambda path: path.stat().st_size)
    lost = pq.read_table(victim, columns=["sid"]).num_rows
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    done, statuses = finished(Store.open(tmp_path))
    assert statuses == {"ok": 20 - lost}
    assert victim.with_name(f"{victim.name}.broken").exists(), "kept for whoever wants to look"
    missing = table.filter(pa.array(done.places(table["sid"].to_pylist()) < 0))
    assert missing.num_rows == lost
    decode(tmp_path, missing)
    assert len(finished(Store.open(tmp_path))[0]) == 20
