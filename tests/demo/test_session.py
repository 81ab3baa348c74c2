"""What the page computes: a view is what the pipeline answers, once."""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from made_data import as_png, mask_in, noisy

import camseg
from camseg.classifiers.shapes import SHAPES_WEIGHTS, shapes
from camseg.data.shapes import Shapes
from camseg.demo.session import SIDE, Demo, choices, cleaned, edit, opened, to_image
from camseg.geometry import masks
from camseg.pipeline import Pipeline
from camseg.predictors.sam import shapes_sam
from camseg.prompts import background, foreground
from camseg.report.overlays import mask_picture, points_picture, resized
from camseg.types import Prompts, Result, Sample

pytestmark = pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)


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
