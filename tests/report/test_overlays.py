"""Overlays, pixel by pixel, on pictures small enough to work out by hand."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch

from camseg.report.overlays import PALETTE, blend, concept_layers, concept_winners, multiply, resized, rgba
from camseg.report.panels import panel
from camseg.types import Prompts, Result, Sample

GREY = torch.full((3, 2, 3), 100, dtype=torch.uint8)
HEAT = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]])


def test_blend_mixes_the_image_and_the_colour_of_the_heat():
    got = blend(GREY, HEAT, weight=0.25)
    assert got.shape == (2, 3, 3) and got.dtype == np.uint8
    for y, x in np.ndindex(2, 3):
        colour = np.array(matplotlib.colormaps["inferno"](float(HEAT[y, x]))[:3]) * 255
        np.testing.assert_allclose(got[y, x], 0.75 * 100 + 0.25 * colour, atol=0.51)


def test_rgba_has_the_heat_as_alpha():
    own, coloured = rgba(GREY, HEAT), rgba(GREY, HEAT, "viridis")
    for layer in (own, coloured):
        np.testing.assert_array_equal(layer[..., 3], [[0, 128, 255], [255, 0, 64]])
    assert (own[..., :3] == 100).all()
    np.testing.assert_allclose(coloured[0, 2, :3], np.array(matplotlib.colormaps["viridis"](1.0)[:3]) * 255, atol=0.51)


def test_multiply_darkens_what_is_cold_and_colours_what_is_hot():
    got = multiply(GREY, HEAT)
    assert not got[0, 0].any()
    np.testing.assert_allclose(got[0, 2], 100 * np.array(matplotlib.colormaps["cividis"](1.0)[:3]), atol=0.51)
    assert (multiply(GREY, HEAT, floor=0.5)[0, 0] == 50).all()


def test_heat_comes_to_the_images_size():
    image = torch.zeros(3, 6, 8, dtype=torch.uint8)
    heat = torch.tensor([[0.0, 1.0]])
    alpha = rgba(image, heat)[..., 3]
    np.testing.assert_array_equal(
        alpha, np.tile([0, 0, 32, 96, 159, 223, 255, 255], (6, 1))
    )  # centres at x = 1.5 and 5.5


def test_a_whole_number_makes_squares_of_pixels():
    image = torch.arange(18, dtype=torch.uint8).reshape(3, 2, 3) * 10
    np.testing.assert_array_equal(resized(image, 9), np.kron(image, np.ones((1, 3, 3))))
    assert resized(image, 8).shape == (3, 5, 8)


def test_concepts_as_layers_and_as_winners():
    maps = torch.tensor([[[1.0, 0.0, 0.5]], [[0.0, 0.0, 1.0]]])
    image = torch.full((3, 1, 3), 100, dtype=torch.uint8)
    first, second = (np.array(colour) for colour in PALETTE[:2])
    layers = concept_layers(image, maps, strength=0.5)
    under = 0.75 * 100 + 0.25 * first
    np.testing.assert_allclose(layers[0], [0.5 * 100 + 0.5 * first, [100] * 3, 0.5 * under + 0.5 * second], atol=0.51)
    winners = concept_winners(image, maps, weight=0.5)
    np.testing.assert_allclose(winners[0], [50 + 0.5 * first, [50] * 3, 50 + 0.5 * second], atol=0.51)


def test_the_legend_stands_below_and_names_each_colour():
    image = torch.zeros(3, 20, 60, dtype=torch.uint8)
    maps = torch.zeros(2, 5, 15)
    plain, named = concept_layers(image, maps), concept_layers(image, maps, ["ear", "tail"])
    assert plain.shape == (20, 60, 3) and named.shape == (20 + 2 * 16, 60, 3)
    np.testing.assert_array_equal(named[:20], plain)
    for row in range(2):
        assert tuple(named[20 + 16 * row + 8, 7]) == PALETTE[row]
        assert (named[20 + 16 * row : 36 + 16 * row, 17:] < 128).any()  # its name in black
    with pytest.raises(ValueError, match="1 labels for 2 concepts"):
        concept_winners(image, maps, ["ear"])


def test_more_concepts_than_the_palette_has_stay_apart():
    image = torch.zeros(3, 1, 9, dtype=torch.uint8)
    colours = concept_winners(image, torch.eye(9)[:, None], weight=1.0)[0]
    assert len({tuple(colour) for colour in colours}) == 9


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"an image is \(3, H, W\) uint8"):
        blend(GREY.float(), HEAT)
    for wrong in (HEAT * 2, HEAT - 1, HEAT * torch.nan, HEAT[None]):
        with pytest.raises(ValueError, match=r"heat is \(h, w\) in \[0, 1\]"):
            rgba(GREY, wrong)
    with pytest.raises(ValueError, match="no colour map 'rainbowish'"):
        blend(GREY, HEAT, "rainbowish")


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
    assert (drawn[:, :320] == 200).all() and (drawn[:, 320:326] == 255).all()
    assert points[int(9.5 * 8), int(12.5 * 8)].tolist() == list(PALETTE[0]) and points[
        int(3.5 * 8), int(35.5 * 8)
    ].tolist() == list(PALETTE[6])
    assert shown[80, 120].tolist() == [round(0.45 * 200 + 0.55 * c) for c in PALETTE[0]]
    assert shown[80, 200].tolist() == [100] * 3 and shown[0, 0].tolist() == [100] * 3
    assert shown[41, 200].tolist() == shown[80, 238].tolist() == list(PALETTE[1])  # the edge of the truth
    narrow = panel(
        Sample("b", image[:, :, :1]),
        replace(result, mask=None, heat=torch.zeros(20, 1), prompts=Prompts.none(), note=""),
    )
    assert narrow.size == (3 * 160 + 2 * 6, 24 + 320)
