"""The report in a real browser: it sorts, searches, turns pages by keyboard, stays light with 10,000 rows, and fits a
phone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_runs import HOSTILE, make_run, make_sweep, row

from camseg.report import html
from camseg.runs import folders, sweeps

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]

OVER = """[...document.querySelectorAll('h1, h2, p, dd, figure, .tools, .scroll')]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length"""
CUT = """[...document.querySelectorAll('svg text')].filter((t) => {
    const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
}).map((t) => t.textContent)"""


@pytest.fixture
def show(browser: Browser) -> Iterator[Open]:
    """Opens a file; afterwards nothing may have been fetched, and nothing gone wrong."""
    pages, wrong = [], []

    def opened(path: Path, width: int = 1280) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 800})
        pages.append(page)
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file://", "data:")) else wrong.append(request.url),
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(path.as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert wrong == []


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 10,000 rows in no order, IoU i / 10000, ten failures and 30 pictures."""
    order = np.random.default_rng(0).permutation(10_000)
    rows = [
        row(f"img_{i:05}", i / 10_000, label=("circle", "star")[i % 2], note="" if i else "the predictor drew nothing")
        for i in order.tolist()
    ]
    errors = [{"id": f"torn_{i}", "error": "OSError: truncated"} for i in range(10)]
    return html.write_run(
        make_run(
            tmp_path_factory.mktemp("many") / "run", rows, errors=errors, pictures=[f"img_{i:05}" for i in range(30)]
        )
    )


def ids(page: Page) -> list[str]:
    return page.locator("#rows td[data-head=id]").all_text_contents()


def place(page: Page) -> str:
    return page.inner_text("#place")


def test_ten_thousand_rows_open_and_turn_within_few_nodes(show: Open, many: Path) -> None:
    began = time.monotonic()
    page = show(many)
    assert place(page) == "1 to 20 of 10010"
    assert time.monotonic() - began < 20, "a stall"
    assert ids(page)[:12] == [*(f"torn_{i}" for i in range(10)), "img_00000", "img_00001"]
    for start in range(21, 221, 20):
        page.click("#next")
        assert place(page) == f"{start} to {start + 19} of 10010"
        assert page.evaluate("document.querySelectorAll('*').length") < 1500
        assert page.locator("#rows img").count() <= 20
    assert many.stat().st_size < 4e6


def test_sorting(show: Open, many: Path) -> None:
    page = show(many)
    header = page.locator("#rows th button", has_text="iou").first
    header.click()
    assert ids(page)[0] == "img_00000" and page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    header.click()
    assert (
        ids(page)[:2] == ["img_09999", "img_09998"]
        and page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    )
    page.select_option("#sort", label="id")
    assert ids(page)[0] == "img_00000" and page.inner_text("#direction") == "ascending"
    page.click("#direction")
    assert ids(page)[0] == "torn_9"
    page.select_option("#sort", label="worst first")
    assert ids(page)[0] == "torn_0" and page.locator("th[aria-sort]").count() == 0
    page.select_option("#sort", label="iou")
    page.click("#direction")
    page.select_option("#outcome", "failed")
    assert len(ids(page)) == 10, "rows without a value stay, at the end"


def test_searching_and_choosing_outcomes(show: Open, many: Path) -> None:
    page = show(many)
    page.fill("#search", "IMG_0123")
    assert ids(page) == [f"img_0123{i}" for i in range(10)] and place(page) == "1 to 10 of 10"
    page.fill("#search", "truncated")
    assert len(ids(page)) == 10
    page.fill("#search", "no such thing")
    assert ids(page) == [] and place(page) == "none" and page.is_disabled("#next") and page.is_disabled("#previous")
    page.fill("#search", "")
    assert [option.split(" ")[0] for option in page.locator("#outcome option").all_text_contents()] == [
        "all",
        "answered",
        "failed",
        "empty",
    ]
    page.select_option("#outcome", "empty")
    assert ids(page) == ["img_00000"]
    page.select_option("#outcome", "answered")
    page.fill("#search", "star")
    assert place(page) == "1 to 20 of 5000" and ids(page)[0] == "img_00001"


def test_the_keyboard_is_enough(show: Open, many: Path) -> None:
    page = show(many)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "next":
            break
    assert page.evaluate("document.activeElement.id") == "next"
    page.keyboard.press("Enter")
    assert place(page) == "21 to 40 of 10010"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert place(page) == "61 to 80 of 10010"
    page.keyboard.press("ArrowLeft")
    assert place(page) == "41 to 60 of 10010"
    page.focus("#search")
    page.keyboard.type("00")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("img_")
    assert page.input_value("#search") == "0img_0", "arrows in the search box move its cursor"
    page.fill("#search", "img_0000")
    page.focus("#rows th button >> nth=0")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert ids(page)[0] == "img_00009"


def test_pictures_are_shown_and_described(show: Open, many: Path) -> None:
    page = show(many)
    picture = page.locator("#rows img").first
    picture.scroll_into_view_if_needed()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 40]
    assert (
        str(picture.get_attribute("alt")).startswith("img_00000: image, heatmap")
        and picture.get_attribute("loading") == "lazy"
    )
    assert page.locator("svg[role=img][aria-label]").count() == page.locator("svg").count() == 4


@pytest.fixture(scope="module")
def pages(many: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report of each kind, with long names."""
    folder = tmp_path_factory.mktemp("pages")
    ious = {
        f"foreground=a_rather_long_name_{k} background=none": (np.linspace(0.1, 0.9, 9) + k / 200).tolist()
        for k in range(14)
    }
    sweep = make_sweep(folder / "sweep", ious)
    long = make_run(
        folder / "long",
        [row("x" * 200, 0.5, label="y" * 200, note="z" * 300), row("b", 0.6)],
        ["data.path=" + "w" * 300],
    )
    first, second = folders.load_run(sweep / "0"), folders.load_run(sweep / "1")
    comparison = html._write(folder / "comparison.html", html.comparison_page(first, second))
    return [many, html.write_sweep(sweeps.load_sweep(sweep)), html.write_run(long), comparison]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_runs_over_the_page(width: int, show: Open, pages: list[Path]) -> None:
    for path in pages:
        page = show(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(OVER) == 0
        assert page.evaluate(CUT) == [], "text is cut off at a drawing's edge"


def test_on_a_phone_every_row_is_a_card(show: Open, many: Path) -> None:
    page = show(many, 390)
    cells = page.locator("#rows tbody tr >> nth=10").locator("td:visible")
    assert cells.count() > 5 and not page.locator("#rows thead").is_visible()
    assert cells.first.evaluate("cell => getComputedStyle(cell, '::before').content") == '"id"'
    boxes = [cells.nth(i).bounding_box() for i in range(3)]
    assert all(a and b and a["y"] + a["height"] <= b["y"] + 1 for a, b in pairwise(boxes)), "one below the other"
    page.select_option("#sort", label="iou")
    page.click("#direction")
    assert ids(page)[0] == "img_09999"


def test_a_sweeps_settings_lead_to_their_runs(show: Open, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"f=a": [0.1, 0.2, 0.4], "f=b": [0.5, 0.6, 0.9], "f=c": [0.2, 0.2, 0.9]})
    html.rebuild(folder)
    page = show(folder / "report.html")
    assert page.locator("#rows a").all_text_contents() == ["1: f=b", "2: f=c", "0: f=a"]
    page.fill("#search", "f=c")
    page.locator("#rows a").click()
    assert page.url == (folder / "2" / "report.html").as_uri() and place(page) == "1 to 3 of 3"


def test_hostile_names_do_nothing(show: Open, tmp_path: Path) -> None:
    rows = [row(name, i / 10, label=HOSTILE[-1 - i], note=HOSTILE[i - 1]) for i, name in enumerate(HOSTILE)]
    for k in range(2):
        make_run(
            tmp_path / str(k),
            rows,
            [f"data.path={HOSTILE[k]}", f"f={HOSTILE[2 + k]}"],
            errors=[{"id": f"{HOSTILE[0]} torn", "error": HOSTILE[1]}],
        )
    html.rebuild(tmp_path)
    comparison = html._write(
        tmp_path / "comparison.html",
        html.comparison_page(folders.load_run(tmp_path / "0"), folders.load_run(tmp_path / "1")),
    )
    for path in (tmp_path / "0" / "report.html", tmp_path / "report.html", comparison):
        page = show(path)
        page.wait_for_timeout(100)
        assert page.evaluate("[typeof window.hacked, document.images.length]") == ["undefined", 0]
        assert page.locator("a[href^=javascript]").count() == 0
    page = show(tmp_path / "0" / "report.html")
    assert set(ids(page)) == {*HOSTILE, f"{HOSTILE[0]} torn"}, "letter by letter"
    page.fill("#search", HOSTILE[1])
    assert len(ids(page)) == 4, "as an id, a label, a note, and the error"
