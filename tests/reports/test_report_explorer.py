"""Which samples a page holds, how they are packed, and how the folder beside it is replaced."""

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.analysis import analyse
from reports.explorer import folder as folder_module
from reports.explorer import pack
from reports.explorer.choice import choose
from reports.explorer.folder import folder_of, publish
from reports.explorer.pack import CAPS, Caps, explore

MakeRun = Callable[..., Path]
SMALL = {"tasks": ("gsm8k-resampled",), "budgets": (4, 8), "n": 5}


def unpacked(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(part)))
    return found


def samples(n: int) -> pd.DataFrame:
    """Two tasks of n and n / 10 samples in two cells; each tenth sample fails, the next is lost."""
    rows = [
        {
            "task": task,
            "sample_id": str(at),
            "cell": cell,
            "status": "error" if at % 10 == 0 else "ok",
            "correct": None if at % 10 == 0 else int(at % 3 == 0),
            "oscillated": at % 10 == 1,
        }
        for task, count in (("large", n), ("small", n // 10))
        for cell in (0, 1)
        for at in range(count)
    ]
    return pd.DataFrame(rows)


def test_all_rows_are_chosen_where_they_fit() -> None:
    table = samples(40)
    for limit in (None, len(table)):
        chosen = choose(table, limit)
        assert sorted(chosen.tolist()) == list(range(len(table)))
        ids = table.iloc[chosen][["task", "sample_id"]].to_numpy()
        assert (ids[::2] == ids[1::2]).all(), "a sample's rows stand together"


def test_a_choice_has_whole_samples_of_every_task_and_outcome() -> None:
    table = samples(2_000)
    chosen = table.iloc[choose(table, 60)]
    assert len(chosen) == 60
    assert (chosen.groupby(["task", "sample_id"]).size() == 2).all()
    of_task = chosen.groupby("task").size()
    assert of_task.min() > 20, "the small task is not crowded out"
    for _, rows in chosen.groupby("task"):
        assert rows["oscillated"].any() and (rows["status"] == "error").any()
        assert set(rows["correct"].dropna()) == {0, 1}


def test_a_choice_depends_on_the_samples_alone() -> None:
    table = samples(500)
    mixed = table.sample(frac=1, random_state=3)
    one, other = (
        set(map(tuple, frame.iloc[choose(frame, 50)][["task", "sample_id"]].to_numpy()))
        for frame in (table, mixed)
    )
    assert one == other
    fewer = choose(table, 20)
    assert np.array_equal(choose(table, 50)[: len(fewer)], fewer)


def test_a_record_replays_to_its_output(make_run: MakeRun) -> None:
    found = analyse(make_run(**SMALL))
    explorer = explore(found, "report.data", CAPS)
    assert explorer.held == explorer.rows == 15 and not explorer.files and explorer.has_words
    index, group = map(unpacked, explorer.data["parts"])
    assert [cell["id"] for cell in index["cells"]] == found.cells["cell_id"].tolist()
    rows = index["rows"]
    assert rows["cell"] == sorted(rows["cell"])
    table = found.run.samples.set_index("sid")
    for sid, at in zip(rows["sid"], rows["at"], strict=True):
        record = group["rows"][at]
        assert record["sid"] == sid
        if table.loc[sid, "decoder"] == "ar":
            tokens = record["canvas"]
            assert "trace" not in record and "order" not in record
        else:
            trace = record["trace"]
            canvas = dict(zip(trace["places"], trace["tokens"], strict=True))
            tokens = [canvas[place] for place in range(trace["size"])]
            assert trace["left"][-1] == 0 and "canvas" not in trace
            assert len(trace["counts"]) == table.loc[sid, "steps"]
        words = [group["tokens"][token] for token in tokens]
        text = "".join(word for word in words if isinstance(word, str))
        assert record["output"].startswith(text) and text


def test_caps_hold_and_say_so(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    found = analyse(make_run(**SMALL))
    few = explore(found, "report.data", Caps(7, None))
    assert few.held == 6 and few.rows == 15
    monkeypatch.setattr(pack, "GROUP_ROWS", 3)
    monkeypatch.setattr(pack, "INLINE_BYTES", 0)
    cut = explore(found, "report.data", Caps(None, 1))
    assert cut.held == 3 and len(cut.files) == 2, "the index and the group that was begun"
    assert len(explore(found, "report.data", Caps(None, None)).files) == 6


def test_a_nonce_is_known_to_no_data(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "INLINE_BYTES", 0)
    first = explore(analyse(make_run("a", **SMALL)), "report.data", CAPS)
    other = make_run("b", **SMALL, output=lambda task, at: "other")
    second = explore(analyse(other), "report.data", CAPS)
    assert first.nonce and second.nonce and first.nonce != second.nonce
    assert first.files.keys() != second.files.keys()
    for name, text in first.files.items():
        assert text.startswith(f'unmaskPart("{name}","') and first.nonce not in text


def test_the_folder_is_replaced_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "page.html"
    beside = folder_of(out)
    first, second = ({f"{letter * 16}.js": f"part {letter}"} for letter in "ab")
    publish(out, "first page", first)
    assert beside == out.with_name("page.data")
    assert [(path.name, path.read_text()) for path in beside.iterdir()] == list(first.items())
    (beside / "notes.txt").write_text("a person's own")

    def broken(path: Path, text: str) -> None:
        if path == out:
            raise OSError("disk full")
        write(path, text)

    write = folder_module.write_page
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(folder_module, "write_page", broken)
        publish(out, "second page", second)
    assert out.read_text() == "first page"
    assert first.keys() < {path.name for path in beside.iterdir()}, "it still has all of its files"

    publish(out, "second page", second)
    assert {path.name for path in beside.iterdir()} == {*second, "notes.txt"}
    publish(out, "a page without", {})
    assert [path.name for path in beside.iterdir()] == ["notes.txt"]
