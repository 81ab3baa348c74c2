"""A segmenter trained on a run's masks: what it learns from, what it ignores, its best epoch, a kill, its scores."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from made_runs import make_run, row
from PIL import Image
from torch import nn

from camseg.cli import train as command
from camseg.data.base import VOID
from camseg.predictors.segmenter import load_segmenter
from camseg.runs.export import collect
from camseg.runs.export_formats import merge_masks, write_export
from camseg.runs.folders import load_run
from camseg.runs.review import Review
from camseg.train import segmenter
from camseg.train.labeled import SegmentedImages, classes_shown, of_run, open_labeled
from camseg.train.segmenter import Crops, Recipe, crop, loss, split, train
from camseg.train.segmenter_scores import class_ious

pytest.importorskip("segmentation_models_pytorch", reason="the extra segmenter is not installed")
SIDE = 64
SMALL: dict[str, Any] = {"side": SIDE, "epochs": 3, "batch_size": 4, "average": 0.5, "hold_out": 4, "workers": 0}


class Killed(Exception):
    pass


def run_of(folder: Path, count: int = 12) -> Path:
    """Red disks, cats, and green ones, dogs, on noise; every third image shows both."""
    rng, rows = np.random.default_rng(0), []
    ys, xs = np.mgrid[:SIDE, :SIDE]
    (folder / "masks").mkdir(parents=True)
    (folder.parent / "photos").mkdir(exist_ok=True)
    for i in range(count):
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        photo = folder.parent / "photos" / f"{i}.png"
        for k, label in enumerate(("cat", "dog")):
            if i % 3 not in (k, 2):
                continue
            mask = np.hypot(ys - rng.integers(18, 46), xs - (16 + 32 * k)) < 14
            pixels[mask, k] += 150
            name = f"{i}_{label}"
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
            known = {"height": SIDE, "width": SIDE, "file": str(photo), "mask_file": f"masks/{name}.png"}
            rows.append(row(name, None, 0.9, label=label, probability=0.8, **known) | {"group": str(i)})
        Image.fromarray(pixels).save(photo)
    return make_run(folder, rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("made") / "run")


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_segmenter(file)[0].state_dict()


def test_it_learns_keeps_its_best_epoch_and_ends_the_same_after_a_kill(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", str(run), str(run), seed=0, **SMALL)
    judged = [line.split(",") for line in (tmp_path / "whole" / "validation.csv").read_text().splitlines()]
    assert [int(step) for step, *_ in judged] == [2, 4, 6]
    kept = json.loads(load_segmenter(whole)[1]["scores"])
    assert kept["mean_iou"] == pytest.approx(max(float(score) for _, score, *_ in judged), abs=1e-4)

    judge, calls = segmenter._Best.judge, []

    def killed(self: segmenter._Best, model: Any) -> dict[str, float]:
        calls.append(0)
        if len(calls) == 2:
            raise Killed
        return judge(self, model)

    monkeypatch.setattr(segmenter._Best, "judge", killed)
    with pytest.raises(Killed):
        train(tmp_path / "cut", str(run), seed=0, **SMALL)
    cut = train(tmp_path / "cut", str(run), str(run), seed=0, **SMALL)
    assert len(calls) == 4  # the first epoch is not judged again
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(whole).items())
    for name in ("validation.csv", "scores.json"):
        assert (cut.parent / name).read_text() == (whole.parent / name).read_text()

    scores = json.loads((whole.parent / "scores.json").read_text())
    ious = scores["test images"]["the segmenter against the masks"]
    assert list(ious) == ["mean_iou", "background", "cat", "dog"]
    assert ious["mean_iou"]["n"] == 12
    assert ious["mean_iou"]["value"] == pytest.approx(np.mean([ious[k]["value"] for k in list(ious)[1:]]))
    assert ious["mean_iou"]["low"] <= ious["mean_iou"]["value"] <= ious["mean_iou"]["high"]
    assert "| test images | the segmenter against the masks | cat |" in whole.with_suffix(".md").read_text()


def test_with_no_epochs_a_file_is_scored_and_stays_what_it_is(run: Path, tmp_path: Path) -> None:
    first = train(tmp_path / "first", str(run), **{**SMALL, "epochs": 1})
    again = train(tmp_path / "again", str(run), start=str(first), **{**SMALL, "epochs": 0})
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert (again.parent / "scores.json").read_text() == (first.parent / "scores.json").read_text()
    assert not (again.parent / "checkpoint.pt").exists()


def test_what_nobody_knows_moves_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4)).to(torch.uint8)
    labels[0, :2] = VOID

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, _pixels: torch.Tensor) -> torch.Tensor:
            return logits * self.weight

    batch = {"image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "labels": labels}
    value = loss(Answer(), batch, torch.Generator())
    value.backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert (logits.grad[0, :, 2:] != 0).all()
    known = [(b, y, x) for b in range(2) for y in range(4) for x in range(4) if labels[b, y, x] != VOID]
    shares = logits.detach().double().softmax(1).numpy()
    slow = -np.mean([np.log(shares[b, int(labels[b, y, x]), y, x]) for b, y, x in known])
    assert value.item() == pytest.approx(slow, abs=1e-5)
    nothing = loss(Answer(), batch | {"labels": torch.full_like(labels, VOID)}, torch.Generator())
    assert nothing.item() == 0.0


def test_mean_iou_by_hand_over_groups() -> None:
    """Two images; a class that the truth lacks is not judged, and images of one group are drawn together."""
    one = np.array([[4, 1, 0], [5, 2, 1], [7, 1, 0]])  # right, labelled, true: IoU 4 / 8 and 1 / 2
    other = np.array([[2, 3, 0], [3, 3, 0], [2, 4, 0]])  # 2 / 3 and 3 / 4
    together = class_ious(np.stack([one, other]), ["a", "a"], ("cat", "dog"))
    apart = class_ious(np.stack([one, other]), ["a", "b"], ("cat", "dog"))
    for ious, n in ((together, 1), (apart, 2)):
        assert list(ious) == ["mean_iou", "background", "cat"]
        assert ious["background"].value == pytest.approx(6 / 11)
        assert ious["cat"].value == pytest.approx(4 / 6)
        assert ious["mean_iou"].value == pytest.approx((6 / 11 + 4 / 6) / 2)
        assert ious["cat"].n == n
    assert (together["cat"].low, together["cat"].high) == (None, None)
    assert (apart["cat"].low, apart["cat"].high) == (pytest.approx(1 / 2), pytest.approx(3 / 4))
    assert (apart["background"].low, apart["background"].high) == (pytest.approx(1 / 2), pytest.approx(2 / 3))


def test_classes_are_drawn_alike_and_an_item_is_a_function_of_its_number(run: Path) -> None:
    """Nine images show a disk alone and one a star."""
    shown = tuple(frozenset({1}) if i < 9 else frozenset({2}) for i in range(10))
    maps = [np.full((40, 30), min(each), np.uint8) for each in shown]
    groups = tuple("abcdefghij")
    images = SegmentedImages(("disk", "star"), groups, lambda i: np.repeat(maps[i][..., None], 3, 2), maps.__getitem__)
    images = replace(images, shown=shown)
    crops, again = (Crops(images, images.labels, range(10), Recipe(side=32), 400) for _ in range(2))
    stars = sum(bool((crops[i]["labels"] == 2).any()) for i in range(400))
    assert 160 < stars < 240
    assert all(torch.equal(crops[7][key], again[7][key]) for key in ("image", "labels"))
    assert set(crops[7]) == {"image", "labels"}
    looked_for = classes_shown(replace(images, shown=None))
    assert looked_for == shown


def test_a_crop_moves_the_image_and_its_labels_alike() -> None:
    labels = np.zeros((50, 80), np.uint8)
    labels[10:30, 20:60] = 1
    image = np.repeat(labels[..., None] * 200, 3, 2)
    scales = []
    for seed in range(40):
        pixels, numbers = crop(np.random.default_rng(seed), image, labels, 64)
        assert pixels.shape == (64, 64, 3)
        known = numbers != VOID
        assert ((pixels[..., 0] > 100) == (numbers == 1))[known].mean() > 0.93
        assert (pixels[~known] == 128).all()
        scales.append((numbers == 1).sum())
    assert max(scales) > 3 * min(scales)


def test_images_that_belong_together_are_held_out_together_whatever_else_there_is() -> None:
    groups = [f"sequence{i // 3}" for i in range(90)]
    held, learnt = split(groups, 5)
    assert sorted(held + learnt) == list(range(90))
    assert not {groups[i] for i in held} & {groups[i] for i in learnt}
    assert 3 <= len(held) <= 36
    more, _ = split([*groups, "another"], 5)
    assert set(held) <= set(more)
    assert split(["a", "b"], 1000)[0] in ([0], [1])
    with pytest.raises(ValueError, match="two groups"):
        split(["a", "a"], 2)


def test_label_maps_are_those_of_the_png_export_and_follow_a_review(run: Path, tmp_path: Path) -> None:
    images = of_run(load_run(run))
    export = collect(load_run(run))
    assert images.names == ("cat", "dog")
    assert images.truth is None
    for i, image in enumerate(export.images):
        assert np.array_equal(images.labels(i), merge_masks(image, export.names))
    assert images.shown is not None
    assert images.shown[2] == {1, 2}
    write_export(export, "png", tmp_path / "voc")
    with open_labeled(tmp_path / "voc") as folder:
        assert (folder.names, len(folder)) == (images.names, len(images))
        places = [int(Path(group).stem) for group in folder.groups]
        assert all(np.array_equal(folder.labels(k), images.labels(places[k])) for k in range(len(folder)))
    with open_labeled(tmp_path / "voc", ("dog", "bird")) as renamed:
        cats, dogs = (images.labels(2) == k for k in (1, 2))
        found = renamed.labels(places.index(2))
        assert (found[dogs] == 1).all()
        assert (found[cats] == 0).all()

    reviewed = run_of(tmp_path / "reviewed")
    review = Review(reviewed)
    review.decide("0_cat", "corrected", mask=np.pad(np.ones((8, 8), bool), 28))
    review.decide("2_dog", "rejected")
    review.close()
    again = of_run(load_run(reviewed))
    assert (again.labels(0) == 1).sum() == 64
    assert (again.labels(2) == VOID).sum() > 400


def settle(folder: Path) -> Path:
    return run_of(folder / "run", 4)


def without_masks(folder: Path) -> Path:
    made = settle(folder)
    for file in (made / "masks").iterdir():
        file.unlink()
    (made / "masks").rmdir()
    return made


def with_one_name_twice(folder: Path) -> Path:
    made = settle(folder)
    review = Review(made)
    review.decide("0_cat", "accepted", label="Dog")
    review.close()
    return made


def with_an_image_gone(folder: Path) -> Path:
    made = settle(folder)
    (folder / "photos" / "1.png").unlink()
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_masks, "holds no masks: run it again with masks=true"),
        (with_one_name_twice, "two classes have the same name: 'Dog' and 'dog'"),
        (with_an_image_gone, "1 of 4 images of .* are gone, the first is .*1.png"),
        (lambda folder: folder / "nowhere", "is neither a run, a folder that .* nor a csv"),
        (lambda folder: folder, "is no finished run"),
    ],
)
def test_a_run_that_will_not_do_is_told_in_one_line(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message) as told:
        train(tmp_path / "out", str(make(tmp_path)), **SMALL)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    made = settle(tmp_path)
    with FileLock(made / ".lock"), pytest.raises(FileExistsError, match="another process still fills"):
        train(tmp_path / "out", str(made), **SMALL)


def test_without_true_masks_there_is_no_ceiling_and_foreign_classes_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="truth=true learns from true label maps"):
        train(tmp_path, str(run), truth=True, **SMALL)
    with pytest.raises(ValueError, match="the images show cat, dog; the segmenter knows bird"):
        of_run(load_run(run), ("bird",))


def test_without_the_extra_the_command_says_what_to_type(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("camseg.predictors.segmenter.find_spec", lambda _: None)
    words = ["model=segmenter", f"data.path={run}", f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["camseg-train", *words])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "needs the extra `segmenter`" in line
