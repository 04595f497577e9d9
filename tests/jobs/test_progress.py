"""What a run tells while it goes on."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from cluster.store import Store
from cluster.usage import Usage
from jobs import progress
from jobs.progress import Display


def read(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "progress.json").read_text())
    return found


def test_progress_stands_in_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    text = io.StringIO()
    with Display(
        10, Counter(ok=2), Console(file=text, width=160), Store.open(tmp_path), Usage()
    ) as shown:
        shown.update(Counter(ok=3))
        shown.update(Counter(ok=1, timeout=1))
    found = read(tmp_path)
    assert (found["state"], found["total"], found["done"]) == ("decoded", 10, 7)
    assert found["statuses"] == {"ok": 6, "timeout": 1}
    assert found["rows_per_s"] > 0
    assert found["left_s"] >= 0
    assert found["updated_at"] >= found["started_at"]
    assert "2 of 10 rows done before" in text.getvalue()
    assert "7 of 10 rows (70%), 1 timeout" in text.getvalue()


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    screen = Console(file=io.StringIO())
    with (
        pytest.raises(KeyboardInterrupt),
        Display(10, Counter(), screen, Store.open(tmp_path), Usage()),
    ):
        raise KeyboardInterrupt
    found = read(tmp_path)
    assert (found["state"], found["rows_per_s"]) == ("stopped", None)


def test_a_store_that_is_full_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Store, "put", put)
    with Display(
        10, Counter(), Console(file=io.StringIO()), Store.open(tmp_path), Usage()
    ) as shown:
        shown.update(Counter(ok=1))
    assert list(tmp_path.iterdir()) == []
