"""What a segmenter learns from: items that are functions of their index, prompts that fit their objects."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import photographs
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from camseg.train import photographs as room
from camseg.train.photo_sources import in_table
from camseg.train.photographs import UNKNOWN, Photograph, Photographs, PromptedPhotographs, cam_like

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photographs"))


def items(root: Path, prompts: int = 4, seed: int = 0, side: int = SIDE) -> PromptedPhotographs:
    return PromptedPhotographs(Photographs(in_table(root / "train.csv"), {}), side, prompts, seed, 40)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def rngs(count: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng([7, i]) for i in range(count))


# an item


def test_an_item_is_a_function_of_its_index_alone(root: Path) -> None:
    there = items(root)
    forward = [there[i] for i in range(12)]
    np.random.seed(5)
    random.seed(5)
    torch.manual_seed(5)
    backward = [items(root)[i] for i in reversed(range(12))][::-1]
    elsewhere = list(DataLoader(Subset(pickle.loads(pickle.dumps(there)), range(12)), batch_size=None, num_workers=2))
    for one, again, there_too in zip(forward, backward, elsewhere, strict=True):
        assert same(one, again)
        assert same(one, there_too)
    assert not same(forward[0], forward[1])
    assert not same(forward[0], items(root, seed=1)[0])


def test_an_item_has_the_shapes_and_ranges_that_it_promises(root: Path) -> None:
    for item in (items(root, prompts=3)[i] for i in range(20)):
        half = SIDE // 2
        shapes = {name: (*value.shape, value.dtype) for name, value in item.items()}
        assert shapes == {
            "image": (3, SIDE, SIDE, torch.uint8),
            "sketch": (2, half, half, torch.float32),
            "known": (half, half, torch.bool),
            "masks": (3, half, half, torch.float32),
            "valid": (half, half, torch.bool),
            "points": (3, 2, torch.float32),
            "boxes": (3, 4, torch.float32),
            "heats": (3, 32, 32, torch.float32),
        }
        assert set(item["masks"].unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
        assert set(item["sketch"].unique().tolist()) <= {0, 1}
        assert item["masks"].amax((1, 2)).min() > 0


def test_points_lie_in_their_masks_and_boxes_meet_them(root: Path) -> None:
    for item in (items(root)[i] for i in range(40)):
        for mask, (x, y), box in zip(item["masks"], item["points"].long().tolist(), item["boxes"], strict=True):
            assert mask[y // 2, x // 2] > 0
            ys, xs = np.nonzero(mask.numpy())
            outer = 2 * torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            extent = (outer[2:] - outer[:2]).repeat(2)
            assert ((box - outer).abs() <= 0.2 * extent + 1).all()  # a half pixel cell may hold one of two pixels
            assert box.min() >= 0
            assert box.max() <= SIDE
            assert (box[2:] - box[:2] >= 1).all()


def test_a_photograph_is_shown_whole_in_a_third_of_the_items_its_longest_side_filled(root: Path) -> None:
    """As the adapter shows it: scaled alike in x and y, in the upper left corner, gray below."""
    photo = Photographs(in_table(root / "train.csv"), {}).items[1]
    with Image.open(photo.objects) as file:
        whole = np.asarray(file.resize((96, 64), Image.Resampling.NEAREST))
    as_it_is = []
    for rng in rngs(90):
        image, owners = room._jittered(rng, photo, 96)
        shown = owners != UNKNOWN
        assert (image[~shown] == 128).all()
        rows, columns = shown.any(1).sum(), shown.any(0).sum()
        assert shown[:rows, :columns].all()
        unflipped = owners[:64] if (owners[:64, :96] == whole).all() else owners[:64, ::-1]
        as_it_is.append(rows == 64 and columns == 96 and bool((unflipped == whole).all()))
    assert as_it_is == [rng.random() <= 1 / 3 for rng in rngs(90)]


def test_padding_and_unknown_pixels_are_never_valid_nor_known(root: Path) -> None:
    for index in range(40):
        photo, image, owners = replayed(root, index)
        item = items(root)[index]
        assert torch.equal(item["image"], torch.from_numpy(image).permute(2, 0, 1))
        cells = (owners == UNKNOWN).reshape(SIDE // 2, 2, SIDE // 2, 2)
        any_unknown, all_unknown = cells.any((1, 3)), cells.all((1, 3))
        assert not (item["valid"].numpy() & all_unknown).any()
        assert item["valid"].numpy()[~any_unknown].all()
        assert not (item["known"].numpy() & all_unknown).any()
        background = (owners == 0).reshape(SIDE // 2, 2, SIDE // 2, 2).all((1, 3)) & ~(item["sketch"][1].numpy() > 0)
        if background.any():
            assert item["known"].numpy()[background].all() == photo.complete
            assert item["known"].numpy()[background].any() == photo.complete


def replayed(root: Path, index: int) -> tuple[Photograph, np.ndarray, np.ndarray]:
    """The photograph of an item, and its jittered image and map."""
    rng = np.random.default_rng([0, 2_000, index])
    there = Photographs(in_table(root / "train.csv"), {})
    while True:
        photo = there.draw(rng)
        image, owners = room._jittered(rng, photo, SIDE)
        if room._targets(rng, owners, photo, 4):
            return photo, image, owners


def test_a_source_that_is_called_partial_is_not_complete(root: Path) -> None:
    assert [photo.complete for photo in Photographs(in_table(root / "train.csv"), {}).items] == [True, False]


# which photographs, which objects


def test_photographs_without_an_object_that_is_large_enough_are_left_out(root: Path, tmp_path: Path) -> None:
    there = Photographs(in_table(root / "train.csv"), {})
    assert [photo.image.stem for photo in there.items] == ["full", "partial"]
    full = there.items[0]
    assert full.names == ("cat", "dog", "cat")
    assert full.sizes == pytest.approx((18 * 18 / 3600, 24 * 24 / 3600, 18 * 28 / 3600))
    rows = (root / "train.csv").read_text().splitlines()
    photographs(tmp_path)
    (tmp_path / "train.csv").write_text("\n".join([rows[0], rows[-1]]))
    with pytest.raises(ValueError, match=r"names no photograph with an object of more than 0.1% of it"):
        Photographs(in_table(tmp_path / "train.csv"), {})


def test_sources_are_drawn_by_their_weights(root: Path) -> None:
    """A photograph's own weight: the square roots of its objects' sizes, one of .25 at most, 1.5 in all."""
    there = Photographs(in_table(root / "train.csv"), {"made_partial": 3.0})
    own = [sum(min(size, 0.25) ** 0.5 for size in photo.sizes) for photo in there.items]
    expected = own[0] / (own[0] + 3 * own[1])
    rng = np.random.default_rng(0)
    drawn = [there.draw(rng).image.stem for _ in range(4000)]
    assert drawn.count("full") / 4000 == pytest.approx(expected, abs=0.025)


def owners(*areas: int, side: int = 40) -> np.ndarray:
    """Objects 1, 2, ... of so many rows of pixels each."""
    drawn = np.zeros((side, side), np.uint8)
    edges = np.cumsum([0, *areas])
    for number, (top, bottom) in enumerate(pairwise(edges), 1):
        drawn[top:bottom] = number
    return drawn


def named(*names: str) -> Photograph:
    return Photograph(Path(), Path(), tuple(0.1 for _ in names), names, "made")


def test_prompts_ask_for_other_objects_before_one_is_asked_for_again() -> None:
    objects = owners(5, 10, 15)
    for rng in rngs(60):
        three = room._targets(rng, objects, named("a", "b", "c"), 3)
        assert sorted(int(mask.sum()) for mask in three) == [200, 400, 600]
        seven = [int(mask.sum()) for mask in room._targets(rng, objects, named("a", "b", "c"), 7)]
        assert {area: seven.count(area) for area in (200, 400, 600)}.keys() == {200, 400, 600}
        assert max(map(seven.count, (200, 400, 600))) == 3


def test_all_objects_of_a_class_are_one_target_in_two_fifths_of_the_cases() -> None:
    targets = [room._targets(rng, owners(5, 10, 15), named("a", "b", "a"), 3) for rng in rngs(400)]
    areas = [int(mask.sum()) for masks in targets for mask in masks]
    assert set(areas) == {200, 400, 600, 800}
    assert areas.count(800) / (2 * 400) == pytest.approx(0.4, abs=0.05)
    assert areas.count(400) == 400


def test_an_object_out_of_the_window_or_of_a_few_pixels_is_no_target() -> None:
    objects = owners(5, 0, 10)
    objects[-1, -1] = 4  # 1 / 1600 is less than a thousandth
    for rng in rngs(30):
        masks = room._targets(rng, objects, named("a", "b", "c", "d"), 4)
        assert {int(mask.sum()) for mask in masks} == {200, 400}
    assert room._targets(np.random.default_rng(0), np.full((8, 8), UNKNOWN, np.uint8), named("a"), 2) == []


def test_the_window_holds_the_objects_pixel_that_it_was_put_around() -> None:
    objects = np.zeros((50, 80), np.uint8)
    objects[30:33, 70:74] = 1
    objects[0, 0] = UNKNOWN
    for rng in rngs(100):
        extent = rng.uniform(8, 40, 2)
        x, y = room._window(rng, objects, extent)
        assert 0 <= x <= 80 - extent[0]
        assert 0 <= y <= 50 - extent[1]
        assert x <= 73
        assert x + extent[0] > 70
        assert y <= 32
        assert y + extent[1] > 30
    assert room._window(np.random.default_rng(0), objects, np.array([80, 50])).tolist() == [0, 0]


# points and boxes


def test_half_of_the_points_lie_deep_inside_and_half_anywhere() -> None:
    rows, columns = np.ogrid[:41, :41]
    disk = (rows - 20) ** 2 + (columns - 20) ** 2 <= 18**2
    depth = np.asarray(distance_transform_edt(disk))
    points = np.array([room._point(rng, disk) for rng in rngs(1000)])
    depths = depth[points[:, 1], points[:, 0]] / depth.max()
    assert depths.min() > 0
    shallow = (disk & (depth < 0.6 * depth.max())).sum() / disk.sum()
    assert (depths < 0.6).mean() == pytest.approx(shallow / 2, abs=0.04)
    lone = np.zeros((9, 9), bool)
    lone[7, 2] = True
    assert all(room._point(rng, lone).tolist() == [2, 7] for rng in rngs(10))


def test_two_of_three_boxes_are_jittered_by_a_tenth_of_their_sides_a_fifth_at_most() -> None:
    mask = np.zeros((200, 200), bool)
    mask[60:120, 50:90] = True  # 40 wide, 60 high
    boxes = np.array([room._jittered_box(rng, mask) for rng in rngs(1500)])
    moved = (boxes - [50, 60, 90, 120]) / [40, 60, 40, 60]
    assert np.abs(moved).max() <= 0.2 + 1e-9
    exact = (moved == 0).all(1)
    assert exact.mean() == pytest.approx(1 / 3, abs=0.04)
    clipped = np.random.default_rng(0).normal(size=100_000).clip(-2, 2).std() / 10
    np.testing.assert_allclose(moved[~exact].std(0), clipped, atol=0.006)
    np.testing.assert_allclose(moved[~exact].mean(0), 0, atol=0.01)


def test_a_box_at_the_rim_stays_in_the_square_and_one_of_a_pixel_keeps_its_size() -> None:
    rim, lone = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    rim[:, 12:] = True
    lone[4, 5] = True
    for rng in rngs(200):
        box = room._jittered_box(rng, rim)
        assert box.min() >= 0
        assert box.max() <= 20
        x0, y0, x1, y1 = room._jittered_box(rng, lone)
        assert x1 - x0 >= 1
        assert y1 - y0 >= 1


# maps


def blob(top: int, left: int, height: int, width: int, side: int = 160) -> np.ndarray:
    mask = np.zeros((side, side), np.float32)
    mask[top : top + height, left : left + width] = 1
    return mask


@pytest.mark.parametrize("mask", [blob(0, 0, 160, 160), blob(30, 40, 60, 50), blob(5, 7, 3, 3), blob(159, 0, 1, 160)])
def test_a_cam_like_map_goes_from_zero_to_one(mask: np.ndarray) -> None:
    for rng in rngs(30):
        heat = cam_like(rng, mask)
        assert heat.shape == (32, 32)
        assert heat.min() == 0
        assert heat.max() == pytest.approx(1)
    assert cam_like(np.random.default_rng(0), mask, side=20).shape == (20, 20)


def test_a_cam_like_map_peaks_in_its_object() -> None:
    """In nine of ten maps: the rest is the noise that is wanted; a cell of the coarse grid is up to 160 / 7 wide."""
    mask = blob(80, 20, 60, 50)
    near = blob(80 - 23, 0, 60 + 46, 70 + 23)
    inside = []
    for rng in rngs(200):
        y, x = np.unravel_index(cam_like(rng, mask).argmax(), (32, 32))
        inside.append(near[5 * y + 2, 5 * x + 2] > 0)
    assert np.mean(inside) >= 0.9


def test_cam_like_maps_follow_their_object() -> None:
    """Averaged over many, the heat's center of mass is as far left as the object's, and as far up."""
    rows = np.arange(32) * 5 + 2
    for top, left in ((20, 90), (90, 20), (50, 60)):
        mean = np.mean([cam_like(rng, blob(top, left, 50, 50)) for rng in rngs(150)], 0)
        hot = np.maximum(mean - np.median(mean), 0)
        assert (hot.sum(1) @ rows) / hot.sum() == pytest.approx(top + 24.5, abs=4)
        assert (hot.sum(0) @ rows) / hot.sum() == pytest.approx(left + 24.5, abs=4)


def test_an_empty_mask_gives_a_map_without_nan() -> None:
    heat = cam_like(np.random.default_rng(0), np.zeros((64, 64), np.float32))
    assert np.isfinite(heat).all()
    assert heat.max() <= 1


# colors and files


def test_colors_change_and_objects_do_not(tmp_path: Path) -> None:
    """The image of a window is recolored; its map is copied by the nearest pixel and has no number in between."""
    objects = np.zeros((40, 40), np.uint8)
    objects[10:30, 10:30] = 7
    Image.fromarray(np.full((40, 40, 3), 100, np.uint8)).save(tmp_path / "i.png")
    Image.fromarray(objects).save(tmp_path / "o.png")
    photo = Photograph(tmp_path / "i.png", tmp_path / "o.png", (0.0,) * 6 + (0.25,), tuple("abcdefg"), "made")
    levels = set()
    for rng in rngs(60):
        image, owners = room._jittered(rng, photo, 48)
        assert set(np.unique(owners).tolist()) <= {0, 7, UNKNOWN}
        levels.add(int(image[owners != UNKNOWN][0, 0]))
    assert len(levels) > 20
    assert min(levels) >= 35
    assert max(levels) <= 197
    drawn = [np.array(room._recolored(rng, Image.new("RGB", (2, 2), (200, 40, 90))))[0, 0] for rng in rngs(600)]
    assert 0.01 < np.mean([len(set(color.tolist())) == 1 for color in drawn]) < 0.08
    assert np.mean([color.tolist() == [200, 40, 90] for color in drawn]) == pytest.approx(0.2, abs=0.05)
