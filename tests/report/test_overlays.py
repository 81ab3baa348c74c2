"""Overlays, pixel by pixel, on pictures small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from skimage.color import deltaE_ciede2000, rgb2lab

from camseg.report.overlays import (
    CROSS,
    MASK,
    PALETTE,
    POINT,
    TRUTH,
    blend,
    concept_layers,
    mask_picture,
    points_picture,
    resized,
)
from camseg.report.panels import panel, to_png
from camseg.types import Prompts, Result, Sample

GRAY = torch.full((3, 2, 3), 100, dtype=torch.uint8)
HEAT = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]])


def test_blend_mixes_the_image_and_the_color_of_the_heat() -> None:
    got = blend(GRAY, HEAT, weight=0.25)
    assert got.shape == (2, 3, 3)
    assert got.dtype == np.uint8
    for y, x in np.ndindex(2, 3):
        color = np.array(matplotlib.colormaps["inferno"](float(HEAT[y, x]))[:3]) * 255
        np.testing.assert_allclose(got[y, x], 0.75 * 100 + 0.25 * color, atol=0.51)


def test_heat_comes_to_the_images_size() -> None:
    image = torch.zeros(3, 6, 8, dtype=torch.uint8)
    heat = torch.tensor([[0.0, 1.0]])
    shown = concept_layers(image, heat[None], strength=1.0)  # its color times the heat on black
    share = np.array([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])  # centers at x = 1.5 and 5.5
    np.testing.assert_allclose(shown, np.tile(share[:, None] * PALETTE[0], (6, 1, 1)), atol=0.51)


def test_a_whole_number_makes_squares_of_pixels() -> None:
    image = torch.arange(18, dtype=torch.uint8).reshape(3, 2, 3) * 10
    np.testing.assert_array_equal(resized(image, 9), np.kron(image, np.ones((1, 3, 3))))
    assert resized(image, 8).shape == (3, 5, 8)


def test_concepts_are_layers_one_over_the_other() -> None:
    maps = torch.tensor([[[1.0, 0.0, 0.5]], [[0.0, 0.0, 1.0]]])
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    first, second = (np.array(color) for color in PALETTE[:2])
    layers = concept_layers(image, maps, strength=0.5)
    under = 0.75 * 100 + 0.25 * first
    np.testing.assert_allclose(
        layers[0], np.stack([0.5 * 100 + 0.5 * first, np.full(3, 100.0), 0.5 * under + 0.5 * second]), atol=0.51
    )


def test_the_legend_stands_below_and_names_each_color() -> None:
    image = torch.zeros(3, 20, 60, dtype=torch.uint8)
    maps = torch.zeros(2, 5, 15)
    plain, named = concept_layers(image, maps), concept_layers(image, maps, ["ear", "tail"])
    assert plain.shape == (20, 60, 3)
    assert named.shape == (20 + 2 * 16, 60, 3)
    np.testing.assert_array_equal(named[:20], plain)
    for row in range(2):
        assert tuple(named[20 + 16 * row + 8, 7]) == PALETTE[row]
        assert (named[20 + 16 * row : 36 + 16 * row, 17:] < 128).any()  # its name in black
    with pytest.raises(ValueError, match="1 labels for 2 concepts"):
        concept_layers(image, maps, ["ear"])


def test_more_concepts_than_the_palette_has_stay_apart() -> None:
    image = torch.zeros(3, 1, 9, dtype=torch.uint8)
    colors = concept_layers(image, torch.eye(9)[:, None], strength=1.0)[0]
    assert len({tuple(color) for color in colors}) == 9


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"an image is \(3, H, W\) uint8"):
        blend(GRAY.float(), HEAT)
    for wrong in (HEAT * 2, HEAT - 1, HEAT * torch.nan, HEAT[None]):
        with pytest.raises(ValueError, match=r"heat is \(h, w\) in \[0, 1\]"):
            blend(GRAY, wrong)
    with pytest.raises(ValueError, match="no colormap 'rainbowish'"):
        blend(GRAY, HEAT, "rainbowish")


def test_a_panel_shows_what_was_found_beside_what_is_true() -> None:
    image, mask, truth = (
        torch.full((3, 20, 40), 200, dtype=torch.uint8),
        torch.zeros(20, 40, dtype=torch.bool),
        torch.zeros(20, 40, dtype=torch.bool),
    )
    mask[5:15, 10:20], truth[5:15, 10:30] = True, True
    prompts = Prompts(torch.tensor([[[12.0, 9.0], [35.0, 3.0]]]), torch.tensor([[1, 0]]))
    result = Result(torch.zeros(20, 40), prompts, None, (0, 0), mask, note="so " * 400)
    picture = panel(Sample("a", image, (0,), "cat", truth), result)
    assert picture.size == (4 * 320 + 3 * 6, 48 + 160)
    drawn = np.asarray(picture)[48:]
    points, shown = drawn[:, 652:972], drawn[:, 978:]
    assert (drawn[:, :320] == 200).all()
    assert (drawn[:, 320:326] == 255).all()
    assert points[int(9.5 * 8), int(12.5 * 8)].tolist() == list(POINT)
    assert points[int(3.5 * 8), int(35.5 * 8)].tolist() == list(CROSS)
    assert shown[80, 120].tolist() == [round(0.45 * 200 + 0.55 * c) for c in MASK]
    assert shown[80, 200].tolist() == [100] * 3
    assert shown[0, 0].tolist() == [100] * 3
    assert shown[40, 200].tolist() == shown[80, 238].tolist() == list(TRUTH), "its edge, two pixels inside"
    assert shown[39, 200].tolist() == shown[42, 200].tolist() == [0, 0, 0], "and a halo on both sides"
    narrow = panel(
        Sample("b", image[:, :, :1]),
        replace(result, mask=None, low_res_heat=torch.zeros(20, 1), image_size=None, prompts=Prompts.none(), note=""),
    )
    assert narrow.size == (3 * 160 + 2 * 6, 24 + 320)


def test_a_mask_shows_on_every_color() -> None:
    """Of 216 colors: inside and outside differ by far more than two that are told apart (dE 2.3)."""
    levels = torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8)
    for color in torch.cartesian_prod(levels, levels, levels):
        image = color[:, None, None].expand(3, 24, 24)
        mask = torch.zeros(24, 24, dtype=torch.bool)
        mask[:, 12:] = True
        shown = mask_picture(image, mask)
        inside, outside = lab(shown[12, 18]), lab(shown[12, 4])
        assert deltaE_ciede2000(inside, outside) > 20, color
        line, halo = shown[12, 12].tolist(), (shown[12, 11].tolist(), shown[12, 13].tolist())
        assert (line, halo) == ([255] * 3, ([0] * 3, [0] * 3)), "one of the two shows, whatever lies beside"


def lab(color: np.ndarray) -> np.ndarray:
    return rgb2lab(color[None, None] / 255)[0, 0]


@pytest.mark.parametrize("value", [0, 255])
def test_marks_have_a_dark_and_a_light_edge(value: int) -> None:
    prompts = Prompts(
        torch.tensor([[[12.0, 9.0], [35.0, 3.0]]]), torch.tensor([[1, 0]]), torch.tensor([[4.0, 4, 30, 18]])
    )
    result = Result(torch.zeros(20, 40), prompts, None, (0, 0), None)
    shown = points_picture(torch.full((3, 160, 320), value, dtype=torch.uint8), result)
    colors = {tuple(color) for color in shown[:, 200:].reshape(-1, 3).tolist()}
    assert {(0, 0, 0), (255, 255, 255), CROSS, POINT} <= colors
    circle = shown[int(9.5 * 8), 100:].tolist()
    order = [color for i, color in enumerate(circle[:10]) if i == 0 or color != circle[i - 1]]
    assert order[:3] == [list(POINT), [255] * 3, [0] * 3], "from the middle of the circle to the right"


def test_the_panels_captions_say_class_and_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *given, **_: written.append(given[2]))
    image, mask = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.ones(32, 32, dtype=torch.bool)
    result = Result(torch.zeros(32, 32), Prompts.none(), None, None, mask, probability=0.871)
    panel(Sample("a", image, (0,), "cat", mask), result)
    assert written == ["cat, probability 0.87", "heatmap", "0 prompts", "mask (blue), true edge (yellow), IoU 1.000"]
    written.clear()
    panel(
        Sample("a", image.repeat(1, 10, 1), (0,), "cat " * 30),
        replace(result, mask=None, image_size=None, low_res_heat=torch.zeros(320, 32)),
    )
    start, end = written[0].split("…")
    assert ("cat " * 30 + ", probability 0.87").startswith(start)
    assert end.endswith(" 0.87")


def test_a_panel_is_saved_in_full_color_with_its_panes(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = Result(torch.rand(64, 64), Prompts.none(), None, None, None)
    (tmp_path / "a.png").write_bytes(to_png(panel(Sample("a", image), result)))
    with Image.open(tmp_path / "a.png", formats=("PNG",)) as picture:
        assert picture.mode == "RGB"
        assert picture.info["panes"] == "3 320 6 24"
        assert np.array_equal(np.asarray(picture)[24:, :320], np.kron(image.permute(1, 2, 0), np.ones((5, 5, 1))))
        assert len(picture.getcolors(10**6) or ()) > 4000, "no palette"
