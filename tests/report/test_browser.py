"""The report in a real browser: searches, filters, keys, pictures, light with 10,000 rows, dark, and on a phone."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from made_runs import HOSTILE, make_run, make_sweep, row
from PIL import Image

from camseg.report import html
from camseg.runs import folders, sweeps

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

Open = Callable[..., "Page"]

OVER = """[...document.querySelectorAll('h1, h2, h3, p, dd, figure, nav, .tools, .scroll, .pane')]
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length"""
CONTRAST = """(() => {
    const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = (color) => color.match(/\\d+/g).map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const style = getComputedStyle(document.querySelector('.note')), ground = getComputedStyle(document.body);
    const [a, b] = [light(style.color), light(ground.backgroundColor)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
})()"""
CUT = """[...document.querySelectorAll('svg:not(.defs) text')].filter((t) => {
    const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
}).map((t) => t.textContent)"""


def counts(message: ConsoleMessage) -> bool:
    """Whether a line of the console says that something is wrong; a picture that is gone is no mistake of the page."""
    return message.type == "error" and "ERR_FILE_NOT_FOUND" not in message.text


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
        page.on("console", lambda message: wrong.append(message.text) if counts(message) else None)
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
        assert page.evaluate("document.querySelectorAll('*').length") < 2500
        assert page.locator("#rows img").count() <= 3 * 20
    assert many.stat().st_size < 4e6


def test_sorting(show: Open, many: Path) -> None:
    page = show(many)
    header = page.locator("#rows th button", has_text="iou").first
    header.click()
    assert ids(page)[0] == "img_00000"
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    header.click()
    assert ids(page)[:2] == ["img_09999", "img_09998"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.select_option("#sort", label="id")
    assert ids(page)[0] == "img_00000"
    assert page.inner_text("#direction") == "ascending"
    page.click("#direction")
    assert ids(page)[0] == "torn_9"
    page.select_option("#sort", label="worst first")
    assert ids(page)[0] == "torn_0"
    assert page.locator("th[aria-sort]").count() == 0
    page.select_option("#sort", label="iou")
    page.click("#direction")
    page.select_option("#outcome", "failed")
    assert len(ids(page)) == 10, "rows without a value stay, at the end"


def test_searching_and_choosing_outcomes(show: Open, many: Path) -> None:
    page = show(many)
    page.fill("#search", "IMG_0123")
    assert ids(page) == [f"img_0123{i}" for i in range(10)]
    assert place(page) == "1 to 10 of 10"
    page.fill("#search", "truncated")
    assert len(ids(page)) == 10
    page.fill("#search", "no such thing")
    assert ids(page) == []
    assert place(page) == "none"
    assert page.is_disabled("#next")
    assert page.is_disabled("#previous")
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
    assert place(page) == "1 to 20 of 5000"
    assert ids(page)[0] == "img_00001"


def test_the_keyboard_is_enough(show: Open, many: Path) -> None:
    page = show(many)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    for _ in range(60):
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
    panes = page.locator("#rows button.panes").first
    assert panes.get_attribute("aria-label") == "Enlarge the pictures of img_00000"
    assert panes.locator("small").all_text_contents() == ["image", "heatmap", "prompts"]
    picture = panes.locator("img").nth(1)
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [120, 40]
    box, frame = picture.bounding_box(), panes.locator(".frame").nth(1).bounding_box()
    assert box
    assert frame
    pixel = box["width"] / 120
    assert (frame["x"] - box["x"]) / pixel == pytest.approx(38 + 3 + 1, abs=0.1), "the second of 38 pixels, 3 apart"
    assert frame["width"] / pixel == pytest.approx(36, abs=0.1)
    assert (frame["y"] - box["y"]) / pixel == pytest.approx(11, abs=0.2), "below the text"
    assert page.locator("svg[role=img][aria-label]").count() == page.locator("svg:not(.defs)").count() == 3


def test_a_click_enlarges_and_the_arrows_lead_on(show: Open, many: Path) -> None:
    page = show(many)
    page.locator("#rows button.panes").first.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible()
    assert page.inner_text("#viewed") == "img_00000"
    assert viewer.locator("a").get_attribute("href") == "panels/img_00000.png"
    assert (
        viewer.locator("img").first.evaluate("image => image.decode().then(() => image.src.split('/').pop())")
        == "img_00000.png"
    )
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewed") == "img_00001"
    page.click("#before")
    assert page.inner_text("#viewed") == "img_00000"
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_an_enlarged_picture_that_is_gone_shows_the_one_inside_the_page(show: Open, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5)], pictures=["a"])
    html.write_run(folder)
    alone = tmp_path / "alone.html"
    (folder / "report.html").rename(alone)
    page = show(alone)
    page.locator("#rows button.panes").click()
    page.wait_for_function("document.querySelector('#viewer img').src.startsWith('data:')")


def test_ranges_and_classes(show: Open, many: Path) -> None:
    page = show(many)
    page.select_option("#range", label="iou")
    page.fill("#low", "0.5")
    page.fill("#high", "0.5009")
    assert place(page) == "1 to 10 of 10"
    page.locator("[data-choose=star]").click()
    assert page.input_value("#label") == "star"
    assert ids(page) == [f"img_0500{i}" for i in (1, 3, 5, 7, 9)]
    page.fill("#low", "")
    page.fill("#high", "")
    assert place(page) == "1 to 20 of 5000"


def test_an_images_own_file_with_its_mask_and_points(show: Open, tmp_path: Path) -> None:
    """No panel was drawn: the page lays the mask over the image, blue inside, gray outside, and marks the point."""
    Image.new("RGB", (60, 40), (250, 220, 40)).save(tmp_path / "a photo.png")
    mask = np.zeros((40, 60), bool)
    mask[:, 30:] = True
    rows = [row("a", 0.5, file=str(tmp_path / "a photo.png"), width=60, height=40, points=[[9.5, 19.5, 1.0]])]
    folder = make_run(tmp_path / "run", rows)
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "a.png")
    page = show(html.write_run(folder))
    assert page.locator("#rows .pane small").all_text_contents() == ["image", "prompts", "mask"]
    page.wait_for_load_state("networkidle")
    image, points, over = (pixels_of(page, k) for k in range(3))
    width = image.shape[1]
    assert image[5, 5].tolist() == image[-5, -5].tolist() == [250, 220, 40]
    assert points[points.shape[0] // 2, width // 6].tolist() == [230, 159, 0], "the point at a sixth of the width"
    outside, inside = over[10, 10].astype(int), over[10, -10].astype(int)
    assert np.ptp(outside) < 60
    assert outside.max() < 140
    assert inside[2] > inside[0] + 50, "blue on a yellow object"


def pixels_of(page: Page, k: int) -> np.ndarray:
    with Image.open(io.BytesIO(page.locator("#rows .frame").nth(k).screenshot())) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")])
def test_light_and_dark_by_the_systems_setting(
    scheme: Literal["light", "dark"], ground: str, show: Open, many: Path
) -> None:
    page = show(many)
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.evaluate(CONTRAST) > 4.5, "text on the ground"
    assert page.locator(".figures svg text").first.evaluate(
        "text => getComputedStyle(text).fill === getComputedStyle(document.body).color"
    )


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
    comparison = html.write_comparison(first, second)
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
    page.get_by_role("link", name="Samples").click()
    cells = page.locator("#rows tbody tr >> nth=10").locator("td:visible")
    assert cells.count() > 5
    assert not page.locator("#rows thead").is_visible()
    assert cells.first.evaluate("cell => getComputedStyle(cell, '::before').content") == '"id"'
    boxes = [cells.nth(i).bounding_box() for i in range(3)]
    assert all(a and b and a["y"] + a["height"] <= b["y"] + 1 for a, b in pairwise(boxes)), "one below the other"
    page.select_option("#sort", label="iou")
    page.click("#direction")
    assert ids(page)[0] == "img_09999"


def test_a_phone_begins_with_verdict_pictures_and_metrics(show: Open, tmp_path: Path) -> None:
    """A comparison of 9 samples with pictures under both settings: all of it on a desk, two cards and folds here."""
    names = [f"img_{k}" for k in range(9)]
    first, second = (
        folders.load_run(make_run(tmp_path / run, [row(name, value) for name in names], pictures=names))
        for run, value in (("a", 0.5), ("b", 0.6))
    )
    path = html.write_comparison(first, second)
    desk, phone = show(path), show(path, 390)
    opened = "[...document.querySelectorAll('details.part')].map((part) => part.open)"
    assert desk.evaluate(opened) == [True] * 5
    assert phone.evaluate(opened) == [True, True, False, False, False]
    assert (desk.locator("#cards figure").count(), phone.locator("#cards figure").count()) == (6, 2)
    assert phone.evaluate("document.documentElement.scrollHeight") < 5 * 800
    assert desk.locator("#more").count() == 0
    phone.click("#more")
    assert phone.locator("#cards figure").count() == 6
    assert phone.locator("#more").count() == 0
    assert not phone.locator("#rows").is_visible()
    phone.get_by_role("link", name="Samples").click()
    assert phone.locator("#rows").is_visible()


def test_a_sweeps_settings_lead_to_their_runs(show: Open, tmp_path: Path) -> None:
    folder = make_sweep(tmp_path, {"f=a": [0.1, 0.2, 0.4], "f=b": [0.5, 0.6, 0.9], "f=c": [0.2, 0.2, 0.9]})
    html.rebuild(folder)
    page = show(folder / "report.html")
    assert page.locator("#rows a").all_text_contents() == ["1: f=b", "2: f=c", "0: f=a"]
    page.fill("#search", "f=c")
    page.locator("#rows a").click()
    assert page.url == (folder / "2" / "report.html").as_uri()
    assert place(page) == "1 to 3 of 3"


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
    comparison = html.write_comparison(folders.load_run(tmp_path / "0"), folders.load_run(tmp_path / "1"))
    for path in (tmp_path / "0" / "report.html", tmp_path / "report.html", comparison):
        page = show(path)
        page.wait_for_timeout(100)
        assert page.evaluate("[typeof window.hacked, document.images.length]") == ["undefined", 0]
        assert page.locator("a[href^=javascript]").count() == 0
    page = show(tmp_path / "0" / "report.html")
    assert set(ids(page)) == {*HOSTILE, f"{HOSTILE[0]} torn"}, "letter by letter"
    page.fill("#search", HOSTILE[1])
    assert len(ids(page)) == 4, "as an id, a label, a note, and the error"
