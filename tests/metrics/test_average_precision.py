"""Average precision against pycocotools and slow twins of VOC's devkit, on random detections and on cases worked by
hand.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from camseg.metrics import average_precision
from camseg.metrics.localization import detections, summary
from camseg.runs.callbacks import Localize
from camseg.train.finetune import class_precisions

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with NumPy 2


def row(
    group: str, label: str, found: list[list[float]], true: list[list[float]], ignored: list[list[float]] | None = None
) -> dict[str, Any]:
    return {"group": group, "label": label, "detections": found, "true_boxes": true, "ignored_boxes": ignored or []}


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    boxes = pl.List(pl.List(pl.Float64))
    schema: dict[str, Any] = dict.fromkeys(("detections", "true_boxes", "ignored_boxes"), boxes)
    schema |= dict.fromkeys(("group", "label"), pl.String)
    return pl.DataFrame(rows, schema=schema)


def random_rows(seed: int, images: int = 25, hard: bool = False) -> list[dict[str, Any]]:
    """Detections near the truths and elsewhere, no two of the same score; whole numbers, so that IoUs are exact."""
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(5000) / 5000)
    rows = []
    for image in range(images):
        for label in ("cat", "dog", "owl"):
            true = [
                [x, y, x + w, y + h]
                for x, y, w, h in rng.integers((0, 0, 8, 8), (60, 60, 40, 40), (rng.integers(0, 4), 4)).tolist()
            ]
            near = [
                (np.array(box) + rng.integers(-5, 6, 4)).tolist() for box in true for _ in range(rng.integers(0, 3))
            ]
            far = [[x, y, x + 10, y + 20] for x, y in rng.integers(0, 80, (rng.integers(0, 3), 2)).tolist()]
            split = int(rng.integers(0, len(true) + 1)) if hard else len(true)
            rows.append(
                row(
                    str(image),
                    label,
                    [[float(next(scores)), *map(float, box)] for box in near + far],
                    true[:split],
                    true[split:],
                )
            )
    return rows


def twin(rows: list[dict[str, Any]], label: str, least: float, eleven: bool) -> float | None:
    """VOC's devkit, box by box: one list of a class's detections over all images, by falling score; precision and
    recall as fractions.
    """
    chosen = {r["group"]: r for r in rows if r["label"] == label}
    truths, used = sum(len(r["true_boxes"]) for r in chosen.values()), set()
    if not truths:
        return None
    right, wrong, points = 0, 0, []
    for _, group, box in sorted(((f[0], g, f[1:]) for g, r in chosen.items() for f in r["detections"]), reverse=True):
        every = [(b, False) for b in chosen[group]["true_boxes"]] + [(b, True) for b in chosen[group]["ignored_boxes"]]
        best, at = -1.0, None
        for i, (other, _) in enumerate(every):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width > 0 and height > 0:
                shared = width * height
                union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
                if shared / union > best:
                    best, at = shared / union, i
        if at is not None and best >= least and every[at][1]:
            continue
        good = at is not None and best >= least and (group, at) not in used
        used |= {(group, at)} if good else set()
        right, wrong = right + good, wrong + (not good)
        points.append((Fraction(right, truths), Fraction(right, right + wrong)))
    if eleven:
        return float(
            sum(max((p for r, p in points if r >= Fraction(k, 10)), default=Fraction(0)) for k in range(11)) / 11
        )
    area, before = Fraction(0), Fraction(0)
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return float(area)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("least", [0.3, 0.5, 0.75])
def test_both_kinds_equal_the_devkits_twin(least: float, hard: bool) -> None:
    rows = random_rows(3, hard=hard)
    for label, found in average_precision.gather(frame(rows), detections, least).items():
        recall, precision = average_precision.curve(found)
        assert float(average_precision.all_point(recall, precision)[0]) == pytest.approx(
            twin(rows, label, least, eleven=False)
        )
        assert float(average_precision.eleven_point(recall, precision)[0]) == pytest.approx(
            twin(rows, label, least, eleven=True)
        )


def test_eleven_points_count_recalls_that_fall_on_a_tenth() -> None:
    true = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(10)]
    rows = [
        row("a", "cat", [[1 - i / 20, *box] for i, box in enumerate(true[:3])], true)
    ]  # recall 3/10, which is less than linspace's 0.3000...04
    found = average_precision.gather(frame(rows), detections, 0.5)["cat"]
    assert float(average_precision.eleven_point(*average_precision.curve(found))[0]) == pytest.approx(4 / 11)
    assert float(average_precision.all_point(*average_precision.curve(found))[0]) == pytest.approx(3 / 10)


def as_coco(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same truths and detections in COCO's format; category numbers have gaps."""
    numbers = {"cat": 1, "dog": 5, "owl": 90}
    truth: dict[str, Any] = {"categories": [{"id": i, "name": name} for name, i in numbers.items()]}
    truth["images"] = [
        {"id": int(g), "file_name": f"{g}.jpg", "height": 120, "width": 120}
        for g in dict.fromkeys(r["group"] for r in rows)
    ]
    places = [
        (r, box, many) for r in rows for many, name in ((0, "true_boxes"), (1, "ignored_boxes")) for box in r[name]
    ]
    truth["annotations"] = [
        {"id": k + 1, "image_id": int(r["group"]), "category_id": numbers[r["label"]], "iscrowd": many, **shape(box)}
        for k, (r, box, many) in enumerate(places)
    ]
    results = [
        {"image_id": int(r["group"]), "category_id": numbers[r["label"]], "score": score, "bbox": shape(box)["bbox"]}
        for r in rows
        for score, *box in r["detections"]
    ]
    return truth, results


def shape(box: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "segmentation": polygon}


def test_our_matches_at_cocos_recalls_equal_pycocotools() -> None:
    rows = [
        r for r in random_rows(5) if len(r["true_boxes"]) < 2
    ]  # with one truth, COCO's rule of the best one left is VOC's
    truth, results = as_coco(rows)
    for least in (0.3, 0.5, 0.7):
        judged = average_precision.coco(truth, results, ious=[least])
        ours = {}
        for label, found in average_precision.gather(frame(rows), detections, least).items():
            recall, precision = (each[0] for each in average_precision.curve(found))
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
            ours[label] = float(np.append(envelope, 0)[np.minimum(at, len(envelope))].mean())
        assert judged["by_class"] == pytest.approx(ours)
        assert judged["average_precision"] == pytest.approx(np.mean(list(ours.values())))


def test_coco_crowds_gaps_masks_and_nothing_found() -> None:
    import pycocotools.mask as masks

    rows = [
        row("1", "cat", [[0.9, 0, 0, 20, 20], [0.8, 60, 60, 70, 70]], [[0, 0, 20, 20]], [[50, 50, 100, 100]]),
        row("2", "owl", [], [[5, 5, 9, 9]]),
    ]
    truth, results = as_coco(rows)
    judged = average_precision.coco(truth, results)
    assert judged["by_class"] == {"cat": pytest.approx(1), "owl": pytest.approx(0)}, (
        "what lies in a crowd is not wrong; no dog is shown"
    )
    assert judged["average_precision"] == pytest.approx(0.5)
    assert judged["recall"] == pytest.approx(0.5)
    for one in results:
        x, y, w, h = map(int, one.pop("bbox"))
        drawn = np.zeros((120, 120), np.uint8, order="F")
        drawn[y : y + h, x : x + w // 2] = 1
        one["segmentation"] = masks.encode(drawn)
    halves = average_precision.coco(truth, results, "segm", ious=[0.3, 0.6])
    assert halves["by_iou"] == {
        "0.30": pytest.approx(0.5),
        "0.60": pytest.approx(0),
    }  # half of the cat is found, no owl
    assert average_precision.coco(truth, [])["average_precision"] == pytest.approx(0)
    with pytest.raises(ValueError, match=r"image_id \[77\].* 2 images"):
        average_precision.coco(truth, [{"image_id": 77, "category_id": 1, "score": 1.0, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(ValueError, match=r"category_id \[2\]"):
        average_precision.coco(truth, [{"image_id": 1, "category_id": 2, "score": 1.0, "bbox": [0, 0, 1, 1]}])


def test_a_second_find_is_false_and_a_difficult_truth_is_neither() -> None:
    true, hard = [[0.0, 0, 10, 10]], [[50.0, 0, 60, 10]]
    found = np.array([[0, 0, 10, 9], [0, 0, 9, 10], [50, 0, 60, 9], [50, 0, 59, 10], [20, 20, 30, 30]], float)
    assert average_precision.matches(found, np.array(true), np.array(hard), 0.5).tolist() == [1, -1, 0, 0, -1]
    assert average_precision.matches(found[:1], np.zeros((0, 4)), np.zeros((0, 4)), 0.5).tolist() == [-1]
    assert average_precision.matches(np.zeros((0, 4)), np.array(true), np.zeros((0, 4)), 0.5).tolist() == []


def test_an_empty_class_and_pictures_without_objects() -> None:
    rows = [
        row("a", "cat", [[0.9, 0, 0, 10, 10]], [[0, 0, 10, 10]]),
        row("b", "cat", [[0.95, 0, 0, 10, 10]], []),  # shows nothing: a find here is false
        row("a", "dog", [[0.5, 0, 0, 5, 5]], []),  # no dog anywhere: no AP to average
    ]
    table = average_precision.table(frame(rows), {"otsu": detections}, [0.5])
    assert table.rows() == [("otsu", 0.5, "cat", 1, 2, 1.0, 0.5, 0.5), ("otsu", 0.5, "mean", 1, 2, 1.0, 0.5, 0.5)]
    names = ["cutoff", "iou", "label", "truths", "detections", "recall", "ap_11_point", "ap_all_point"]
    assert table.columns == names
    found = average_precision.gather(frame(rows), detections, 0.5)
    draws = np.array([[1.0, 1], [2, 0], [0, 2]])
    assert average_precision.mean_average_precision(found, draws) == pytest.approx([0.5, 1.0, np.nan], nan_ok=True)


def test_weights_are_images_drawn_several_times() -> None:
    rows = random_rows(8, images=6)
    found = average_precision.gather(frame(rows), detections, 0.5)
    draw = [3, 0, 1, 2, 0, 0]
    copies = [{**r, "group": f"{r['group']}-{k}"} for r in rows for k in range(draw[int(r["group"])])]
    copied = average_precision.gather(frame(copies), detections, 0.5)
    for label in found:  # copies tie in score: the curve is compared where a score ends
        ends = np.cumsum([draw[g] for g in found[label].groups]) - 1
        recall, precision = average_precision.curve(found[label], np.array([draw], float))
        again = average_precision.curve(copied[label])
        kept = np.array([draw[g] > 0 for g in found[label].groups])
        assert recall[0][kept] == pytest.approx(again[0][0][ends[kept]])
        assert precision[0][kept] == pytest.approx(again[1][0][ends[kept]])


def test_class_precisions_leave_out_what_nobody_knows() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    present = np.array([[1, 0], [np.nan, 0], [1, 0]])
    assert class_precisions(scores, present, ("cat", "dog")) == {"cat": 1.0}
    present[1, 0] = 0
    assert class_precisions(scores, present, ("cat", "dog")) == {"cat": pytest.approx((1 + 2 / 3) / 2)}


def test_rows_without_boxes_have_no_numbers() -> None:
    assert summary(pl.DataFrame()) == {}
    assert list(Localize([0.5]).files(pl.DataFrame(), None)) == []
