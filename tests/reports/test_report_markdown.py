"""The report for a pull request: compact, and nothing that a model wrote is markup."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.report import main
from reports.analysis import analyse
from reports.markdown import markdown

MakeRun = Callable[..., Path]
SMALL = {"tasks": ("gsm8k-resampled", "lm1b"), "budgets": (4, 16), "n": 6}


def test_a_line_a_cell_and_what_failed(make_run: MakeRun) -> None:
    run = make_run(**SMALL, failed_every=3, right=lambda task, decoder, steps, at: at == 1)
    text = markdown(analyse(run))
    assert len([line for line in text.splitlines() if line.startswith("| tiny-")]) == 6
    row = next(line for line in text.splitlines() if "llada | throughput | 16" in line)
    assert r"| 4/6 \(small\) | 25% \[5–70%\] | 16.0 |" in row
    assert "| 4 | gsm8k-resampled | tiny-mdlm | error |" in text
    assert "- 28 ok, 8 error\n" in text and "throughput\\: cpu, 8 slots, float32" in text


def test_what_models_say_is_no_markup(make_run: MakeRun) -> None:
    hostile = "<img src=x onerror=y>|`a` [x](https://h) @team #1\n# head\u202e"
    run = make_run(**SMALL, error=hostile)
    text = markdown(analyse(run))
    said = next(line for line in text.splitlines() if "onerror" in line)
    assert (
        r"\<img src=x onerror=y\>\|\`a\` \[x\]\(https\://h\) @" + "\u200b" + r"team \#1 \# head"
    ) in said
    assert "\u202e" not in text and r"\\u202e" in said


def test_it_is_printed_or_written(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run(**SMALL), tmp_path / "report.md"
    assert main([str(run), "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## run-synthetic\\: 6 cells, 36 rows\n")
    assert main([str(run), "--format", "markdown", "--out", str(out)]) == 0
    assert out.read_text("utf-8") == printed
    assert not (run / "report.html").exists()
