"""The page of all runs: whole, in order, escaped, and unmoved by a broken run."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reports.index import VERDICT, write_index
from reports.index_entries import TONES, Entry
from reports.load import ReportError
from reports.sparklines import suites

ODD = '{"rows": "many", "statuses": 3, "wall_s": {}}'


class Page(HTMLParser):
    """The rows of the table as texts, and every link and element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append("")
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        if self.rows:
            self.rows[-1] += data


def page(root: Path) -> Page:
    return Page(write_index(root).read_text("utf-8"))


def judge(run: Path, **facts: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / VERDICT).write_text(json.dumps(facts))


def test_all_runs_newest_first(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    for day, verdict in ((20, "FIRST"), (22, "NO-GO"), (21, "GO")):
        run = make_run(f"nightly/2026-11-{day}", tasks=("gsm8k",), budgets=(4,), n=3)
        fire = f"2026-11-{day}T02:30:00+01:00"
        base = str(tmp_path / "nightly/2026-11-20")
        judge(run, suite="nightly", fire=fire, verdict=verdict, why="because", base=base)
        (run / "report.html").touch()
        (run / "comparison.md").touch()
    make_run("by-hand", tasks=("gsm8k",), budgets=(4,), n=3)
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "run.json").write_text('{"created_at": "2026-11-23T10:00:00+00:00"}')
    found = page(tmp_path)
    rows = found.rows[1:]
    order = [re.search(r"going|by-hand|nightly/2026-11-\d\d", row) for row in rows]
    assert [name[0] for name in order if name] == [
        "going",
        "nightly/2026-11-22",
        "by-hand",
        "nightly/2026-11-21",
        "nightly/2026-11-20",
    ]
    assert "not finished" in rows[0]
    assert "2026-11-22 01:30" in rows[1] and "NO-GO" in rows[1] and "because" in rows[1]
    assert "./nightly/2026-11-22/report.html" in found.links
    assert "./nightly/2026-11-22/comparison.md" in found.links
    assert all(link.startswith(("./", "data:")) for link in found.links)
    assert {"script", "form", "table", "svg"} <= found.tags


def test_what_runs_say_is_text(tmp_path: Path) -> None:
    name = "a b#<img src=x>"
    judge(tmp_path / name, verdict="<b>GO</b>", why="<script>alert(1)</script>\u202eog")
    (tmp_path / name / "report.html").touch()
    text = write_index(tmp_path).read_text("utf-8")
    found = Page(text)
    assert not found.tags & {"img", "b"} and text.count("<script>") == 1
    assert "<script>alert(1)</script>\\u202eog" in found.rows[1]
    script = re.search("<script>(.*)</script>", text, re.DOTALL)
    assert script and "alert" not in script[1]
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in html.unescape(text)
    assert "./a%20b%23%3Cimg%20src%3Dx%3E/report.html" in found.links


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("run.json", "{", "run.json cannot be read: Expecting"),
        ("_SUCCESS.json", "[]", "_SUCCESS.json holds no JSON object"),
        ("_SUCCESS.json", ODD, "_SUCCESS.json does not count its rows"),
        ("_SUCCESS.json", '{"rows": 1, "files": 7}', "does not list the files"),
        (VERDICT, "\x00", "verdict.json cannot be read"),
        ("cells/part-00000.parquet", "PAR1", "is not the file that _SUCCESS.json lists"),
        ("cells/part-00000.parquet", None, "cells/part-00000.parquet cannot be read"),
    ],
)
def test_a_broken_run_hides_no_other_and_says_why(
    tmp_path: Path, make_run: Callable[..., Path], name: str, content: str | None, why: str
) -> None:
    broken = make_run("broken", tasks=("gsm8k",), budgets=(4,), n=3)
    make_run("fine", tasks=("gsm8k",), budgets=(4,), n=3)
    (broken / name).unlink(missing_ok=True)
    if content is not None:
        (broken / name).write_text(content)
    rows = {row.split()[-1]: row for row in page(tmp_path).rows[1:]}
    said = {name: next(row for row in rows.values() if name in row) for name in ("broken", "fine")}
    assert why in said["broken"] and "✕ broken" in said["broken"]
    assert "tiny-mdlm, tiny-ar · gsm8k" in said["fine"] and "✕" not in said["fine"]


def test_only_files_inside_of_a_run_are_read(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    run = make_run("run", tasks=("gsm8k",), budgets=(4,), n=3)
    success = json.loads((run / "_SUCCESS.json").read_text())
    for entry in success["files"]:
        entry["path"] = f"../run/{entry['path']}"
    (run / "_SUCCESS.json").write_text(json.dumps(success))
    assert "which lies outside of the run" in page(tmp_path).rows[1]


def entry(at: int, verdict: str, accuracy: float | None, suite: str = "nightly") -> Entry:
    tone = TONES.get(verdict, "none")
    cells = {
        ("gsm8k", "m", decoder, steps, 64, mode, 0): value
        for decoder, steps, mode, value in (
            ("ar", 64, "throughput", 0.9),
            ("llada", 64, "latency", 0.8),
            ("llada", 8, "throughput", 0.1),
            ("llada", 32, "throughput", accuracy),
        )
        if value is not None and accuracy is not None
    }
    began = f"2026-11-{at:02d} 02:30"
    return Entry(str(at), suite, began, verdict, tone, accuracies=cells, rows=10, wall_s=5.0)


def test_a_line_is_the_main_cell_of_its_suite_over_the_runs() -> None:
    runs = [entry(1, "FIRST", 0.5), entry(2, "FAILED", None), entry(3, "INCONCLUSIVE", 0.25)]
    runs += [entry(4, "NO-GO", 0.0)]
    (suite,) = suites([*runs[::-1], entry(5, "GO", 0.5, suite="once")])
    accuracy, speed = suite.lines
    assert accuracy.label == "gsm8k: m · llada, 32 steps"
    assert (accuracy.latest, accuracy.spread) == ("0%", "0% to 50%")
    assert [mark.tone for mark in accuracy.marks] == ["good", "bad", "unsure", "bad"]
    top, _, middle, bottom = accuracy.marks
    assert top.y < middle.y < bottom.y and middle.y == pytest.approx((top.y + bottom.y) / 2)
    assert accuracy.path.count("M") == 2, "no line through a run without a value"
    assert accuracy.marks[1].title == "2026-11-02 02:30, FAILED: no value"
    assert "4 runs from 2026-11-01 02:30" in accuracy.words and "2 with a bad" in accuracy.words
    assert speed.latest == "2.00" and len({mark.y for mark in speed.marks}) == 1


def test_a_line_needs_two_values() -> None:
    assert suites([entry(2, "FAILED", None), entry(1, "", 0.5)])[0].lines[0].label == (
        "rows/s of a whole run"
    )
    assert suites([entry(1, "GO", 0.5)]) == []


def test_it_is_replaced_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    before = write_index(tmp_path).read_text("utf-8")
    assert "No run has begun here." in before
    with pytest.raises(ReportError, match="is not a directory"):
        write_index(tmp_path / "index.html")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
