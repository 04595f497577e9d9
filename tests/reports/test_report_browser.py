"""The page in a real browser: charts drawn, no error, no request, tables that work."""

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.render import render

MakeRun = Callable[..., Path]
BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")

DRIVER = """
addEventListener("load", () => {
  const log = {};
  const rows = () => [...document.querySelectorAll("#cells tbody tr")];
  const column = (at) => rows().map((row) => Number(row.cells[at].dataset.order));
  const steps = document.querySelectorAll("#cells th button")[2];
  steps.click(); log.up = column(2).join();
  steps.click(); log.down = column(2).join();
  const filter = document.querySelector("[data-table=cells] .task-filter");
  filter.value = "gsm8k"; filter.dispatchEvent(new Event("change"));
  log.kept = rows().filter((row) => row.checkVisibility()).map((row) => row.dataset.task).join();
  log.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  log.requests = performance.getEntriesByType("resource").filter(
    (entry) => !entry.name.startsWith("data:")).length;
  document.body.dataset.log = JSON.stringify(log);
});
"""


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The DOM after loading, and what the page wrote to the console."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
            "--dump-dom",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(console)


def driven(page: Path) -> Path:
    """A copy of the page with DRIVER in it, allowed by a hash of its own."""
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = page.read_text("utf-8").replace(
        "script-src &#39;sha256-", f"script-src &#39;sha256-{digest}&#39; &#39;sha256-", 1
    )
    assert digest in text
    copy = page.with_name("driven.html")
    copy.write_text(text.replace("</main>\n", f"</main>\n<script>{DRIVER}</script>\n", 1), "utf-8")
    return copy


def test_charts_are_drawn_without_an_error(make_run: MakeRun, tmp_path: Path) -> None:
    page = render(make_run(budgets=(4, 16), n=8, modes=("throughput", "latency"), failed_every=5))
    dom, console = browse(page, tmp_path / "profile")
    assert console == ""
    assert 'data-charts="drawn"' in dom
    plots = re.findall(r'data-figure="([\w-]+)"', dom)
    assert len(plots) > 15
    parts = dom.split('class="plot js-plotly-plot"')[1:]
    assert len(parts) == len(plots)
    assert all('class="main-svg"' in part and "<path" in part for part in parts)
    assert "var(--" not in "".join(re.findall(r'<path class="js-line"[^>]*>', dom))


def test_tables_sort_and_filter_and_nothing_is_requested(make_run: MakeRun, tmp_path: Path) -> None:
    page = render(make_run(tasks=("mmlu", "gsm8k"), budgets=(16, 4), n=5))
    dom, console = browse(driven(page), tmp_path / "profile", "--window-size=500,900")
    assert console == ""
    log = re.search(r'<body data-log="([^"]+)"', dom)
    assert log, "the driver did not run"
    found = log[1].replace("&quot;", '"')
    assert '"up":"4,4,16,16,64,64"' in found
    assert '"down":"64,64,16,16,4,4"' in found
    assert '"kept":"gsm8k,gsm8k,gsm8k"' in found
    assert '"wide":false' in found, "the page must not scroll sideways on a phone"
    assert '"requests":0' in found


def test_hostile_output_does_not_run(make_run: MakeRun, tmp_path: Path) -> None:
    def output(task: str, at: int) -> str:
        return (
            "</pre></script><script>document.documentElement.id='owned'</script>"
            "<img src=x onerror=\"document.documentElement.id='owned'\">"
            "<svg onload=\"document.documentElement.id='owned'\">"
        )

    page = render(make_run(tasks=("gsm8k",), budgets=(4,), n=4, output=output))
    dom, console = browse(page, tmp_path / "profile")
    assert console == ""
    assert '<html lang="en" data-charts="drawn">' in dom
    assert "&lt;img src=x onerror=" in dom
