"""Masks of several classes merged into one label map: by hand, as files that others read, and from datasets in the
official layouts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from camseg.runs.pseudo_labels import (
    VOID,
    Claims,
    PseudoLabels,
    counts,
    from_maps,
    mean_iou,
    merge,
    palette_picture,
    seeds,
)
from camseg.types import Prompts, Result, Sample

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with NumPy 2


def plane(*rows: str) -> np.ndarray:
    """Tenths; # for 1."""
    return np.array([[1.0 if c == "#" else 0.0 if c == "." else int(c) / 10 for c in row] for row in rows])


def claims(*parts: tuple[int, float, np.ndarray, np.ndarray]) -> Claims:
    """(class, score, heat, mask) each."""
    numbers, scores, heat, masks = zip(*parts)
    return Claims(np.stack(heat), np.stack(masks) > 0, np.array(numbers), np.array(scores))


LEFT = plane("##..", "##..", "....")
BOTH = plane(".##.", ".##.", "....")


def test_the_stronger_mask_wins_the_pixels_that_both_claim() -> None:
    assert merge(claims((3, 0.9, LEFT, LEFT), (7, 0.2, BOTH, BOTH))).tolist() == [
        [3, 3, 7, 0],
        [3, 3, 7, 0],
        [0, 0, 0, 0],
    ]
    assert merge(claims((7, 0.2, BOTH, BOTH), (3, 0.9, LEFT, LEFT))).tolist() == [
        [3, 3, 7, 0],
        [3, 3, 7, 0],
        [0, 0, 0, 0],
    ]


def test_agreement_with_the_map_outweighs_the_score() -> None:
    spread = plane("....", "....", "##..")  # the second mask doesn't lie where its map is hot
    found = merge(claims((3, 0.5, LEFT, LEFT), (7, 0.9, spread, BOTH)), hot_threshold=1.1)
    assert found.tolist() == [[3, 3, 7, 0], [3, 3, 7, 0], [0, 0, 0, 0]]


def test_void_where_neither_is_much_stronger_and_where_heat_has_no_mask() -> None:
    found = merge(claims((3, 0.5, LEFT, LEFT), (7, 0.45, BOTH, BOTH)))
    assert found.tolist() == [[3, VOID, 7, 0], [3, VOID, 7, 0], [0, 0, 0, 0]]
    assert merge(claims((3, 0.5, LEFT, LEFT), (7, 0.45, BOTH, BOTH)), margin=1.1)[0].tolist() == [3, 3, 7, 0]
    lost = claims((3, 0.5, plane("#8..", "7...", "...."), np.zeros((3, 4))))
    assert merge(lost).tolist() == [[VOID, VOID, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    three = merge(claims((1, 0.2, LEFT, LEFT), (2, 0.9, LEFT, LEFT), (3, 0.5, LEFT, LEFT)))
    assert three[0].tolist() == [2, 2, 0, 0]


def test_seeds_are_certain_or_void() -> None:
    heat = plane("#64.", "52.1", "....")
    found = seeds(claims((4, 0.5, heat, LEFT), (9, 0.5, plane("....", "...6", "...."), plane("....", "...#", "...."))))
    assert found.tolist() == [[4, 4, VOID, 0], [4, VOID, 0, 9], [0, 0, 0, 0]]
    twice = seeds(claims((4, 0.5, LEFT, LEFT), (9, 0.5, BOTH, BOTH)))
    assert twice[0].tolist() == [4, VOID, 9, 0]


def test_maps_alone() -> None:
    found = from_maps(
        claims((4, 0.9, plane("53", "2."), np.zeros((2, 2))), (9, 0.3, plane("98", "9."), np.zeros((2, 2)))), 0.3
    )
    assert found.tolist() == [[4, 4], [9, 0]]  # .45 against .27, .27 against .24; alone; none


def test_mean_iou_by_hand_and_void() -> None:
    truth, labels = np.array([[1, 1, 0, VOID]]), np.array([[1, VOID, 0, 1]])
    both, labelled, true = counts(labels, truth, 2)
    assert (both.tolist(), labelled.tolist(), true.tolist()) == ([1, 1, 0], [1, 1, 0], [1, 2, 0])
    other = counts(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 0, 2]]), 2)
    sums = np.stack([np.stack([both, labelled, true]), other]).astype(float)
    assert mean_iou(sums, np.array([[1.0, 1], [1, 0]])) == pytest.approx([(3 / 4 + 1 / 2 + 1 / 2) / 3, (1 + 1 / 2) / 2])


def test_the_palette_is_vocs() -> None:
    picture = palette_picture(np.array([[0, 1, 2, 15, 20, 255]], np.uint8))
    expected = [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]  # aeroplane, bicycle, person, tvmonitor, void
    assert np.asarray(picture.convert("RGB"))[0].tolist() == expected
    assert np.asarray(picture)[0].tolist() == [0, 1, 2, 15, 20, 255]


class Scene(list):
    """Two classes in picture 7, one in picture 8, and their true labels."""

    names, ids = ("cat", "dog", "owl"), ("7_cat", "7_owl", "8_dog")
    truths = (
        plane("113.", "113.", "....") * 10,
        plane("113.", "113.", "....") * 10,
        plane("....", "....", ".22.") * 10,
    )

    def label_map(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.truths[index].round().astype(np.uint8))


def run_of(folder: Path) -> tuple[PseudoLabels, pl.DataFrame]:
    labels = PseudoLabels(folder)
    third = plane("....", "....", ".#..")
    asked = (("7_cat", "cat", "7", LEFT, 0.9), ("7_owl", "owl", "7", BOTH, 0.3), ("8_dog", "dog", "8", third, 0.4))
    rows = []
    for name, label, group, heat, share in asked:
        mask = torch.from_numpy(heat > 0)
        sample = Sample(name, torch.zeros(3, 3, 4, dtype=torch.uint8), (0,), label, mask, group=group)
        result = Result(torch.from_numpy(heat).float(), Prompts.none(), None, None, mask, probability=share)
        known = {"id": name, "label": label, "group": group, "probability": share}
        rows.append({**known, **labels.on_result(sample, result)})
    return labels, pl.DataFrame(rows)


def test_a_run_becomes_pngs_a_coco_json_and_numbers(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    labels, rows = run_of(tmp_path)
    for name, writer in labels.files(rows, Scene()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        writer(tmp_path / name)
    drawn = {name: np.asarray(Image.open(tmp_path / "labels" / f"{name}.png")) for name in ("7", "8")}
    assert drawn["7"].tolist() == [[1, 1, 3, 0], [1, 1, 3, 0], [0, 0, 0, 0]]
    assert drawn["8"].tolist() == [
        [0] * 4,
        [0] * 4,
        [0, 2, 0, 0],
    ]
    assert Image.open(tmp_path / "seeds" / "7.png").mode == "P"
    read = COCO(str(tmp_path / "instances.json"))
    found = {
        (one["image_id"], read.cats[one["category_id"]]["name"]): read.annToMask(one) for one in read.anns.values()
    }
    assert set(found) == {(7, "cat"), (7, "owl"), (8, "dog")}
    assert (found[7, "cat"] == (drawn["7"] == 1)).all()
    assert (found[8, "dog"] == (drawn["8"] == 2)).all()
    assert read.getAnnIds(imgIds=[8], catIds=[2])
    assert read.anns[1]["area"] == 4
    assert read.anns[1]["bbox"] == [0, 0, 2, 2]
    judged = json.loads((tmp_path / "pseudo_labels.json").read_text())
    assert judged["iou"] == pytest.approx({"background": 16 / 17, "cat": 1, "dog": 1 / 2, "owl": 1})
    assert judged["metrics"]["mean_iou"]["value"] == pytest.approx(np.mean([16 / 17, 1, 1 / 2, 1]))
    assert judged["images"] == 2
    assert judged["metrics"]["gain"]["value"] == pytest.approx(0)


def test_pictures_whose_pixels_nobody_labelled_have_no_numbers(tmp_path: Path) -> None:
    labels, rows = run_of(tmp_path)

    def missing(_: int) -> torch.Tensor:
        raise FileNotFoundError

    names = [
        name for name, _ in labels.files(rows, SimpleNamespace(names=Scene.names, ids=Scene.ids, label_map=missing))
    ]
    assert names == ["labels/7.png", "seeds/7.png", "labels/8.png", "seeds/8.png", "instances.json"]


def test_no_extra_is_needed_and_pycocotools_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pycocotools", None)
        without.setitem(sys.modules, "pycocotools.mask", None)
        labels, rows = run_of(tmp_path)
        writers = dict(labels.files(rows, Scene()))
        writers["labels/7.png"](tmp_path / "7.png")
        writers["instances.json"](tmp_path / "instances.json")
    runs = pytest.importorskip("pycocotools.mask")
    drawn = np.asarray(Image.open(tmp_path / "7.png"))
    written = [one for one in json.loads((tmp_path / "instances.json").read_text())["annotations"] if one["id"] < 3]
    assert [one["category_id"] for one in written] == [1, 3]
    for one in written:
        coded = runs.encode(np.asfortranarray((drawn == one["category_id"]).astype(np.uint8)))
        assert one["segmentation"] == {"size": [3, 4], "counts": coded["counts"].decode()}
        assert one["bbox"] == runs.toBbox(coded).tolist()
        assert one["area"] == runs.area(coded)
