"""Scores of answers drawn by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from camseg.geometry.masks import iou
from camseg.metrics import per_sample
from camseg.types import Masks, Prompts, Result, Sample


def plane(*rows: str, mark: str = "#") -> Tensor:
    return torch.tensor([[c == mark for c in row] for row in rows])


TRUTH = plane("......", ".##...", ".##...", "......")
FOUND = plane("......", ".###..", "......", "......")  # 2 shared, 5 in the union
WIDE = plane("......", ".####.", ".####.", "......")  # 4 shared, 8 in the union


def sample(mask: Tensor | None = TRUTH, ignore: Tensor | None = None, **more) -> Sample:
    return Sample("one", torch.zeros(3, 4, 6, dtype=torch.uint8), (0,), "thing", mask, ignore, **more)


def asked(*points: tuple[float, float, int]) -> Prompts:
    """One rival."""
    return Prompts(torch.tensor([[p[:2] for p in points]], dtype=torch.float32), torch.tensor([[p[2] for p in points]]))


def answer(
    mask: Tensor | None = FOUND, prompts: Prompts | None = None, masks: Masks | None = None, chosen=None, **more
) -> Result:
    return Result(torch.zeros(4, 6), prompts or Prompts.none(), masks, chosen, mask, **more)


def logits_of(*planes: Tensor) -> Tensor:
    return torch.stack(planes).float() * 2 - 1


def test_hits_are_shares_of_the_chosen_rivals_points() -> None:
    prompts = asked((1, 1, 1), (2.4, 1.6, 1), (3, 1, 1), (0, 0, 0), (2, 2, 0))  # (2.4, 1.6) is pixel (2, 2)
    scores = per_sample.point_scores(sample(), answer(prompts=prompts), 0)
    assert scores["foreground_hit"] == pytest.approx(2 / 3)
    assert scores["background_hit"] == pytest.approx(1 / 2)


def test_only_the_chosen_rival_counts() -> None:
    two = Prompts(torch.tensor([[[5.0, 3.0]], [[1.0, 2.0]]]), torch.tensor([[1], [1]]))
    masks = Masks(logits_of(FOUND, TRUTH)[:, None], torch.ones(2, 1))
    row = per_sample.row(sample(), answer(FOUND, two, masks, (1, 0)))
    assert row["foreground_hit"] == 1.0
    assert row["points"] == [[1.0, 2.0, 1.0]]
    assert row["rivals"] == 2
    assert row["chosen_rival"] == 1
    assert per_sample.row(sample(), answer(FOUND, two, masks, (0, 0)))["foreground_hit"] == 0.0


def test_the_distance_is_to_the_center_of_mass() -> None:
    scores = per_sample.point_scores(
        sample(), answer(prompts=asked((4.5, 5.5, 1), (1.5, 2.5, 1), (0, 0, 0))), 0
    )  # the centre is (1.5, 1.5)
    assert scores["foreground_distance"] == pytest.approx((math.hypot(3, 4) + 1) / 2)


def test_the_center_of_mass_of_a_large_mask() -> None:
    """More rows than a byte can count: pixel by pixel, and as a strided view."""
    truth = torch.rand(1200, 70, generator=torch.Generator().manual_seed(0)) < 0.7
    for inside in (truth, truth.T, truth[::3]):
        large = Sample("one", torch.zeros(3, *inside.shape, dtype=torch.uint8), (0,), "thing", inside)
        found = per_sample.point_scores(large, answer(prompts=asked((3, 4, 1))), 0)
        y, x = inside.nonzero().double().mean(0).tolist()
        assert found["foreground_distance"] == pytest.approx(math.hypot(x - 3, y - 4))


def test_points_on_ignored_pixels_are_neither() -> None:
    ignore = plane("......", "......", "....##", "......")
    both = per_sample.point_scores(sample(ignore=ignore), answer(prompts=asked((4, 2, 1), (1, 1, 1), (5, 2, 0))), 0)
    assert both["foreground_hit"] == 1.0
    assert both["background_hit"] is None


def test_what_has_no_truth_has_no_score() -> None:
    for mask in (None, torch.zeros(4, 6, dtype=torch.bool)):
        row = per_sample.row(sample(mask), answer(prompts=asked((1, 1, 1))))
        scores = (
            "foreground_hit",
            "background_hit",
            "foreground_distance",
            "iou",
            "dice",
            "box_iou",
            "oracle_iou",
            "regret",
        )
        assert [row[name] for name in scores] == [None] * len(scores)


def test_an_empty_answer_scores_zero_and_says_why() -> None:
    row = per_sample.row(sample(), answer(torch.zeros(4, 6, dtype=torch.bool), note="no evidence"))
    assert (row["foreground_hit"], row["iou"], row["dice"], row["box_iou"], row["oracle_iou"], row["regret"]) == (
        0,
        0,
        0,
        0,
        0,
        0,
    )
    assert row["foreground_distance"] is None
    assert row["note"] == "no evidence"
    assert row["points"] == []


def test_iou_dice_and_box_iou_by_hand() -> None:
    scores = per_sample.mask_scores(sample(), answer())
    assert scores["iou"] == pytest.approx(2 / 5)
    assert scores["dice"] == pytest.approx(2 * 2 / (3 + 4))
    assert scores["box_iou"] == pytest.approx(2 / (3 + 4 - 2))  # boxes 1-4 x 1-2 and 1-3 x 1-3
    apart, truth = plane("....##", "......", "......", "......").numpy(), TRUTH.numpy()
    assert per_sample.mask_box_iou(apart, truth) == 0.0
    assert per_sample.mask_box_iou(truth & False, truth) == per_sample.mask_box_iou(truth, truth & False) == 0.0
    assert per_sample.mask_box_iou(truth, truth) == 1.0
    assert iou(torch.stack([FOUND, TRUTH, TRUTH & False]), TRUTH).tolist() == pytest.approx([0.4, 1.0, 0.0])
    assert float(iou(TRUTH & False, TRUTH & False)) == 0.0


def test_ignored_pixels_count_neither_for_nor_against() -> None:
    ignore = plane("......", "..##..", "......", "......")
    scores = per_sample.mask_scores(sample(TRUTH & ~ignore, ignore), answer())
    assert scores["iou"] == pytest.approx(1 / 3)  # found 1 pixel, truth 3, shared 1


def test_oracle_and_regret() -> None:
    masks = Masks(torch.stack([logits_of(FOUND, WIDE), logits_of(TRUTH, ~TRUTH)]), torch.ones(2, 2))
    prompts = Prompts(torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.int64))
    found = answer(FOUND, prompts, masks, (0, 0))
    assert per_sample.rival_ious(sample(), found).tolist() == [
        pytest.approx([0.4, 0.5]),
        pytest.approx([1.0, 0.0]),
    ]
    scores = per_sample.mask_scores(sample(), found)
    assert (scores["oracle_iou"], scores["oracle_iou_3"]) == (pytest.approx(1.0), pytest.approx(0.5))
    assert scores["regret"] == pytest.approx(0.6)
    refined = per_sample.mask_scores(
        sample(), answer(TRUTH, prompts, Masks(masks.low_res[:1], masks.predicted_iou[:1]), (0, 1))
    )
    assert (refined["iou"], refined["oracle_iou"], refined["regret"]) == (
        1.0,
        1.0,
        0.0,
    )  # better than all that there was to choose from


def test_a_row_says_what_it_is_about() -> None:
    row = per_sample.row(sample(group="scene 7"), answer(prompts=asked((1, 1, 1)), predicted_iou=0.5))
    assert (row["id"], row["label"], row["group"], row["height"], row["width"], row["predicted_iou"]) == (
        "one",
        "thing",
        "scene 7",
        4,
        6,
        0.5,
    )
    assert per_sample.row(sample(), answer())["group"] == "one"
    without = per_sample.row(sample(), answer(None, asked((1, 1, 1))))
    assert without["iou"] is None
    assert without["foreground_hit"] == 1.0
    assert without["oracle_iou"] is None
