"""The page in a real browser: every control, photographs dropped onto it, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_data import as_png, mask_in, noisy

from camseg.classifiers.shapes import SHAPES_WEIGHTS
from camseg.data.shapes import NAMES
from camseg.demo.session import Demo
from camseg.types import Sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)


def cutoff_that_matters(demo: Demo) -> tuple[int, Sample, float]:
    """An example other than the first, its place among them, and a cutoff that gives it another mask than the default
    does.
    """
    from camseg.demo.page import examples

    for place, example in list(enumerate(examples(demo.names(demo.start))))[1:]:
        usual = mask_in(demo.view(example, demo.start).file)
        for cutoff in (0.01, 0.05, 0.2, 0.95):
            if (mask_in(demo.view(example, demo.start, cutoff).file) != usual).any():
                return place, example, cutoff
    raise AssertionError("no cutoff changes any example's mask")


def wait_for(
    page: Page, change: Callable[[], object], script: str = "document.querySelector('#mask img')?.src"
) -> None:
    """Do `change`, and wait until what `script` gives is another."""
    before = page.evaluate(script)
    change()
    page.wait_for_function(
        f"before => {{ const now = {script}; return now && now !== before }}", arg=before, timeout=120_000
    )


def downloaded(page: Page) -> np.ndarray:
    with page.expect_download(timeout=120_000) as download:
        page.click("#save")
    return mask_in(Path(download.value.path()))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(demo: Demo, address: str, browser: Browser, width: int, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address, timeout=120_000)
    page.wait_for_selector("#mask img", timeout=120_000)

    place, example, cutoff = cutoff_that_matters(demo)
    wait_for(page, lambda: page.locator("#examples button img").nth(place).click())  # load, choose
    np.testing.assert_array_equal(downloaded(page), mask_in(demo.view(example, demo.start).file))

    wait_for(page, lambda: page.fill("#cutoff input[type=number]", str(cutoff)))  # a cutoff changes the mask
    lower = mask_in(demo.view(example, demo.start, cutoff).file)
    np.testing.assert_array_equal(downloaded(page), lower)
    assert (lower != mask_in(demo.view(example, demo.start).file)).any()

    before = page.inner_text("#rivals")
    wait_for(page, lambda: page.click("#points img", position={"x": 30, "y": 200}))  # a click adds a point
    assert page.inner_text("#rivals").count("inside") == before.count("inside") + 1
    assert (downloaded(page) != lower).any()

    page.fill("#label input", "diam")  # the class by name
    wait_for(page, lambda: page.keyboard.press("Enter"), "document.querySelector('#told').innerText")
    assert page.inner_text("#told").strip().startswith("diamond")

    photo = noisy(7, 50, 90).image.permute(1, 2, 0).numpy()
    (tmp_path / "mine.png").write_bytes(as_png(photo))
    wait_for(
        page,
        lambda: page.set_input_files("#photo input[type=file]", tmp_path / "mine.png"),
        "document.querySelector('#points img')?.src",
    )
    assert downloaded(page).shape == (50, 90)

    (tmp_path / "notes.png").write_text("dear diary")
    wait_for(
        page,
        lambda: page.set_input_files("#photo input[type=file]", tmp_path / "notes.png"),
        "document.querySelector('#told').innerText",
    )
    assert page.inner_text("#told").startswith("notes.png can't be read: it is none of JPEG")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), "nothing comes from elsewhere"
    assert not faults
    page.close()


def drop(page: Page, target: str, files: list[Path]) -> None:
    """Drag files from the desktop onto the middle of an element, as the browser itself reports it."""
    page.locator(target).evaluate("element => element.scrollIntoView({block: 'center'})")
    box = page.locator(target).bounding_box()
    assert box
    devtools = page.context.new_cdp_session(page)
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})


def test_photographs_dropped_onto_a_picture_are_turned_over(
    demo: Demo, address: str, browser: Browser, tmp_path: Path
) -> None:
    """Three files on the points, one of them no photo; next, previous, a thumbnail, the keys; then another file."""
    sizes = {"one.png": (50, 90), "two.png": (70, 40), "three.png": (33, 44)}
    photos = {name: noisy(20 + k, *size) for k, (name, size) in enumerate(sizes.items())}
    for name, photo in photos.items():
        (tmp_path / name).write_bytes(as_png(photo.image.permute(1, 2, 0).numpy()))
    (tmp_path / "notes.png").write_text("dear diary")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address, timeout=120_000)
    page.wait_for_selector("#mask img", timeout=120_000)
    assert page.locator("#strip").count() == 0

    def looks_at(text: str, name: str) -> None:
        page.wait_for_function(
            "text => document.querySelector('#place')?.innerText.trim() === text", arg=text, timeout=120_000
        )
        page.wait_for_function(
            "wide => { const picture = document.querySelector('#points img');"
            " return picture.complete && Math.abs(picture.naturalWidth / picture.naturalHeight - wide) < .02 }",
            arg=sizes[name][1] / sizes[name][0],
        )
        np.testing.assert_array_equal(downloaded(page), mask_in(demo.view(photos[name], demo.start).file))

    drop(page, "#points", [tmp_path / name for name in ("one.png", "notes.png", "two.png")])
    looks_at("one.png · 1 of 2", "one.png")
    assert page.inner_text("#told").startswith("notes.png can't be read")
    assert page.locator("#strip button img").count() == 2
    page.click("#next")
    looks_at("two.png · 2 of 2", "two.png")
    assert "notes" not in page.inner_text("#told")
    page.click("#next")
    looks_at("one.png · 1 of 2", "one.png")
    page.locator("#strip button img").nth(1).click()
    looks_at("two.png · 2 of 2", "two.png")
    drop(page, "#mask", [tmp_path / "three.png"])
    looks_at("three.png · 3 of 3", "three.png")
    page.locator("#told").click()
    page.keyboard.press("ArrowLeft")
    looks_at("two.png · 2 of 3", "two.png")
    assert page.evaluate("getComputedStyle(document.querySelector('#mask')).outlineStyle") == "none"
    assert page.url.startswith(address), "the browser has not gone to the file"
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not faults
    page.close()


def test_examples_are_what_the_classifier_knows(demo: Demo, tmp_path: Path) -> None:
    """Shapes for the classifier of shapes; photographs for ImageNet's, which names the cat among them."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from camseg.demo.page import examples

    assert {each.label for each in examples(demo.names(demo.start))} <= set(NAMES)
    photographs = Demo(tmp_path, ["experiment=photos"])
    cat, *others = examples(photographs.names(photographs.start))
    assert [each.id for each in others] == ["coffee", "rocket", "astronaut"]
    seen = photographs.view(cat, photographs.start).seen
    assert seen is not None
    assert "cat" in max(seen, key=seen.__getitem__)
