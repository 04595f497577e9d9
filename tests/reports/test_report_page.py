"""The page as a file: whole, self-contained, and unmoved by what a model writes."""

import base64
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from rich.console import Console

from reports import pages
from reports.load import ReportError, load
from reports.render import page, render
from reports.terminal import summary
from reports.text import script_json, visible

MakeRun = Callable[..., Path]
SMALL = {"tasks": ("gsm8k-resampled", "lm1b"), "budgets": (4, 16), "n": 6}
HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<a href=\"javascript:document.title='owned'\">x</a>",
    "</pre></style><style>*{display:none}</style>",
    "{{ 7 * 7 }} {% raw %} ${7*7} %{x}",
    "<!-- ' \" ` --> &lt; ]]>",
]


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag in ("script", "style")
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        else:
            self.text += data

    def figures(self) -> dict[str, Any]:
        inert = [script for script in self.scripts if script.startswith('{"')]
        return dict(json.loads(inert[0])) if inert else {}

    def samples(self) -> str:
        """The text of all that the explorer holds, as JSON without escapes."""
        data = [script for script in self.scripts if script.startswith('{"parts"')]
        parts = [
            json.loads(zlib.decompress(base64.b64decode(part)))
            for part in json.loads(data[0])["parts"]
        ]
        return json.dumps(parts, ensure_ascii=False)

    def policy(self) -> str:
        return next(
            str(attributes["content"])
            for tag, attributes in self.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        )


def test_the_page_needs_no_network(make_run: MakeRun) -> None:
    out = render(make_run(**SMALL))
    assert out.stat().st_size < 6_000_000
    found = Page(out.read_text("utf-8"))
    for tag, attributes in found.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img", "video", "audio")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith(
                ("data:", "#", "./report.tables/")
            ), (tag, attributes)
    own = [script for script in found.scripts if "plotly.js v" not in script[:200]]
    assert len(own) == 4
    assert not [text for text in own if re.search(r"https?:|@import|url\(|fetch\(", text)]


def test_the_policy_allows_the_two_scripts_and_nothing_else(make_run: MakeRun) -> None:
    found = Page(page(load(make_run(**SMALL))))
    policy = dict(part.split(" ", 1) for part in found.policy().split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert policy["base-uri"] == policy["form-action"] == "'none'"
    running = [script for script in found.scripts[1:] if not script.startswith('{"')]
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in running]
    assert policy["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(digests) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_output_is_text(make_run: MakeRun, text: str) -> None:
    clean = Page(page(load(make_run("clean", **SMALL))))
    found = Page(page(load(make_run("hostile", **SMALL, output=lambda task, at: text))))
    assert json.dumps(text, ensure_ascii=False)[1:-1] in found.samples()
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in clean.tags]
    assert found.policy() == clean.policy()


def test_hostile_names_are_text(make_run: MakeRun) -> None:
    path = make_run(**SMALL)
    about = json.loads((path / "run.json").read_text())
    about["models"]["<b>\ud800\u202e"] = {"dtype": HOSTILE[0], "digest": None}
    about["versions"] = {HOSTILE[1]: HOSTILE[2]}
    about["hardware"]["cpu"] = HOSTILE[3]
    (path / "run.json").write_text(json.dumps(about))
    success = json.loads((path / "_SUCCESS.json").read_text())
    success.update(run_id=HOSTILE[0], created_at=HOSTILE[1])
    (path / "_SUCCESS.json").write_text(json.dumps(success))
    text = render(path).read_text("utf-8")
    found = Page(text)
    assert "<b>\\ud800\\u202e" in found.text
    assert all(hostile in found.text for hostile in HOSTILE[:4])
    assert not [tag for tag, _ in found.tags if tag == "img"]
    links = [str(attributes["href"]) for tag, attributes in found.tags if tag == "a"]
    assert links and all(link.startswith(("#", "./report.tables/")) for link in links)


def test_hidden_characters_are_shown(make_run: MakeRun) -> None:
    def output(task: str, at: int) -> str:
        return "a\x00b\x1b[31m\u202egnp.exe\u2028\u200b\x85\ttab\nline"

    found = Page(page(load(make_run(**SMALL, output=output)))).samples()
    assert r"a␀b␛[31m\\u202egnp.exe\\u2028\\u200b\\u0085\ttab\nline" in found
    assert "\x00" not in found and "\u202e" not in found


def test_visible_leaves_ordinary_text_alone() -> None:
    assert visible("Grüße, 世界 👩‍💻\n\tx = 1") == "Grüße, 世界 👩‍💻\n\tx = 1"
    assert visible("\ud83d \udfff \x7f \r") == "\\ud83d \\udfff ␡ ␍"


def test_long_output_is_cut_and_counted(make_run: MakeRun) -> None:
    text = page(load(make_run(**SMALL, output=lambda task, at: "x" * 1_000_000)))
    assert "… [980,000 more characters]" in Page(text).samples()
    assert len(text) < 6_000_000


def test_script_json_cannot_leave_its_element() -> None:
    value = {"a": "</script><!--&\u2028\u2029\ud800", "b": [float("nan"), float("inf"), 1.5]}
    written = script_json(value)
    assert not set(written) & set("<>&\u2028\u2029") and written.isascii()
    assert json.loads(written) == {"a": value["a"], "b": [None, None, 1.5]}


def test_figures_are_what_plotly_understands(make_run: MakeRun) -> None:
    found = Page(page(load(make_run(budgets=(4, 16), n=6, modes=("throughput", "latency")))))
    figures = found.figures()
    drawn = [
        attributes["data-figure"] for _, attributes in found.tags if "data-figure" in attributes
    ]
    assert sorted(figures) == sorted(str(name) for name in drawn)
    for name, figure in figures.items():
        go.Figure(figure)  # raises on a property that does not exist
        for axis in ("xaxis", "yaxis"):
            assert figure["layout"][axis]["title"]["text"], name
    charts = {name.rpartition("-")[0] for name in figures}
    modes = ("throughput", "latency")
    by_mode = ("speedup", "costs", "frontier", "spread-nfe", "spread-decode_s")
    assert charts == {
        "accuracy",
        "perplexity",
        "convergence",
        "lost",
        "duration",
        "forwards",
        *(f"{chart}-{mode}" for chart in by_mode for mode in modes),
    }


def test_points_carry_their_intervals(make_run: MakeRun) -> None:
    run = make_run(
        tasks=("gsm8k",), budgets=(4, 16), n=10, right=lambda task, decoder, steps, at: at < 5
    )
    figure = Page(page(load(run))).figures()["accuracy-0"]
    points = next(trace for trace in figure["data"] if trace["mode"] == "lines+markers")
    assert points["x"] == [4, 16] and points["y"] == [0.5, 0.5]
    assert points["error_y"]["array"] == pytest.approx([0.2634, 0.2634], abs=1e-4)
    assert "accuracy 50% [24–76%]<br>10 samples (small n)" in points["hovertext"][0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ar": False}, "can be compared with an autoregressive one"),
        ({"traces": False}, "has no traces of samples with a verdict"),
        ({"budgets": (16,)}, "at 16 steps"),
        ({"failed_every": 1}, "has rows with a verdict"),
        ({"failed_every": 1, "ar": False}, "none of 6 rows at 16 steps has a result"),
        ({"n": 1}, "small"),
        ({"right": lambda *_: False}, "No traced sample was right in the end"),
        ({"tasks": ("humaneval",)}, "not executed (no sandbox)"),
        ({"tasks": ("lm1b",)}, "lower is better"),
        ({"tasks": ()}, "This run has no cells."),
        ({"budgets": ()}, "No diffusion cell"),
        ({"ar_device": "cuda:H100"}, "differs in device"),
    ],
)
def test_degenerate_runs_have_a_report(
    make_run: MakeRun, settings: dict[str, Any], said: str
) -> None:
    run = make_run(**{**SMALL, "tasks": ("gsm8k",), **settings})
    found = Page(page(load(run)))
    assert said in found.text
    assert not re.search(r"\b(nan|None|inf)\b", found.text)
    _printed(run, width=80)


def test_statuses_and_failures_are_in_view(make_run: MakeRun) -> None:
    found = Page(page(load(make_run(tasks=("gsm8k", "humaneval"), n=9, failed_every=3))))
    words = " ".join(found.text.split())
    assert "ok 39 error 30 timeout 0 quarantined 0 not executed 39" in words
    assert "RuntimeError: logits hold NaN at position 3" in words
    assert "3 failed" in words and "if failed = wrong" in words


def test_a_failure_without_a_message_says_so(make_run: MakeRun) -> None:
    run = load(make_run(tasks=("gsm8k",), n=2, failed_every=1))
    silent = replace(run, samples=run.samples.assign(error=None))
    found = Page(page(silent))
    assert "no message" in found.text and not re.search(r"\b(nan|None)\b", found.text)


def test_unfinished_run_writes_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(**SMALL)
    (path / "_SUCCESS.json").unlink()
    with pytest.raises(ReportError):
        render(path, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_the_page_replaces_the_old_one_or_leaves_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = make_run(**SMALL), tmp_path / "new" / "out.html"
    assert render(path, out) == out
    before = out.read_bytes()
    assert sorted(os.listdir(out.parent)) == ["out.html", "out.tables"]
    assert render(path, out).read_bytes() == before, "the same run gives the same page"

    def broken(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pages.os, "replace", broken)
    with pytest.raises(ReportError, match=r"out.html cannot be written: disk full"):
        render(path, out)
    assert out.read_bytes() == before
    assert sorted(os.listdir(out.parent)) == ["out.html", "out.tables"]


def _printed(run: Path, width: int) -> list[str]:
    written = io.StringIO()
    Console(width=width, file=written, color_system=None).print(summary(run))
    return written.getvalue().splitlines()


def test_summary_fits_a_log_of_80_columns(make_run: MakeRun) -> None:
    lines = _printed(make_run(n=24, failed_every=9), width=80)
    assert all(len(line) <= 80 and line.isascii() for line in lines)
    assert len(lines) == 1 + 5 + 5 * 6
    assert lines[0].split()[:4] == ["model", "decoder", "steps", "n"]
    row = lines[lines.index("gsm8k-resampled") + 5]
    assert re.fullmatch(
        r"  tiny-mdlm +llada +64 +21/24 +\d+% \[\d+-\d+%\] +[\d.]+ +[\d.]+ +[\d.]+x", row
    )


def test_a_narrow_summary_drops_columns_not_digits(make_run: MakeRun) -> None:
    run = make_run(**SMALL)
    wide, narrow = _printed(run, width=100), _printed(run, width=64)
    assert "tok/fwd" in wide[0] and "tok/fwd" not in narrow[0]
    assert [line.split()[-1] for line in wide] == [line.split()[-1] for line in narrow]


def test_the_contents_lead_to_every_section(make_run: MakeRun) -> None:
    text = page(load(make_run(**SMALL)))
    nav = text[text.index('<nav aria-label="Contents">') :]
    links = re.findall(r'<a href="#([a-z-]+)">([^<]+)</a>', nav[: nav.index("</nav>")])
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", text)
    assert [words for _, words in links] == headings
    assert all(text.count(f'id="{anchor}"') == 1 for anchor, _ in links)
