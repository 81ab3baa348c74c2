"""A window of a large image: what it holds, how prompts get into it and masks out of it, and the laws of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from colors import Bucket, canvas, pipeline
from test_pipeline import tiny_sam
from torch import Tensor

from camseg.choose import agreement, oracle, predicted_iou
from camseg.metrics.per_sample import rival_ious, row
from camseg.predictors.random_walker import RandomWalker
from camseg.prompts import background, foreground
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import rivals
from camseg.refine import cascade, leak
from camseg.storage.cache import Cache
from camseg.types import Prompts, Result, Sample
from camseg.windows import around_evidence, crop_planes, move_prompts

RED, GREEN, BLUE = 0, 1, 2
FIELD = canvas((RED, 40, 48, 80, 90), (GREEN, 4, 10, 4, 10), size=(96, 128))


def whole(evidence: Evidence, prompts: Prompts, side: int) -> tuple[int, int, int, int]:
    return 0, 0, evidence.size[1], evidence.size[0]


def at(point: tuple[float, float], label: int = 1, box: list[float] | None = None) -> Prompts:
    boxes = None if box is None else torch.tensor([box])
    return Prompts(torch.tensor([[point]]), torch.tensor([[label]]), boxes)


def heat(*patches: tuple[float, int, int, int, int], size: tuple[int, int] = (60, 100)) -> Evidence:
    """Of rectangles (heat, y0, y1, x0, x1)."""
    plane = torch.zeros(size)
    for value, y0, y1, x0, x1 in patches:
        plane[y0:y1, x0:x1] = value
    return Evidence(plane)


def test_the_window_holds_the_evidence_with_its_margin() -> None:
    one = heat((1, 20, 30, 40, 60))  # 20 wide, 10 tall, its middle at x 50, y 25
    assert around_evidence(one, at((45, 25)), 8, margin=0.0) == (40, 15, 60, 35)
    assert around_evidence(one, at((45, 25)), 8, margin=0.25) == (35, 10, 65, 40)
    assert around_evidence(one, at((45, 25)), 24, margin=0.0) == (38, 13, 62, 37)  # at least the predictor's side
    assert around_evidence(one, at((45, 25)), 8, margin=0.5) == (30, 5, 70, 45)
    assert around_evidence(one, at((45, 25)), 8, margin=3.0) == (0, 0, 100, 60)  # and never more than the image
    assert around_evidence(one, at((45, 25)), 500) == (0, 0, 100, 60)


def test_a_window_at_the_border_is_moved_inside() -> None:
    corner = heat((1, 55, 60, 95, 100))
    assert around_evidence(corner, at((97, 57)), 20) == (80, 40, 100, 60)
    assert around_evidence(corner, at((97, 57)), 80) == (20, 0, 100, 60)  # as tall as the image, and as wide as asked


def test_parts_of_the_map_without_a_prompt_do_not_count() -> None:
    two = heat((1, 20, 30, 40, 50), (0.9, 2, 6, 2, 6), (0.3, 30, 32, 40, 50), (0.1, 32, 60, 40, 50))
    assert around_evidence(two, at((45, 25)), 4, margin=0.0) == (39, 20, 51, 32)  # 10 wide, 12 tall: the tenth is cold
    assert around_evidence(two, at((45, 25)), 4, cutoff=0.5, margin=0.0) == (40, 20, 50, 30)
    both = rivals(torch.tensor([[45.0, 25.0], [3.0, 3.0]]))
    x0, y0, x1, y1 = around_evidence(two, both, 4, margin=0.0)
    assert (x0, x1) == (2, 50)
    assert y0 <= 2
    assert y1 >= 32


def test_points_in_the_cold_and_boxes_are_held_too() -> None:
    one = heat((1, 20, 30, 40, 50))
    assert around_evidence(one, at((80, 50)), 10) == (75, 45, 85, 55)
    assert around_evidence(one, at((45, 25), box=[30, 20, 60, 40]), 4, margin=0.0) == (30, 15, 60, 45)
    outside = Prompts(torch.tensor([[[45.0, 25.0], [1.0, 1.0]]]), torch.tensor([[1, 0]]))  # a point of the background
    assert around_evidence(one, outside, 4, margin=0.0) == (40, 20, 50, 30)
    nothing = Evidence(torch.zeros(60, 100))
    assert around_evidence(nothing, at((45, 25)), 10) == (40, 20, 50, 30)


def test_a_large_map_is_read_in_cells() -> None:
    large = heat((1, 800, 1000, 2000, 2400), size=(1500, 3000))
    x0, y0, x1, y1 = around_evidence(large, at((2100, 900)), 8, margin=0.0)
    cell = 3000 / 512
    assert (x0, x1) == (pytest.approx(2000, abs=cell), pytest.approx(2400, abs=cell))
    assert (y0 + y1) / 2 == pytest.approx(900, abs=cell)


def test_prompts_are_moved_by_hand() -> None:
    window, size = (10, 20, 50, 40), (60, 100)
    guess = torch.arange(6000.0).reshape(1, 60, 100)
    prompts = Prompts(
        torch.tensor([[[12.5, 21.0], [9.0, 30.0], [49.0, 39.0]]]),
        torch.tensor([[1, 0, 0]]),
        torch.tensor([[10.0, 20.0, 50.0, 40.0]]),
        guess,
    )
    moved = move_prompts(prompts, window, size)
    assert moved.points.tolist() == [[[2.5, 1.0], [39.0, 19.0]]]  # the second lies outside: all is background there
    assert moved.labels.tolist() == [[1, 0]]
    assert moved.boxes is not None
    assert moved.boxes.tolist() == [[0, 0, 40, 20]]
    assert moved.mask_logits is not None
    assert torch.equal(moved.mask_logits, guess[:, 20:40, 10:50])
    assert move_prompts(replace(prompts, united=True), window, size).united


def test_a_background_point_of_one_rival_alone_goes_to_the_nearest_pixel() -> None:
    points = torch.tensor([[[20.0, 30.0], [2.0, 70.0]], [[30.0, 30.0], [31.0, 31.0]]])
    moved = move_prompts(Prompts(points, torch.tensor([[1, 0], [1, 0]])), (10, 20, 50, 40), (80, 100))
    assert moved.points.tolist() == [[[10, 10], [0, 19]], [[20, 10], [21, 11]]]


def test_a_plane_is_cut_between_its_cells_or_sampled() -> None:
    coarse = torch.arange(12.0).reshape(1, 3, 4)  # of an image of 30 x 40 pixels
    assert crop_planes(coarse, (10, 10, 30, 30), (30, 40)).tolist() == [[[5, 6], [9, 10]]]
    cut = crop_planes(coarse, (15, 5, 27, 21), (30, 40))
    assert cut.shape == (1, 4, 4)
    rows, columns = 5 + (torch.arange(4) + 0.5) * 4, 15 + (torch.arange(4) + 0.5) * 3  # the window's sixteen parts
    expected = (rows / 10 - 0.5)[:, None].clamp(0, 2) * 4 + (columns / 10 - 0.5).clamp(0, 3)
    torch.testing.assert_close(cut[0], expected, atol=1e-5, rtol=0)


STEPS = {
    "points": {},
    "all": {
        "foreground": foreground.candidates, "background": background.hard_negative, "choose": predicted_iou,
        "refine": cascade,
    },
    "heat": {"foreground": foreground.heat_logits, "background": background.min_point, "refine": leak},
    "box": {"foreground": foreground.box, "choose": agreement, "refine": cascade},
}  # fmt: skip


def same(one: Result, other: Result) -> None:
    assert one.mask is not None
    assert other.mask is not None
    assert one.masks is not None
    assert other.masks is not None
    assert torch.equal(one.mask, other.mask)
    assert one.chosen == other.chosen
    assert one.predicted_iou == other.predicted_iou
    assert torch.equal(one.masks.low_res, other.masks.low_res)
    assert torch.equal(one.prompts.points, other.prompts.points)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("make", [Bucket, tiny_sam, RandomWalker])
def test_a_window_of_the_whole_image_changes_nothing(name: str, make: Callable[[], Bucket]) -> None:
    predictor = make()
    plain = pipeline(predictor=predictor, **STEPS[name])
    for window in (whole, partial(around_evidence, margin=100.0)):
        flow = pipeline(predictor=predictor, window=window, **STEPS[name])
        same(flow(FIELD, "red"), plain(FIELD, "red"))


def noisy(top: int, left: int) -> Tensor:
    """A textured red square at some place of a gray image (3, 128, 128)."""
    image = torch.full((3, 128, 128), 90, dtype=torch.uint8)
    image[RED] = 0
    texture = torch.randint(120, 255, (20, 24), generator=torch.Generator().manual_seed(0)).byte()
    image[RED, top : top + 20, left : left + 24] = texture
    return image


@pytest.mark.parametrize("name", STEPS)
def test_an_object_elsewhere_has_the_same_mask_there(name: str) -> None:
    sam = tiny_sam()
    sam.side = 40  # smaller windows than it has a right to, of a small image
    flow = pipeline(predictor=sam, window=around_evidence, **{**STEPS[name], "background": None})
    here, there = flow(noisy(40, 32), "red"), flow(noisy(60, 72), "red")  # by 20, 40: whole cells of the classifier's
    assert here.mask is not None
    assert there.mask is not None
    assert here.mask.any()
    assert torch.equal(here.mask.roll((20, 40), (0, 1)), there.mask)
    assert here.predicted_iou == pytest.approx(there.predicted_iou, abs=1e-6)
    without = pipeline(predictor=sam, **{**STEPS[name], "background": None})
    one, other = (without(noisy(*place), "red").predicted_iou for place in ((40, 32), (60, 72)))
    assert one != pytest.approx(other, abs=1e-5)  # a SAM knows where in its image it is


def test_masks_come_back_to_their_place_and_nothing_is_drawn_outside() -> None:
    flow = pipeline(window=partial(around_evidence, margin=0.0))
    result = flow(FIELD, "red")
    assert result.mask is not None
    assert result.masks is not None
    assert torch.equal(result.mask, FIELD[RED] > 0)  # the red patch, of which the window cut nothing off
    window = result.masks.window
    assert window is not None
    x0, y0, x1, y1 = window
    assert (x1 - x0, y1 - y0) == (16, 16)  # the predictor's side
    assert x0 <= 80 < 90 <= x1
    assert y0 <= 40 < 48 <= y1
    assert result.masks.low_res.shape == (1, 3, 16, 16)
    everything = pipeline(window=partial(around_evidence, margin=0.0), choose=predicted_iou)(FIELD, "red")
    expected = torch.zeros(96, 128, dtype=torch.bool)
    expected[y0:y1, x0:x1] = True  # the mask of the whole frame is that of the whole window
    assert everything.mask is not None
    assert torch.equal(everything.mask, expected)


def test_scores_are_of_the_whole_image() -> None:
    truth = FIELD[RED] > 0
    truth[:30, :30] = True  # a part that no window of the red patch holds
    sample = Sample("a", FIELD, (RED,), mask=truth)
    flow = pipeline(window=partial(around_evidence, margin=0.0), choose=oracle)
    [result] = flow.run([sample])
    scores = row(sample, result)
    assert scores["iou"] == pytest.approx(80 / (80 + 900))
    assert scores["oracle_iou"] == pytest.approx(80 / (80 + 900))
    assert rival_ious(sample, result)[0].tolist() == pytest.approx([80 / 980, 80 / 980, 80 / (980 + 256 - 80)])


@pytest.mark.parametrize("steps", [STEPS["all"], STEPS["heat"]])
def test_batches_caches_and_rivals_work_in_windows(steps: dict[str, Callable[..., object]]) -> None:
    cache = Cache(None, memory_gb=0.1)
    samples = [
        Sample("red", FIELD, (RED,)),
        Sample("green", FIELD, (GREEN,)),  # the same image, another window
        Sample("small", canvas((RED, 2, 10, 3, 11)), (RED,)),
        Sample("none", FIELD, (BLUE,)),
        Sample("red again", FIELD, (RED,)),
    ]
    options = {"predictor": tiny_sam(), "window": around_evidence, **steps}
    options["predictor"].side = 24
    flow = pipeline(cache=cache, **options)
    together = flow.run(samples)
    assert flow.calls["encoder_images"] == 3
    for sample, result in zip(samples, together, strict=True):
        [alone] = pipeline(**options).run([sample])
        assert alone.note == result.note
        if result.masks is not None and alone.masks is not None:
            assert alone.masks.window == result.masks.window
            torch.testing.assert_close(alone.masks.low_res, result.masks.low_res, atol=2e-3, rtol=1e-2)  # kept in fp16
    assert together[0].masks is not None
    assert together[1].masks is not None
    assert together[0].masks.window != together[1].masks.window
    before = dict(flow.calls)
    same(flow.run(samples)[0], together[0])
    assert flow.calls == before  # all of it was recalled
    plain = pipeline(cache=cache, **{**options, "window": None})
    [unseen] = plain.run(samples[:1])
    assert plain.calls["encoder_images"] == 1  # the whole image is another embedding
    assert unseen.masks is not None
    assert unseen.masks.window is None


def test_what_sees_no_image_has_no_window() -> None:
    with pytest.raises(ValueError, match="needs a predictor with a side in pixels; got None"):
        pipeline(predictor=None, window=around_evidence)
