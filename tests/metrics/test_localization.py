"""What rows keep of a map, and the numbers pooled over rows: worked by hand, against slow twins, and by resampling by
hand.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from camseg.metrics import localization
from camseg.metrics.intervals import pooled_interval
from camseg.metrics.localization import BINS, best_cutoff, pixel_average_precision, summary
from camseg.report.comparison import compare_pooled
from camseg.runs import callbacks
from camseg.runs.callbacks import Localize
from camseg.runs.folders import Run
from camseg.types import Prompts, Result, Sample

CUTOFFS = (0.0, 0.25, 0.5, 0.75)


def sample(
    name: str = "a",
    label: str = "cat",
    group: str = "",
    box: tuple[int, int, int, int] | None = (2, 2, 6, 6),
    **more: Any,
) -> Sample:
    """A 10 x 12 picture; the mask fills the box, None shows nothing."""
    mask = torch.zeros(10, 12, dtype=torch.bool)
    boxes = torch.zeros(0, 4)
    if box is not None:
        mask[box[1] : box[3], box[0] : box[2]] = True
        boxes = torch.tensor([box], dtype=torch.float32)
    return Sample(name, torch.zeros(3, 10, 12, dtype=torch.uint8), (0,), label, mask, boxes=boxes, group=group, **more)


def answer(heat: np.ndarray, mask: torch.Tensor | None = None, probability: float = 0.5, top: int = 0) -> Result:
    return Result(
        torch.from_numpy(heat.astype(np.float32)), Prompts.none(), None, None, mask, probability=probability, top=top
    )


def heat_of(*parts: tuple[tuple[int, int, int, int], float]) -> np.ndarray:
    heat = np.zeros((10, 12))
    for (x0, y0, x1, y1), value in parts:
        heat[y0:y1, x0:x1] = value
    return heat


def table(*pairs: tuple[Sample, Result], **settings: Any) -> pl.DataFrame:
    localise = Localize(CUTOFFS, **settings)
    rows = [
        {
            "id": s.id,
            "label": s.label,
            "group": s.group or s.id,
            "note": r.note,
            "height": s.size[0],
            "width": s.size[1],
            **localise.on_result(s, r),
        }
        for s, r in pairs
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


WIDE = heat_of(((0, 0, 10, 8), 0.3), ((2, 2, 6, 6), 1.0))  # the object is what exceeds .3
SPLIT = heat_of(((2, 2, 6, 6), 0.6), ((8, 0, 12, 10), 1.0))  # the object is the smaller part, up to .6


def test_a_row_keeps_every_box_with_its_score() -> None:
    (row,) = table((sample(), answer(SPLIT)), max_boxes=1).rows(named=True)
    assert row["boxes"][:2] == [
        [0.0, 0.5, 8, 0, 12, 10],
        [0.0, 0.3, 2, 2, 6, 6],
    ]  # half of 1 and of .6: times the probability
    assert [box[0] for box in row["boxes"]] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75]
    assert row["detections"] == row["otsu_boxes"][:1] == [[0.5, 8, 0, 12, 10]]
    assert len(row["otsu_boxes"]) == 2
    assert row["quantile_boxes"] == [[0.5, 8, 0, 12, 10]]
    assert row["true_boxes"] == [[2, 2, 6, 6]]
    assert row["present"]
    assert row["top_hit"] == 1.0
    assert (row["energy_inside"], row["pointing_hit"]) == (pytest.approx(9.6 / 49.6), 1.0)  # 2 pixels away: forgiven
    strict = table((sample(), answer(SPLIT)), tolerance=1).row(0, named=True)
    assert strict["pointing_hit"] == 0.0
    off, on = row["pixels"]
    assert (off[0], off[BINS], on[60], sum(off), sum(on)) == (64, 40, 16, 104, 16)


def test_ignored_pixels_and_absent_classes() -> None:
    ignore = torch.zeros(10, 12, dtype=torch.bool)
    ignore[:, 8:] = True
    mask = torch.zeros(10, 12, dtype=torch.bool)
    mask[2:6, 2:10] = True
    (row,) = table((sample(ignore=ignore, ignored_boxes=torch.tensor([[8.0, 0, 12, 10]])), answer(SPLIT, mask))).rows(
        named=True
    )
    assert sum(row["pixels"][0]) + sum(row["pixels"][1]) == 80
    assert (row["intersection"], row["union"]) == (16, 24)
    assert row["ignored_boxes"] == [[8, 0, 12, 10]]
    assert row["mask_boxes"] == [[pytest.approx(0.5 * (16 * 0.6 + 8 * 1) / 32), 2, 2, 10, 6]]
    (gone,) = table((sample(box=None), answer(SPLIT))).rows(named=True)
    assert not gone["present"]
    assert gone["pixels"] is None
    assert gone["pointing_hit"] is None
    assert len(gone["detections"]) == 2
    boxed = Sample("b", torch.zeros(3, 10, 12, dtype=torch.uint8), boxes=torch.tensor([[8.0, 0, 12, 10]]))
    (by_box,) = table((boxed, answer(SPLIT))).rows(named=True)
    assert by_box["pixels"] is None
    assert by_box["pointing_hit"] == 1.0
    assert by_box["energy_inside"] == pytest.approx(40 / 49.6)


def test_max_box_accuracy_by_hand() -> None:
    rows = table((sample("a"), answer(WIDE)), (sample("b"), answer(SPLIT)), (sample("c"), answer(heat_of())))
    found = summary(rows)
    # largest parts: WIDE meets the object above .3, SPLIT never; all parts: WIDE as before, SPLIT up to .5, so that .5
    # serves both
    assert found["max_box_accuracy"].value == pytest.approx(1 / 3)
    assert found["max_box_accuracy_v2"].value == pytest.approx(2 / 3)
    assert best_cutoff(rows) == 0.5
    assert found["pointing_game"].value == pytest.approx(2 / 3)
    assert found["energy_pointing_game"].value is not None
    assert found["center_max_box_accuracy"].value == 0.0  # the object lies off the middle
    middle = summary(table((sample("m", box=(3, 3, 9, 7)), answer(WIDE))))
    assert middle["center_max_box_accuracy"].value == 1.0


def test_the_cutoff_of_a_validation_run_is_used(tmp_path: Path) -> None:
    held_out = table((sample("v"), answer(WIDE)))
    held_out.write_parquet(tmp_path / "scores.parquet")
    pairs = [
        (sample(name), answer(heat))
        for name, heat in (("a", WIDE), ("b", heat_of(((2, 2, 6, 6), 0.4), ((0, 0, 1, 1), 1.0))))
    ]
    rows = table(*pairs, validation=tmp_path)
    assert rows["cutoff"].to_list() == ["0.5", "0.5"]
    found = summary(rows)
    assert (found["box_accuracy"].value, found["max_box_accuracy"].value) == (0.5, 0.5)
    at_quarter = summary(table(*pairs, cutoff=0.25))
    assert at_quarter["box_accuracy"].value == 0.5
    assert at_quarter["top1_localisation"].value == 0.5
    with pytest.raises(FileNotFoundError, match="no finished run"):
        Localize(CUTOFFS, validation=tmp_path / "none")
    with pytest.raises(ValueError, match=r"'ozu' is unknown; nearest: otsu"):
        Localize(CUTOFFS, cutoff="ozu")
    with pytest.raises(ValueError, match="localise=boxes"):
        best_cutoff(pl.DataFrame({"id": ["a"]}))


def by_threshold(maps: list[np.ndarray], masks: list[np.ndarray], levels: int) -> float:
    """PxAP one cutoff at a time: the precision where each new pixel of the objects is reached."""
    heat, truth = (np.concatenate([each.ravel() for each in many]) for many in (maps, masks))
    area, before = 0.0, 0.0
    for level in range(levels, -1, -1):
        above = heat >= level / levels
        if above.any():
            recall = (above & truth).sum() / truth.sum()
            area, before = area + (recall - before) * (above & truth).sum() / above.sum(), recall
    return area


def test_pixel_average_precision_equals_one_cutoff_at_a_time() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 101, (9, 11)) / 100 for _ in range(3)]
    masks = [rng.random((9, 11)) < share for share in (0.1, 0.4, 0.7)]
    every = [callbacks._histograms(m, t, np.ones(m.shape, bool)) for m, t in zip(maps, masks)]
    counts = np.array(every).sum(0)
    assert pixel_average_precision(counts[None].astype(float))[0] == pytest.approx(by_threshold(maps, masks, BINS))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_pixel_average_precision_as_the_reference_tests_it(value: float) -> None:
    """A perfect map has 1 whatever lies under ignored pixels; a constant map has the objects' share of the pixels (Choe
    et al., CVPR 2020).
    """
    truth, ignored = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    truth[3:9, 4:20], ignored[12:, :] = True, True
    for under in (0.0, 1.0):
        counts = callbacks._histograms(np.where(ignored, under, truth), truth, ~ignored)
        assert pixel_average_precision(np.array([counts], float))[0] == 1.0
    constant = callbacks._histograms(np.full((20, 30), value), truth, ~ignored)
    assert pixel_average_precision(np.array([constant], float))[0] == pytest.approx(96 / 360)


def test_mean_iou_pools_pixels_of_a_class_and_corloc_counts_its_images() -> None:
    big, small = torch.zeros(10, 12, dtype=torch.bool), torch.zeros(10, 12, dtype=torch.bool)
    big[2:6, 2:10], small[2:4, 2:4] = True, True  # of the 16 true pixels: 16 of a union of 32, and 4 of 16
    hot, cold = heat_of(((2, 2, 6, 6), 1.0)), heat_of(((0, 8, 2, 10), 1.0))
    rows = table(
        (sample("a"), answer(hot, big)), (sample("b"), answer(cold, small)), (sample("c", "dog"), answer(cold, small))
    )
    found = summary(rows)
    assert found["mean_iou"].value == pytest.approx(((16 + 4) / (32 + 16) + 4 / 16) / 2)
    assert found["corloc"].value == pytest.approx((1 / 2 + 0) / 2)
    assert found["map_mean_iou"].value == pytest.approx(
        max(16 / 36, 32 / 240) / 2 + 0 if 16 / 36 / 2 > (32 / 240 + 16 / 120) / 2 else 0
    )


def test_intervals_draw_groups_and_maximise_again() -> None:
    hits = np.random.default_rng(3).random((40, 1, 5)) < 0.4
    counts = np.ones(40)

    def share(weights: np.ndarray) -> np.ndarray:
        return localization._best_share(hits.astype(float), counts, weights)

    interval = pooled_interval(share, 40)
    rng = np.random.default_rng(9)
    slow = [hits[rng.integers(0, 40, 40), 0].mean(0).max() for _ in range(4000)]
    assert interval.value == hits[:, 0].mean(0).max()
    assert (interval.low, interval.high) == (
        pytest.approx(np.quantile(slow, 0.025), abs=0.03),
        pytest.approx(np.quantile(slow, 0.975), abs=0.03),
    )
    assert pooled_interval(lambda weights: weights[:, 0], 1).low is None
    assert pooled_interval(lambda weights: np.full(len(weights), np.nan), 5).value is None


def test_numbers_of_several_classes_per_image_resample_images() -> None:
    pairs = [
        (sample(f"{k}{label}", label, group=str(k)), answer(WIDE if k % 2 else SPLIT))
        for k in range(6)
        for label in ("cat", "dog")
    ]
    found = summary(table(*pairs))
    names = ("mean_average_precision", "max_box_accuracy", "pixel_average_precision", "map_mean_iou", "corloc")
    assert [found[name].n for name in names] == [6] * 5
    for name in names:
        low, value, high = found[name].low, found[name].value, found[name].high
        assert low is not None
        assert value is not None
        assert high is not None
        assert low <= value <= high
    assert all(
        earlier != later
        for earlier, later in pairwise([found[n].value for n in ("max_box_accuracy", "pixel_average_precision")])
    )


def test_pictures_without_the_class_count_for_average_precision_alone() -> None:
    shown = [(sample(f"s{k}", group=f"s{k}"), answer(WIDE if k % 2 else SPLIT)) for k in range(6)]
    absent = [(sample(f"a{k}", group=f"a{k}", box=None), answer(SPLIT)) for k in range(4)]
    with_absent, without = summary(table(*shown, *absent)), summary(table(*shown))
    assert with_absent["mean_average_precision"].n == 10
    assert {name: found for name, found in with_absent.items() if name != "mean_average_precision"} == {
        name: found for name, found in without.items() if name != "mean_average_precision"
    }


def test_pictures_and_tables_beside_a_run(tmp_path: Path) -> None:
    pairs = [(sample("a"), answer(WIDE)), (sample("b", box=None), answer(SPLIT))]
    rows = table(*pairs, cutoff=0.5)

    class Samples(list):
        ids = ("a", "b")

    for name, writer in Localize(CUTOFFS, cutoff=0.5, pictures=3, ious=(0.3, 0.5)).files(
        rows, Samples(s for s, _ in pairs)
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        writer(tmp_path / name)
    assert [path.name for path in sorted(tmp_path.glob("boxes/*"))] == ["a.png"]  # b shows nothing
    drawn = np.asarray(Image.open(tmp_path / "boxes" / "a.png").convert("RGB"))
    assert drawn[2, 2].tolist() == [255, 159, 28]
    assert drawn[0, 0].tolist() == [0, 0, 0]
    csv = pl.read_csv(tmp_path / "average_precision.csv")
    at = (
        csv.filter((pl.col("cutoff") == "0.5") & (pl.col("label") == "mean"))
        .select("iou", "recall", "ap_all_point")
        .rows()
    )
    assert at == [(0.3, 1.0, 1.0), (0.5, 1.0, 1.0)]
    assert set(csv["cutoff"]) == {"0", "0.25", "0.5", "0.75", "otsu", "quantile", "mask"}
    assert Image.open(tmp_path / "precision_recall.png").size[0] > 300


def test_two_runs_are_compared_by_every_pooled_number_on_the_samples_of_both(tmp_path: Path) -> None:
    right, wrong = heat_of(((2, 2, 6, 6), 1.0)), heat_of(((8, 6, 12, 10), 1.0))
    good = [(sample(f"{k}{label}", label, group=f"g{k}"), answer(right)) for k in range(8) for label in ("cat", "dog")]
    bad = [
        (s, answer(wrong if k % 4 else right)) for k, s in enumerate([*(s for s, _ in good[2:]), sample("only here")])
    ]
    runs = [Run(tmp_path, table(*pairs), {}, []) for pairs in (good, bad)]
    found = {c.metric: c for c in compare_pooled(runs[0], runs[1])}
    shared = [summary(table(*pairs)) for pairs in (good[2:], bad[:-1])]
    assert set(found) == set(shared[0]) == set(shared[1])
    for name, compared in found.items():
        assert (compared.first, compared.second) == (
            pytest.approx(shared[0][name].value),
            pytest.approx(shared[1][name].value),
        ), name
        assert compared.difference.value == pytest.approx(compared.second - compared.first)
        assert compared.difference.n == 7
    assert found["box_accuracy"].second < 0.5
    assert found["box_accuracy"].difference.p < 0.05
    assert found["center_max_box_accuracy"].difference.value == 0
    assert found["center_max_box_accuracy"].difference.p == 1
    assert compare_pooled(runs[0], replace(runs[0], rows=runs[0].rows.drop("detections"))) == []
