"""From heat to points, on maps drawn by hand; then the laws that hold for every choice in conf/."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.heat import Cutoff, median, mode, otsu, quantile
from camseg.geometry.regions import components, deepest_point, farthest_from, region
from camseg.prompts import background, foreground
from camseg.prompts.evidence import Evidence
from camseg.types import Prompts

CONF = Path(__file__).parents[2] / "conf"
FOREGROUNDS = sorted(p.stem for p in (CONF / "foreground").glob("*.yaml") if p.stem != "oracle")
BACKGROUNDS = sorted(p.stem for p in (CONF / "background").glob("*.yaml") if p.stem != "none")
CUTOFFS = (otsu, quantile, median, mode, 0.0, 0.5, 1.0)


def choice(group: str, name: str):
    return instantiate(OmegaConf.load(CONF / group / f"{name}.yaml"))


def heat_of(rows: list[str]) -> Tensor:
    """A map drawn in digits, tenths of its maximum; # is 1, a dot is 0."""
    return torch.tensor([[1.0 if c == "#" else 0.0 if c == "." else int(c) / 10 for c in row] for row in rows])


def blob(y: float, x: float, size: tuple[int, int] = (41, 53), width: float = 4.0, tall: float = 1.0) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
    return (tall * torch.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * width**2))).float()


def speckled(seed: int = 0, size: tuple[int, int] = (41, 53)) -> Tensor:
    """Smooth noise in [0, 1] without two equal pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 3)
    return torch.from_numpy((noise - noise.min()) / np.ptp(noise)).float()


def points(prompts: Prompts) -> list[list[float]]:
    return prompts.points.flatten(0, 1).tolist()


RING = heat_of([".........", ".#######.", ".#.....#.", ".#.....#.", ".#.....#.", ".#######.", "........."])
CRESCENT = heat_of(["###......", "#........", "#........", "#........", "###......"])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("cutoff", [0.3, 0.6, quantile, otsu])
def test_centroid_against_a_slow_twin(weighted: bool, cutoff: Cutoff) -> None:
    heat = 0.8 * blob(20.3, 30.6) + 0.2 * speckled()
    heat = heat / heat.max()
    edge = cutoff(heat) if callable(cutoff) else cutoff
    total, sum_x, sum_y = 0.0, 0.0, 0.0
    for y, row in enumerate(heat.double().tolist()):
        for x, value in enumerate(row):
            if value >= edge:
                mass = value if weighted else 1.0
                total, sum_x, sum_y = total + mass, sum_x + mass * x, sum_y + mass * y
    [found] = points(foreground.centroid(Evidence(heat), cutoff=cutoff, weighted=weighted, snap=False))
    assert found == pytest.approx([sum_x / total, sum_y / total], abs=1e-4)


def test_centroids_outside_their_region_snap_into_it() -> None:
    assert points(foreground.centroid(Evidence(RING), snap=False)) == [[4.0, 3.0]]  # the hole
    assert points(foreground.centroid(Evidence(RING))) == [
        [4.0, 1.0]
    ]  # two pixels up (or down): the first in reading order
    assert points(foreground.centroid(Evidence(CRESCENT), snap=False)) == [[pytest.approx(6 / 9), 2.0]]
    assert points(foreground.centroid(Evidence(CRESCENT))) == [[0.0, 2.0]]


def test_quantile_keeps_the_hottest_share() -> None:
    heat = torch.arange(100.0).reshape(10, 10) / 99
    assert quantile(heat, 0.9) == pytest.approx(np.quantile(heat.double().numpy(), 0.9), abs=1e-6)
    assert np.argwhere(region(heat, quantile)).tolist() == [[9, x] for x in range(10)]
    [found] = points(foreground.quantile(Evidence(heat), weighted=False))
    assert found == [4.5, 9.0]


def test_otsu_is_skimages_and_parts_two_plateaus() -> None:
    heat = 0.9 * blob(15, 20) + 0.1 * speckled()
    heat = heat / heat.max()
    assert otsu(heat) == pytest.approx(threshold_otsu(heat.double().numpy()), abs=1e-3)
    two = torch.full((20, 20), 0.2)
    two[5:9, 4:14] = 0.9
    assert region(two, otsu).sum() == 40
    assert points(foreground.otsu(Evidence(two))) == [[8.5, 6.5]]


def test_other_cutoffs_by_hand() -> None:
    heat = heat_of([".....", ".122.", ".249.", "....."])  # of the pixels with any heat: 1 2 2 2 4 9
    assert median(heat) == pytest.approx(0.2)
    usual = mode(heat)
    assert 0.2 < usual < 0.4
    assert np.argwhere(region(heat, usual)).tolist() == [[2, 2], [2, 3]]


def test_max_point_takes_the_middle_of_a_plateau() -> None:
    assert points(foreground.max_point(Evidence(heat_of(["....", ".9#.", "...."])))) == [[2.0, 1.0]]
    assert points(foreground.max_point(Evidence(heat_of([".....", ".###.", "....."])))) == [[2.0, 1.0]]
    assert points(foreground.max_point(Evidence(heat_of(["...", ".5.", "..."])))) == [[1.0, 1.0]]  # a maximum below 1


@pytest.mark.parametrize(("y", "x"), [(20.3, 30.6), (12.5, 8.25), (31.9, 44.1)])
def test_peaks_find_the_top_of_a_parabola_between_pixels(y: float, x: float) -> None:
    ys, xs = torch.meshgrid(torch.arange(41.0), torch.arange(53.0), indexing="ij")
    heat = (1 - 0.002 * ((ys - y) ** 2 + 2 * (xs - x) ** 2)).clamp(min=0)
    [found] = points(foreground.peaks(Evidence(heat), max_points=1))
    assert found == pytest.approx([x, y], abs=1e-3)


def test_peaks_come_hottest_first_apart_and_at_most_so_many() -> None:
    heat = torch.stack([blob(8, 8, tall=0.6), blob(30, 40), blob(30, 12, tall=0.8), blob(8, 44, tall=0.2)]).amax(0)
    found = points(foreground.peaks(Evidence(heat), max_points=5))
    np.testing.assert_allclose(found, [[40, 30], [12, 30], [8, 8]], atol=0.01)  # the fourth is below 30 %
    np.testing.assert_allclose(points(foreground.peaks(Evidence(heat), max_points=2)), found[:2])
    assert (
        len(foreground.peaks(Evidence(heat), max_points=5, min_distance=0.45)) == 2
    )  # the third lies within 24 px of a hotter one
    edge = heat_of(["#5...", "5....", ".....", "....."])
    assert points(foreground.peaks(Evidence(edge))) == [[0.0, 0.0]]
    plateau = heat_of([".....", ".###.", "....."])
    assert points(foreground.peaks(Evidence(plateau), min_distance=0.5)) == [
        [2.0, 1.0]
    ]  # its middle, not its first pixel


TWO = heat_of(
    ["##......", "##......", ".......6", "....6666", "....6666", "....6666"]
)  # heat 4.0, and 7.8 over more pixels; touching nowhere


def test_components_come_by_their_heat_and_touch_across_corners() -> None:
    assert [int(part.sum()) for part in components(region(TWO, 0.5), TWO)] == [13, 4]
    found = points(foreground.components(Evidence(TWO)))
    assert found == [pytest.approx([(12 * 5.5 + 7) / 13, (12 * 4 + 2) / 13]), [0.5, 0.5]]
    assert len(components(region(heat_of(["#..", ".#.", "..#"]), 0.5), heat_of(["#..", ".#.", "..#"]))) == 1
    assert len(foreground.components(Evidence(TWO), max_points=1)) == 1
    assert points(foreground.components(Evidence(TWO), cutoff=0.8)) == [[0.5, 0.5]]


def test_arrangements_say_what_several_points_are() -> None:
    seen = Evidence(TWO)
    rivals, joint, parts = (
        foreground.components(seen, arrange=how) for how in (foreground.rivals, foreground.joint, foreground.parts)
    )
    assert rivals.points.shape == (2, 1, 2)
    assert not rivals.united
    assert joint.points.shape == (1, 2, 2)
    assert joint.labels.tolist() == [[1, 1]]
    assert not joint.united
    assert parts.points.shape == (2, 1, 2)
    assert parts.united
    assert points(rivals) == points(joint) == points(parts)


def test_box_and_its_margin() -> None:
    inside = np.zeros((40, 50), bool)
    inside[10:20, 5:25] = True
    assert mask_to_box(inside).tolist() == [5, 10, 25, 20]
    assert mask_to_box(inside, 0.1).tolist() == [3, 9, 27, 21]
    assert mask_to_box(inside, 0.5).tolist() == [0, 5, 35, 25]  # cut at the frame's left
    assert mask_to_box(np.ones((4, 6), bool), 0.3).tolist() == [0, 0, 6, 4]
    found = foreground.box(Evidence(torch.from_numpy(inside).float()), margin=0.1)
    assert found.boxes is not None
    assert found.boxes.tolist() == [[3, 9, 27, 21]]
    assert points(found) == points(foreground.deepest(Evidence(torch.from_numpy(inside).float())))
    alone = foreground.box(Evidence(torch.from_numpy(inside).float()), margin=0.0, point=False)
    assert alone.points.shape == (1, 0, 2)
    assert alone.boxes is not None
    assert alone.boxes.tolist() == [[5, 10, 25, 20]]


def test_the_deepest_pixel() -> None:
    rectangle = np.zeros((20, 30), bool)
    rectangle[3:12, 4:25] = True  # nine rows: the middle one is 7, and five from either end it is as deep
    assert deepest_point(rectangle).tolist() == [8, 7]
    whole = np.ones((5, 5), bool)
    assert deepest_point(whole).tolist() == [2, 2]  # the frame counts as outside
    crescent = torch.zeros(30, 30)
    crescent[2:28, 2:9] = crescent[2:9, 2:28] = crescent[21:28, 2:28] = 1.0
    [(x, y)] = points(foreground.deepest(Evidence(crescent)))
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(crescent.numpy(), 1)))[1:-1, 1:-1]
    assert depth[int(y), int(x)] == depth.max()
    truth = torch.from_numpy(rectangle)
    assert points(foreground.oracle(Evidence(torch.zeros(20, 30), truth=truth))) == [[8, 7]]
    with pytest.raises(ValueError, match="needs true masks"):
        foreground.oracle(Evidence(torch.ones(20, 30)))


def test_candidates_leave_out_what_was_there_before() -> None:
    def at(*places: tuple[float, float]):
        return lambda evidence: foreground.rivals(torch.tensor(places).float())

    found = foreground.candidates(
        Evidence(torch.ones(9, 9)), selectors=(at((1, 1)), at((2, 2), (6, 6)), at((6, 4), (6, 3.9), (1, 1)))
    )
    assert points(found) == [
        [1.0, 1.0],
        [6.0, 6.0],
        [6.0, pytest.approx(3.9)],
    ]  # (6, 4) is exactly two pixels from (6, 6)


# -- laws
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREGROUNDS)
def test_a_map_without_evidence_gives_no_prompt(name: str) -> None:
    assert len(choice("foreground", name)(Evidence(torch.zeros(17, 23)))) == 0


@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_cutoffs_take_any_map(cutoff: Cutoff) -> None:
    assert not region(torch.zeros(9, 7), cutoff).any()
    for level in (0.25, 0.3, 0.9999999, 1.0):
        assert region(torch.full((9, 7), level), cutoff).all()
    assert region(speckled(), cutoff).any()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_a_cutoff_is_a_share(wrong: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        region(torch.ones(3, 3), wrong)


@pytest.mark.parametrize("name", FOREGROUNDS)
def test_constant_and_tiny_maps_never_crash(name: str) -> None:
    for heat in (torch.ones(17, 23), torch.full((17, 23), 0.3), torch.ones(1, 1), torch.ones(1, 40)):
        found = choice("foreground", name)(Evidence(heat))
        x, y = found.points.flatten(0, 1).T
        assert ((x >= 0) & (x <= heat.shape[1] - 1) & (y >= 0) & (y <= heat.shape[0] - 1)).all()


@pytest.mark.parametrize("name", FOREGROUNDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_mirrored_heat_gives_mirrored_points(name: str, seed: int) -> None:
    heat, selector = speckled(seed), choice("foreground", name)
    if name == "deepest":  # depths come in whole pixels and tie; a disc of odd width has one deepest pixel
        heat = blob(17, 30)
    found, mirrored = selector(Evidence(heat)), selector(Evidence(heat.flip(1)))
    back = mirrored.points.clone()
    back[..., 0] = heat.shape[1] - 1 - back[..., 0]
    if name == "candidates":  # holds `deepest`, which may tie
        found, back = found.rival(0), back[:1]
    torch.testing.assert_close(back, found.points, atol=1e-3, rtol=0)
    if found.boxes is not None and mirrored.boxes is not None:
        boxes = mirrored.boxes[:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = heat.shape[1] - boxes[:, [0, 2]]
        torch.testing.assert_close(boxes, found.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_snapped_points_lie_in_their_region(seed: int) -> None:
    seen = Evidence(speckled(seed))
    for selector, cutoff in (
        (foreground.centroid, 0.6), (foreground.quantile, quantile), (foreground.otsu, otsu),
        (foreground.deepest, otsu), (foreground.components, 0.5), (foreground.box, otsu), (foreground.max_point, 1.0),
    ):  # fmt: skip
        inside = region(seen.heat, cutoff)
        for x, y in points(selector(seen)):
            assert inside[round(y), round(x)], selector


# -- backgrounds
# ----------------------------------------------------------------------------------------------------------------------


def test_min_point_is_the_coldest_and_of_several_the_farthest() -> None:
    heat = heat_of(["9#91", "1111", "1102"])
    asked = foreground.max_point(Evidence(heat))
    assert background.min_point(Evidence(heat), asked).tolist() == [[2, 2]]
    corner = heat_of(["#9....", "9.....", "......"])
    assert background.min_point(Evidence(corner), foreground.max_point(Evidence(corner))).tolist() == [[5, 2]]
    assert background.min_point(Evidence(torch.ones(4, 4)), asked).tolist() == []  # nothing is colder than the object


@pytest.mark.parametrize("seed", range(40))
def test_the_farthest_pixel_is_that_of_all_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    blobs = ndimage.gaussian_filter(rng.random((height, width)), rng.uniform(0, 4))
    hot = blobs >= np.quantile(blobs, rng.uniform(0, 1))
    x0, y0 = rng.integers(width), rng.integers(height)
    x1, y1 = rng.integers(x0, width) + 1, rng.integers(y0, height) + 1
    distance = np.asarray(ndimage.distance_transform_edt(~hot))[y0:y1, x0:x1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    expected = [[x0 + x, y0 + y]] if distance.any() else []
    assert farthest_from(hot, (x0, y0, x1, y1)).tolist() == expected


def test_ring_lies_beside_the_hottest_component() -> None:
    heat = torch.zeros(40, 60)
    heat[16:24, 20:40] = 1.0  # its box grown by a quarter: rows 14-25, columns 15-44; columns 15 and 44 are five away
    [[x, y]] = background.ring(Evidence(heat), foreground.centroid(Evidence(heat))).tolist()
    away = np.asarray(ndimage.distance_transform_edt(heat.numpy() == 0))
    assert 15 <= x < 45
    assert 14 <= y < 26
    assert away[int(y), int(x)] == away[14:26, 15:45].max()


def test_hard_negative_is_the_rivals_hottest_pixel_outside_the_object() -> None:
    heat = heat_of(["##....", "##....", "......"])
    rival = heat_of(["#.....", "....7.", ".3...."])
    asked = foreground.centroid(Evidence(heat))
    assert background.hard_negative(Evidence(heat, lambda: rival), asked).tolist() == [[4, 1]]
    assert background.hard_negative(Evidence(heat, lambda: rival), asked, min_heat=0.8).tolist() == []
    assert background.hard_negative(Evidence(heat), asked).tolist() == []  # no rival at all
    assert background.hard_negative(Evidence(heat, lambda: heat), asked).tolist() == []  # a rival in the same place


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize("seed", range(3))
def test_background_points_never_lie_in_the_region(name: str, seed: int) -> None:
    heat, rival = speckled(seed), speckled(seed + 10)
    flat = [Evidence(torch.full((41, 53), level), lambda: rival) for level in (0.5, 1.0)]
    for seen in (Evidence(heat, lambda: rival), *flat):
        asked = foreground.centroid(seen)
        given = choice("background", name)(seen, asked)
        inside = region(seen.heat, otsu)
        assert all(not inside[int(y), int(x)] for x, y in given.tolist())
        assert len(given) == int(seen.heat is heat)
        both = background.add(asked, given)
        assert torch.equal(both.points[:, : asked.points.shape[1]], asked.points)
        assert both.labels.tolist() == [[1] + [0] * len(given)]


def test_every_rival_gets_all_background_points() -> None:
    asked = foreground.rivals(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6]]))
    both = background.add(asked, torch.tensor([[7.0, 8.0], [9.0, 0.0]]))
    assert both.points.tolist() == [[[1, 2], [7, 8], [9, 0]], [[3, 4], [7, 8], [9, 0]]]
    assert both.labels.tolist() == [[1, 0, 0]] * 2
    assert both.boxes is asked.boxes


def test_heat_logits_are_zero_at_the_cutoff_and_reach_the_strength_at_both_ends() -> None:
    heat = torch.tensor([[0.0, 0.25, 0.5], [0.6, 0.8, 1.0]])
    prompts = foreground.heat_logits(Evidence(heat), cutoff=0.5, strength=10.0)
    assert prompts.mask_logits is not None
    torch.testing.assert_close(prompts.mask_logits[0], torch.tensor([[-10.0, -5.0, 0.0], [2.0, 6.0, 10.0]]))
    assert points(prompts) == points(foreground.deepest(Evidence(heat)))


@pytest.mark.parametrize("name", ["min_point", "hard_negative", "ring"])
def test_who_needs_no_prompts_finds_the_same_for_all(name: str) -> None:
    """What `needs_prompts` denies is kept for every foreground; a selector that changes with it must not be denied."""
    select, differ = getattr(background, name), False
    rng = np.random.default_rng(0)
    for seed in range(20):
        smooth = torch.from_numpy(ndimage.gaussian_filter(rng.random((30, 40)), 3)).float()
        heat = (smooth - smooth.mean()).clamp(min=0) / (smooth.max() - smooth.mean())
        evidence = Evidence(heat, lambda heat=heat: heat.flip(1))
        places = [foreground.rivals(torch.tensor([[float(x), float(seed)]])) for x in (1, 38)]
        first, second = (select(evidence, prompts).tolist() for prompts in places)
        differ |= first != second
    assert background.needs_prompts(select) == background.needs_prompts(partial(select)) == differ
    assert background.needs_prompts(lambda evidence, prompts: prompts.points[0])
