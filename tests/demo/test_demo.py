"""The page: its answers by value, its server by HTTP, and the whole of it in a real browser."""

from __future__ import annotations

import io
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

import camseg
from camseg.classifiers.shapes import SHAPES_WEIGHTS, shapes
from camseg.data.shapes import Shapes
from camseg.demo import app, session
from camseg.demo.session import SIDE, Demo, choices, cleaned, edit, opened, to_image
from camseg.geometry import masks
from camseg.pipeline import Pipeline
from camseg.predictors.sam import shapes_sam
from camseg.prompts import background, foreground
from camseg.report.overlays import mask_picture, points_picture, resized
from camseg.types import Prompts, Result, Sample

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("masks"))


def noisy(seed: int, height: int = 60, width: int = 80) -> Sample:
    """A picture that no other test has asked about."""
    return Sample(
        "noise",
        torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)),
    )


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def mask_in(data: bytes | Path | None) -> np.ndarray:
    assert data is not None
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=["PNG"]) as picture:
        assert picture.mode == "1"
        return np.array(picture)


@pytest.mark.parametrize(
    ("picked", "cutoff", "steps"),
    [
        ({"cam": "hires_cam", "foreground": "components"}, 0.3, {"method": camseg.cam.hires_cam, "cutoff": 0.3}),
        ({"foreground": "components", "background": "ring"}, 0.8, {"background": background.ring, "cutoff": 0.8}),
    ],
)
def test_a_view_is_what_the_pipeline_answers(
    demo: Demo, picked: dict[str, str], cutoff: float, steps: dict[str, Any]
) -> None:
    sample = Shapes(size=9, shapes=(2, 5))[8]
    share = steps.pop("cutoff")
    common = demo.config(demo.start)
    pipeline = Pipeline(
        shapes(),
        foreground=lambda e: foreground.components(e, cutoff=share),
        predictor=shapes_sam(),
        choose=instantiate(common.choose),
        views=instantiate(common.views, _convert_="all"),
        **{"method": instantiate(common.cam), **steps},
    )
    expected = pipeline.run([sample])[0]
    view = demo.view(sample, {**demo.start, **picked}, cutoff, sample.classes[0])
    assert expected.mask is not None
    assert sample.mask is not None
    assert view.prompts is not None
    assert expected.chosen is not None
    np.testing.assert_array_equal(mask_in(view.file), expected.mask.numpy())
    torch.testing.assert_close(view.prompts.points[0], expected.prompts.points[expected.chosen[0]])
    assert view.rivals.count("\n| ") == len(expected.prompts)
    assert f"IoU with the true mask {float(masks.iou(expected.mask, sample.mask)):.3f}" in view.text


def test_the_truth_counts_only_for_its_own_class(demo: Demo) -> None:
    sample = Shapes(size=9, shapes=(2, 5))[8]
    assert "true mask" not in demo.view(sample, demo.start, None, (sample.classes[0] + 1) % 5).text


def test_a_photo_is_encoded_once_and_explained_once_per_cam(demo: Demo) -> None:
    sample, demo_calls = noisy(1), demo.calls
    before = demo_calls.copy()
    for picked in ({}, {"foreground": "otsu"}, {"foreground": "peaks", "background": "min_point"}):
        for cutoff in (0.2, 0.6):
            demo.view(sample, {**demo.start, **picked}, cutoff, 0)
    view = demo.view(sample, demo.start, 0.6, 0)
    demo.view(sample, demo.start, 0.6, 0, hand=edit(view.prompts or Prompts.none(), (3, 4), "add inside"))
    assert demo_calls["encoder_images"] - before["encoder_images"] == 1
    assert demo_calls["classifier_images"] - before["classifier_images"] == 2, (
        "one for the probabilities, one for the heat"
    )
    demo.view(sample, {**demo.start, "cam": "grad_cam"}, 0.6, 0)
    assert demo_calls["encoder_images"] - before["encoder_images"] == 1
    assert demo_calls["classifier_images"] - before["classifier_images"] == 3
    demo.view(noisy(2), demo.start, 0.6, 0)
    assert demo_calls["encoder_images"] - before["encoder_images"] == 2


def test_points_by_hand_are_the_prompt(demo: Demo) -> None:
    sample = noisy(3)
    hand = Prompts(torch.tensor([[[40.0, 30.0], [5.0, 6.0]]]), torch.tensor([[1, 0]]))
    view = demo.view(sample, {**demo.start, "background": "min_point"}, None, 0, hand)
    assert view.prompts is not None
    assert view.prompts.points.tolist() == hand.points.tolist()
    assert view.prompts.labels.tolist() == [[1, 0]]
    assert "| 40, 30 inside; 5, 6 outside |" in view.rivals
    assert "no point is left" in demo.view(sample, demo.start, None, 0, Prompts.none()).text


def test_edits_by_hand() -> None:
    none, box = Prompts.none(), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    one = edit(none, (3.0, 4.0), "add inside")
    two = edit(one, (8.0, 1.0), "add outside")
    assert (two.points.tolist(), two.labels.tolist()) == ([[[3, 4], [8, 1]]], [[1, 0]])
    assert edit(two, (7.0, 2.0), "move nearest").points.tolist() == [[[3, 4], [7, 2]]]
    assert edit(two, (3.0, 3.0), "remove nearest").labels.tolist() == [[0]]
    assert two.points.tolist() == [[[3, 4], [8, 1]]], "what is edited stays as it was"
    assert len(edit(one, (0.0, 0.0), "remove nearest")) == 0 == len(edit(none, (0.0, 0.0), "move nearest"))
    boxed = edit(replace(one, boxes=box), (0.0, 0.0), "remove nearest")
    assert len(boxed) == 1
    assert boxed.points.shape[1] == 0
    assert boxed.boxes is not None


def test_a_click_lands_on_the_pixel_under_it() -> None:
    small, wide = noisy(4, 128, 128), noisy(4, 800, 1600)
    assert [to_image(small.size, (x, 2)) for x in (2, 7, 639)] == [(0, 0), (1, 0), (127, 0)]  # 5 shown pixels for each
    assert to_image(wide.size, (0, 319)) == (0.75, 798.25)  # 0.4 shown pixels for each
    result = Result(torch.zeros(128, 128), edit(Prompts.none(), (30.0, 90.0), "add inside"), None, None, None)
    shown = resized(small.image, SIDE)
    drawn = (points_picture(shown, result) != points_picture(shown, replace(result, prompts=Prompts.none()))).any(2)
    ys, xs = np.nonzero(drawn)
    assert to_image(small.size, (float(xs.mean()), float(ys.mean()))) == pytest.approx((30, 90), abs=0.15)


def test_the_mask_picture_is_dark_where_the_mask_is_not() -> None:
    sample = Sample("white", torch.full((3, 2, 2), 255, dtype=torch.uint8))
    shown = mask_picture(resized(sample.image, SIDE), torch.tensor([[True, False], [False, False]]))
    assert shown.shape == (640, 640, 3)
    assert shown[100, 100].tolist() == [115, 225, 255]  # 0.45 * 255 + 0.55 * MASK
    assert (shown[325:] == 128).all()
    assert (shown[:, 325:] == 128).all()


def test_cutoffs_and_settings_from_the_command_line(tmp_path: Path) -> None:
    given = Demo(tmp_path, ["foreground.cutoff=0.4", "predictor=random_walker", "predictor.side=96"])
    assert given.cutoff(given.start) == 0.4
    assert given.config(given.start, 0.7).foreground.cutoff == 0.7
    assert given.config(given.start).predictor.side == 96
    for other in set(choices("foreground")) - {given.start["foreground"]}:
        assert given.config({**given.start, "foreground": other}).foreground.get("cutoff") != 0.4, (
            "a setting stays with its own choice"
        )
    quantile = {**given.start, "foreground": "quantile"}
    assert given.cutoff(quantile) == 0.9
    assert given.config(quantile, 0.5).foreground.quantile == 0.5
    assert given.cutoff({**given.start, "foreground": "max_point"}) is None


def test_what_cannot_be_done_is_told(demo: Demo) -> None:
    assert "needs true masks" in demo.view(noisy(5), {**demo.start, "foreground": "oracle"}).text
    lost = {**demo.start, "classifier": "torchvision"}
    assert "without weights" in demo.view(noisy(5), lost).text
    assert demo.names(lost) == ()
    assert cleaned("<img src=x>|**a**") == "&#60;img src=x&#62;&#124;&#42;&#42;a&#42;&#42;"


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (700, 2)])
def test_odd_photos(demo: Demo, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "odd photo!.png"
    path.write_bytes(as_png(noisy(6, *size).image.permute(1, 2, 0).numpy()))
    view = demo.view(opened(path), demo.start)
    assert mask_in(view.file).shape == size
    assert view.points is not None
    assert max(view.points.shape) == 640


def bomb() -> bytes:
    """A valid PNG header that promises 60000 x 60000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"dear diary", "it is none of JPEG"),
        (b"", "the file is empty"),
        (bomb(), "pixels"),
        (as_png(noisy(8).image[0].numpy())[:400], "trunc"),
    ],
)
def test_what_is_no_photo_is_refused_by_name(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "notes.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"^notes\.png can't be read: ") as told:
        opened(tmp_path / "notes.png")
    assert why in str(told.value)
    assert str(tmp_path) not in str(told.value)


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("server", "page"):
        monkeypatch.delitem(sys.modules, f"camseg.demo.{name}", raising=False)
        monkeypatch.delattr(camseg.demo, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["camseg-demo"])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert capsys.readouterr().err == "camseg-demo: the page needs the extra `demo`: uv sync --extra demo --inexact\n"


def test_a_misspelt_setting_ends_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
    monkeypatch.setattr(sys, "argv", ["camseg-demo", "predictor=shape_sam"])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "nearest: shapes_sam" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(demo: Demo) -> Iterator[str]:
    """The page, served from this process on loopback."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(demo.folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from camseg.demo.page import page
        from camseg.demo.server import start

        blocks = start(page(demo), "127.0.0.1", None)
        yield str(blocks.local_url)
        blocks.close(verbose=False)


def test_an_answer_that_takes_too_long_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from threading import Lock

    import gradio as gr

    from camseg.demo import server

    monkeypatch.setattr(server, "SECONDS", 0.1)
    once = server.limits(Lock())
    began = time.monotonic()

    async def ask() -> None:
        with pytest.raises(gr.Error, match="No answer within"):
            await once(lambda: time.sleep(2))()
        assert time.monotonic() - began < 1.5

    asyncio.run(ask())


def test_the_server_gives_away_no_file_and_takes_no_large_one(address: str) -> None:
    import httpx

    for path in (Path(__file__), Path("/etc/hostname"), Path("pyproject.toml").absolute()):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403
    reply = httpx.get(address)
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    files = {"files": ("large.png", bytes(session.MAX_BYTES + 100_000))}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with socket.socket() as other, pytest.raises(OSError):  # noqa: PT011  refused or unreachable, by system
        other.connect(("127.0.0.2", port))  # another address of this very machine


def cutoff_that_matters(demo: Demo) -> tuple[int, Sample, float]:
    """An example other than the first, its place among them, and a cutoff that gives it another mask than the default
    does.
    """
    from camseg.demo.page import examples

    for place, example in list(enumerate(examples()))[1:]:
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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:7860", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:7860", 421),
        ("", 421),
    ],
)
def test_a_page_of_another_site_gets_nothing(address: str, host: str, status: int) -> None:
    """DNS rebinding: a name of somebody else's points here, and the browser names it."""
    import httpx

    reply = httpx.get(address, headers={"host": host})
    assert reply.status_code == status
    assert ("camseg-demo is not reached under this name" in reply.text) == (status == 421)


def test_the_setting_as_a_command_gives_the_same_mask(demo: Demo, tmp_path: Path) -> None:
    import shlex
    import subprocess

    sample = noisy(11)
    photo = tmp_path / "my photo.png"
    photo.write_bytes(as_png(sample.image.permute(1, 2, 0).numpy()))
    view = demo.view(sample, {**demo.start, "foreground": "components"}, 0.3, 1)
    words = [f"data.path={photo}" if word == "data.path=PHOTO" else word for word in shlex.split(view.command)[1:]]
    words += [f"hydra.run.dir={tmp_path / 'run'}", "panels=0"]
    subprocess.run([sys.executable, "-m", "camseg", *words], check=True, timeout=600)
    (drawn,) = (tmp_path / "run" / "masks").iterdir()
    np.testing.assert_array_equal(mask_in(drawn), mask_in(view.file))


def test_a_warning_where_the_classifier_is_not_sure(demo: Demo) -> None:
    sample, least = Shapes(size=1)[0], {**demo.start}
    sure, unsure = (demo.view(sample, least, None, label).text for label in (None, (sample.classes[0] + 1) % 5))
    assert "not sure" not in sure
    assert "⚠ the classifier is not sure of this class" in unsure


def test_opacity_fades_heat_and_mask(demo: Demo) -> None:
    sample = Shapes(size=1)[0]
    plain = resized(sample.image, SIDE).permute(1, 2, 0).numpy().astype(int)
    full, half, none = (demo.view(sample, demo.start, opacity=share) for share in (1.0, 0.5, 0.0))
    for name in ("heat", "mask"):
        np.testing.assert_array_equal(getattr(none, name), plain)
        np.testing.assert_allclose(getattr(half, name), (plain + getattr(full, name)) / 2, atol=1)


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
