"""The page in a real browser: drawn, quiet, usable by keyboard, unmoved by what models write."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from reports.explorer import pack
from reports.render import render

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")

CANARY = "globalThis.owned = 1"
HOSTILE = (
    f"</pre></script><script>{CANARY}</script><img src=x onerror='{CANARY}'></style>"
    f"<svg onload='{CANARY}'><a href='javascript:{CANARY}'>x</a>\u202e\x00{{{{7*7}}}}"
)
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x00", "␀")

MakeRuns = Callable[..., Path]


@dataclass
class Visit:
    """A page that is open, and what it did."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, name: str) -> str:
        return self.page.locator(f"#ex-{name}").inner_text()

    def written(self) -> list[str]:
        """The canvas place by place; masks are empty."""
        return self.page.locator("#ex-canvas > span").all_inner_texts()

    def pick(self, at: int) -> None:
        """Opens a row of the list, and waits until its sample is shown."""
        link = self.page.locator("#ex-rows a").nth(at)
        link.click()
        expect(link).to_have_attribute("aria-current", "true")

    def go(self, hash_: str) -> None:
        self.page.evaluate("hash => { location.hash = hash }", hash_)


Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    contexts = []

    def to(path: Path, hash_: str = "", script: str = "", **settings: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        context.set_default_timeout(60_000)
        found = Visit(context.new_page())
        found.page.add_init_script(script)
        found.page.on("console", lambda message: found.console.append(message.text))
        found.page.on("pageerror", lambda error: found.console.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri() + hash_)
        found.page.locator("#explorer[data-ready]").wait_for()
        if not script:
            found.page.locator("html[data-charts=drawn]").wait_for()
        return found

    yield to
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def plain(make_runs: MakeRuns) -> Path:
    """Two tasks, two modes, failures; samples that were lost on the way."""
    return render(
        make_runs(
            tasks=("gsm8k-resampled", "humaneval"),
            budgets=(4, 16),
            n=8,
            modes=("throughput", "latency"),
            failed_every=7,
        )
    )


def _made_hostile(plan: Any) -> None:
    for at, row in enumerate(plan.samples):
        row.update(prompt=HOSTILE, target=HOSTILE, detail=HOSTILE, category=HOSTILE)
        row.update(sample_id=f"{HOSTILE}{at % 4}", worker=HOSTILE)
        if row["status"] != "ok":
            row.update(error=HOSTILE)
        elif row["correct"] is not None:
            row.update(answer=HOSTILE)
    for row in plan.steps:
        row.update(answer=HOSTILE)
    # A letter of every output is the whole text in one token; others are the bytes of U+202E.
    plan.words |= {ord("2"): HOSTILE.replace("\x00", "").encode()}
    plan.words |= {ord("+"): b"\xe2", ord(" "): b"\x80\xae", ord("#"): b"\xff"}


@pytest.fixture(scope="module")
def hostile(make_runs: MakeRuns) -> Path:
    run = make_runs(
        _made_hostile,
        tasks=("gsm8k",),
        budgets=(4,),
        n=4,
        failed_every=3,
        output=lambda task, at: f"2+ #{HOSTILE}" + "x" * (1_000_000 if at == 2 else 0),
    )
    return render(run)


@pytest.fixture(scope="module")
def folder(make_runs: MakeRuns) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "INLINE_BYTES", 1000)
        patch.setattr(pack, "GROUP_ROWS", 4)
        yield render(make_runs(tasks=("gsm8k-resampled",), budgets=(4, 16), n=6))


def test_the_page_opens_from_disk_and_asks_for_nothing(plain: Path, visit: Open) -> None:
    found = visit(plain)
    plots = found.page.locator(".plot")
    assert plots.count() > 5
    assert found.page.locator(".plot .main-svg path").count() > 5 * plots.count()
    assert found.console == []
    assert found.requests == [plain.as_uri()]


def test_charts_out_of_view_are_drawn_later_or_for_the_printer(plain: Path, visit: Open) -> None:
    page = visit(plain, script="window.requestIdleCallback = () => 0").page
    plots, drawn = page.locator(".plot"), page.locator(".plot:has(.main-svg)")
    page.locator(".plot").first.scroll_into_view_if_needed()
    page.locator(".plot").first.locator(".main-svg").first.wait_for()
    assert 0 < drawn.count() < plots.count()
    height = page.evaluate("document.documentElement.scrollHeight")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert drawn.count() == plots.count()
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_a_table_sorts(plain: Path, visit: Open) -> None:
    page = visit(plain).page
    table = page.get_by_role("table").filter(has=page.get_by_role("button", name="steps"))
    table = table.first
    head = table.get_by_role("columnheader", name=re.compile(r"^steps\W*$"))
    heads = table.get_by_role("columnheader").all_inner_texts()
    column = next(at for at, text in enumerate(heads) if text.strip() == "steps")

    def steps() -> list[int]:
        rows = table.locator("tbody tr").all()
        return [int(row.locator("td").nth(column).inner_text().split()[0]) for row in rows]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert steps() == sorted(steps()) and len(set(steps())) > 1
    head.get_by_role("button").click()
    assert steps() == sorted(steps(), reverse=True)


def test_a_table_filters_by_words_and_task(plain: Path, visit: Open) -> None:
    page = visit(plain).page
    controls = page.locator("[data-table=cells]")
    rows = page.locator("#cells tbody tr")
    total = rows.count()
    words = controls.get_by_role("searchbox", name="Filter")
    words.focus()
    page.keyboard.type("LATENCY tiny-ar")
    kept = rows.locator("visible=true").all_inner_texts()
    assert len(kept) == 2 and all("tiny-ar" in row and "latency" in row for row in kept)
    assert controls.locator("output").inner_text() == f"2 of {total} rows"
    controls.get_by_role("combobox", name="Task").select_option("humaneval")
    assert rows.locator("visible=true").count() == 1
    words.fill("")
    assert rows.locator("visible=true").count() == total // 2
    rows.locator("visible=true").first.get_by_role("link").click()
    assert "#cell=" in page.url and page.locator("#explorer").is_visible()


def test_steps_and_samples_by_keyboard(plain: Path, visit: Open) -> None:
    found = visit(plain)
    page, keyboard = found.page, found.page.keyboard
    choices = page.get_by_role("search", name="Filter the samples")
    for name, value in (
        ("Task", "gsm8k-resampled"),
        ("Steps", "4"),
        ("Mode", "latency"),
        ("Outcome", "right"),
    ):
        choices.get_by_role("combobox", name=name, exact=True).select_option(value)
    rows = page.get_by_role("navigation", name="Samples").get_by_role("listitem")
    count = rows.count()
    assert 1 < count < 8 and found.text("count").startswith(f"{count} of 96 ")
    rows.first.get_by_role("link").focus()
    keyboard.press("Enter")
    expect(page.locator("#ex-where")).to_contain_text("4 steps · latency")
    first = found.text("title")

    assert found.text("step-now") == "4 / 4" and "" not in found.written()
    keyboard.press("Home")
    assert found.text("step-now") == "0 / 4" and set(found.written()) == {""}
    for step in (1, 2):
        keyboard.press("ArrowRight")
        assert found.text("step-now") == f"{step} / 4"
        assert [text == "" for text in found.written()] == [False] * 16 * step + [True] * (
            64 - 16 * step
        )
    fresh = page.locator("#ex-canvas .fresh")
    assert fresh.count() == 16
    heard = page.locator("#ex-live").inner_text()
    assert heard.startswith("Step 2 of 4: 16 tokens written, 32 masks left, answer ")
    assert "step=2" in page.url
    keyboard.press("ArrowLeft")
    assert found.text("step-now") == "1 / 4"
    keyboard.press("End")
    assert found.text("step-now") == "4 / 4" and "step=" not in page.url

    keyboard.press("j")
    expect(page.locator("#ex-title")).not_to_have_text(first)
    keyboard.press("ArrowUp")
    expect(page.locator("#ex-title")).to_have_text(first)

    keyboard.press(" ")
    expect(page.locator("#ex-play")).to_have_text("❚❚ pause")
    keyboard.press("Escape")
    expect(page.locator("#ex-play")).to_have_text("▶ play")
    keyboard.press("Escape")
    assert page.locator("#ex-sample").is_hidden()
    assert "sample=" not in page.url and "outcome=right" in page.url

    search = choices.get_by_role("searchbox")
    search.press_sequentially("j k")
    assert search.input_value() == "j k" and page.locator("#ex-sample").is_hidden()
    expect(page.locator("#ex-none")).to_be_visible()
    search.fill("a farm has 3 hens")
    choices.get_by_role("combobox", name="Outcome").select_option("")
    expect(page.locator("#ex-count")).to_have_text("1 of 96 rows")
    assert found.console == []


def test_links_lead_to_a_step_and_back(plain: Path, visit: Open) -> None:
    cell = "gsm8k-resampled/tiny-mdlm/llada/16/throughput"
    found = visit(plain, f"#cell={cell}")
    page = found.page
    assert found.text("count") == "8 of 96 rows"
    link = page.locator("#ex-rows a").nth(2)
    sid = dict(part.split("=") for part in str(link.get_attribute("href"))[1:].split("&"))["sample"]
    link.click()
    page.locator("#ex-sample").wait_for()
    title = found.text("title")
    page.go_back()
    expect(page.locator("#ex-sample")).to_be_hidden()
    assert found.text("count") == "8 of 96 rows"
    page.go_forward()
    expect(page.locator("#ex-title")).to_have_text(title)

    other = visit(plain, f"#sample={sid}&step=5")
    expect(other.page.locator("#ex-title")).to_have_text(title)
    assert other.text("step-now") == "5 / 16" and other.text("count") == "96 rows"
    other.page.keyboard.press("ArrowRight")
    assert other.text("step-now") == "6 / 16", "the keys work at once"
    other.go("#sample=nobody")
    expect(other.page.locator("#ex-problem")).to_contain_text("--samples all")
    assert found.console == other.console == []


def test_what_models_write_stays_text(hostile: Path, visit: Open) -> None:
    found = visit(hostile)
    page = found.page
    for at in range(page.locator("#ex-rows a").count()):
        found.pick(at)
        page.keyboard.press("Home")
        page.keyboard.press("End")
    assert SHOWN in found.text("prompt") and SHOWN in found.text("title")
    page.locator("#ex-q").fill("onerror")
    expect(page.locator("#ex-count")).to_have_text("8 rows")
    outputs = page.locator("#ex-output").inner_text()
    assert SHOWN in outputs
    canvas = found.written()
    assert "\\u202e" in canvas and "⟨FF⟩" in canvas and "‥" in canvas
    assert any(text.startswith("</pre></script>") for text in canvas)
    assert page.evaluate(
        "[globalThis.owned, document.querySelectorAll('#explorer img').length]"
    ) == [
        None,
        0,
    ]
    assert "\u202e" not in page.content() and found.console == []
    assert len(found.requests) == 1


def test_data_beside_the_page_is_loaded_when_it_is_asked_for(folder: Path, visit: Open) -> None:
    beside = folder.parent / "report.data"
    found = visit(folder)
    page = found.page
    assert page.locator("#ex-sample").is_visible()
    files = [url for url in found.requests if "report.data" in url]
    assert len(files) == 2 < len(list(beside.iterdir())), "the index and one group"
    assert len(found.requests) == 3
    page.locator("#ex-q").fill("a farm has 3 hens")
    expect(page.locator("#ex-count")).to_have_text("3 of 18 rows")
    assert found.console == []
    assert "'nonce-" in str(page.locator("meta[http-equiv]").get_attribute("content"))

    last = page.locator("#ex-rows a").last
    moved = beside.rename(beside.with_name("elsewhere"))
    lost = visit_without_data(found, folder)
    moved.rename(beside)
    assert "report.data" in lost and "not beside this page" in lost
    last.click()
    expect(page.locator("#ex-output")).not_to_be_empty()


def visit_without_data(found: Visit, page: Path) -> str:
    other = found.page.context.new_page()
    other.goto(page.as_uri())
    problem = other.locator("#ex-problem")
    expect(problem).to_be_visible()
    return problem.inner_text()


def _edited(plan: Any) -> None:
    """The first sample's third step writes its first place anew; a token in two bytes beside it."""
    sid = plan.samples[0]["sid"]
    steps = {row["step"]: row for row in plan.steps if row["sid"] == sid}
    steps[1].update(committed=[0, 1, 2], tokens=[65, 200, 201], confidence=[0.2, 0.97, 0.6])
    steps[2].update(committed=[], tokens=[], confidence=[])
    steps[3].update(committed=[0], tokens=[66], confidence=[0.9])
    steps[4].update(committed=[3], tokens=[3_000], confidence=[0.5])
    plan.samples[0].update(output_ids=[66, 200, 201, 3_000], generated_tokens=3)
    plan.letters |= {("tiny-mdlm", token) for token in (65, 66, 200, 201)}
    plan.words |= {200: b"\xe4\xb8", 201: b"\x96"}


def test_a_place_that_is_written_twice(make_runs: MakeRuns, visit: Open) -> None:
    run = make_runs(_edited, tasks=("gsm8k",), budgets=(4,), n=2)
    found = visit(render(run), "#steps=4")
    found.pick(0)
    seen = []
    found.page.keyboard.press("Home")
    for _ in range(4):
        found.page.keyboard.press("ArrowRight")
        seen.append(found.written())
    assert seen == [
        ["A", "世", "‥", ""],
        ["A", "世", "‥", ""],
        ["B", "世", "‥", ""],
        ["B", "世", "‥", "#3000"],
    ]
    places = found.page.locator("#ex-canvas > span")
    assert "edited" in str(places.nth(0).get_attribute("class"))
    assert "replaced “A” of step 1" in str(places.nth(0).get_attribute("title"))
    levels = [str(places.nth(at).get_attribute("class")).split() for at in range(4)]
    assert ["sure-3" in levels[0], "sure-4" in levels[1], "sure-2" in levels[2]] == [True] * 3
    assert "after" in levels[3] and "after" not in levels[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(plain: Path, visit: Open, scheme: Any) -> None:
    found = visit(plain, "#steps=16", color_scheme=scheme)
    found.pick(1)
    found.page.keyboard.press("ArrowLeft")
    found.page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    # The policy keeps every script out, the checker's too, but what a debugger evaluates.
    faults = Axe().run(found.page).response["violations"]
    serious = [
        (fault["id"], [node["target"] for node in fault["nodes"]][:3])
        for fault in faults
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_a_phone_does_not_scroll_sideways(plain: Path, hostile: Path, visit: Open) -> None:
    for path in (plain, hostile):
        found = visit(path, viewport={"width": 390, "height": 844})
        found.pick(0)
        widths = found.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1] == 390
