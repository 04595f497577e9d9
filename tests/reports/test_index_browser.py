"""The page of all runs in a real browser: filters and sorting by keyboard, views as links, and
names that would run if they could."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from reports.index import VERDICT, write_index
from tests.reports.test_report_browser import CHROMIUM, HOSTILE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")

RUNS = 230


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for at in range(RUNS):
        run = folder / f"run-{at:03d}"
        run.mkdir()
        suite, verdict = ("nightly", "weekly")[at % 2], ("GO", "GO", "NO-GO")[at % 3]
        said = {"suite": suite, "verdict": verdict, "why": HOSTILE if at == 7 else f"seen w{at}"}
        fire = f"2026-{1 + at // 28:02d}-{1 + at % 28:02d}T02:30:00+00:00"
        (run / VERDICT).write_text(json.dumps(said | {"fire": fire}))
        success = {"rows": 100 + at, "wall_s": 10.0, "statuses": {"ok": 100, "error": at % 5}}
        (run / "_SUCCESS.json").write_text(json.dumps(success))
    write_index(folder)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: said.append(request.url))
        opened.goto((root / "index.html").as_uri())
        yield opened
        assert said == [(root / "index.html").as_uri()], "a request, a fault or a message"
        browser.close()


def names(page: Page) -> list[str]:
    return page.locator("#runs tbody tr:visible td:nth-child(4)").all_inner_texts()


def test_filters_sort_and_link(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert names(page)[0] == f"run-{RUNS - 1}" and len(names(page)) == 200
    page.get_by_role("button", name="Show all").click()
    assert len(names(page)) == RUNS
    page.keyboard.press("/")
    page.keyboard.type("seen w22")
    expect(page.locator("#count")).to_have_text(f"11 of {RUNS} runs")
    page.locator("select[name=suite]").select_option("weekly")
    assert names(page) == ["run-229", "run-227", "run-225", "run-223", "run-221"]
    page.get_by_role("button", name="Rows").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names(page)[0] == "run-221"
    assert page.evaluate("location.hash") == "#suite=weekly&q=seen+w22&sort=rows+up"
    page.locator("input[name=q]").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#count")).to_have_text(f"{RUNS} of {RUNS} runs")
    page.evaluate("location.hash = '#verdict=NO-GO&sort=failed+down&suite=none-such'")
    expect(page.locator("#count")).to_have_text(f"76 of {RUNS} runs")
    assert names(page)[0] == "run-224"


def test_names_and_texts_are_inert_and_the_page_is_accessible(page: Page) -> None:
    page.evaluate("location.hash = '#q=svg'")
    expect(page.locator("#count")).to_have_text(f"1 of {RUNS} runs")
    assert page.evaluate("globalThis.owned") is None
    found = Axe().run(page)
    serious = [
        rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")
    ]
    assert not serious, found.generate_report()
