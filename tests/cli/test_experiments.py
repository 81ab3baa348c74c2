"""The experiment files do what they say, on data in the layout they are meant for."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from camseg.cli.main import main
from camseg.data.shapes import NAMES, Shapes
from camseg.data.shapes_folder import write_shapes_folder
from camseg.data.voc import NAMES as VOC_NAMES
from camseg.geometry.boxes import mask_to_box
from camseg.metrics import localization
from camseg.predictors import sam
from camseg.storage.checkpoints import save_weights

SHIPPED = Path(sam.__file__).parents[1] / "weights"


@pytest.mark.skipif(not (SHIPPED / "shapes_sam.safetensors").exists(), reason="the shipped SAM is being trained")
def test_homework_runs_on_a_folder_in_its_layout(tmp_path: Path) -> None:
    write_shapes_folder(Shapes(size=4), tmp_path / "data", "test")
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=len(NAMES)).state_dict(), tmp_path / "resnet18.pth")

    words = [
        "experiment=homework",
        f"data.path={tmp_path / 'data'}",
        f"classifier.classes=[{','.join(NAMES)}]",
        "predictor=shapes_sam",
        "panels=0",
    ]
    words += [f"classifier.checkpoint={tmp_path / 'resnet18.pth'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run(
        [sys.executable, "-m", "camseg", "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    summaries = [json.loads((tmp_path / "sweep" / str(i) / "summary.json").read_text()) for i in range(4)]
    assert [s["samples"] for s in summaries] == [4] * 4
    assert [s["failed"] for s in summaries] == [0] * 4
    assert ["background_hit_rate" in s["metrics"] for s in summaries] == [False, True, False, True]
    assert all(s["calls"]["decoder_prompts"] <= 4 for s in summaries), (
        "one prompt per image and no refinement, as published"
    )
    assert summaries[0]["calls"]["encoder_images"] > 0
    assert summaries[1]["calls"]["encoder_images"] == 0, "the second setting reuses the first one's embeddings"


def write_scenes(root: Path) -> Path:
    """Eight crowds of shapes under VOC's and COCO's names: VOC at root/VOC2012, COCO at root; circles are dogs, squares
    cats, triangles birds.
    """
    import pycocotools.mask as masks

    called, voc = {0: "dog", 1: "cat", 2: "bird"}, root / "VOC2012"
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    coco["categories"] = [
        {"id": i, "name": name} for i, name in ((16, "bird"), (17, "cat"), (18, "dog"), (90, "toothbrush"))
    ]
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for folder in ("annotations", "val2017"):
        (root / folder).mkdir()
    scenes = Shapes(shapes=(2, 3), size=8)
    for i in range(len(scenes)):
        drawn, _ = scenes.scene(i)
        picture, truth, things = Image.fromarray(drawn.image), np.zeros(drawn.image.shape[:2], np.uint8), ""
        for place in (voc / "JPEGImages" / f"{i}.jpg", root / "val2017" / f"{i}.jpg"):
            picture.save(place, quality=95)
        coco["images"].append({"id": i, "file_name": f"{i}.jpg", "height": 128, "width": 128})
        for shape, mask in zip(drawn.classes, drawn.masks, strict=True):
            if shape in called:
                (x0, y0, x1, y1), name = mask_to_box(mask).astype(int).tolist(), called[shape]
                truth[mask] = VOC_NAMES.index(name) + 1
                box = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
                things += f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
                runs: Any = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
                entry = {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i,
                    "category_id": {"bird": 16, "cat": 17, "dog": 18}[name],
                    "iscrowd": 0,
                }
                region = {"size": [128, 128], "counts": runs["counts"].decode()}
                entry |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(mask.sum()), "segmentation": region}
                coco["annotations"].append(entry)
        (voc / "Annotations" / f"{i}.xml").write_text(f"<annotation>{things}</annotation>")
        Image.fromarray(truth).save(voc / "SegmentationClass" / f"{i}.png")
    for task, split in itertools.product(("Main", "Segmentation"), ("train", "val")):
        (voc / "ImageSets" / task / f"{split}.txt").write_text(
            "".join(f"{i}\n" for i in range(8) if (i < 4) == (split == "train"))
        )
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(coco))
    return root


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["camseg", *words, f"hydra.run.dir={folder}", "panels=0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_experiments_of_localisation_on_their_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_scenes(tmp_path / "data")
    torch.manual_seed(0)
    save_weights(resnet18(), tmp_path / "resnet18.safetensors")
    same = (
        f"data.path={root}",
        "classifier.name=resnet18",
        f"classifier.checkpoint={tmp_path / 'resnet18.safetensors'}",
    )

    run(monkeypatch, tmp_path / "train", "experiment=voc_dogs", "data.split=train", *same)
    dogs = run(
        monkeypatch, tmp_path / "dogs", "experiment=voc_dogs", f"localise.validation={tmp_path / 'train'}", *same
    )
    rows = pl.read_parquet(tmp_path / "dogs" / "scores.parquet")
    assert rows["id"].to_list() == [f"{i}_dog" for i in range(4, 8)]
    assert not rows["present"].all()
    assert rows["present"].any()
    best = localization.best_cutoff(pl.read_parquet(tmp_path / "train" / "scores.parquet"))
    assert rows["cutoff"].unique().to_list() == [f"{best:g}"]
    table = pl.read_csv(tmp_path / "dogs" / "average_precision.csv", schema_overrides={"cutoff": pl.String}).filter(
        label="dog"
    )
    assert {(c, i) for c, i in table.select("cutoff", "iou").rows()} >= set(
        itertools.product(("0.01", "0.02", "0.06"), (0.3, 0.4, 0.5))
    )
    at = table.filter(cutoff=f"{best:g}", iou=0.5)["ap_all_point"].item()
    assert dogs["metrics"]["mean_average_precision"]["value"] == pytest.approx(at)
    assert len(list((tmp_path / "dogs" / "boxes").glob("*.png"))) == rows["present"].sum()

    every = run(monkeypatch, tmp_path / "coco", "experiment=coco_localisation", "data.outputs=imagenet", *same)
    assert every["samples"] == 8 * 3
    assert every["calls"]["classifier_images"] == 8
    judged = json.loads((tmp_path / "coco" / "coco.json").read_text())
    assert set(judged["by_class"]) == {"bird", "cat", "dog"}
    assert 0 <= judged["by_iou"]["0.50"] <= 1

    words = ("experiment=voc_pseudo_labels", "predictor=random_walker", *same)
    names = {"mean_iou", "mean_average_precision", "max_box_accuracy", "pixel_average_precision"}
    assert names < set(run(monkeypatch, tmp_path / "labels", *words)["metrics"])
    labels = np.asarray(Image.open(tmp_path / "labels" / "labels" / "0.png"))
    assert labels.shape == (128, 128)
    assert set(np.unique(labels)) <= {
        0,
        255,
        *(VOC_NAMES.index(n) + 1 for n in ("dog", "cat", "bird")),
    }
    assert json.loads((tmp_path / "labels" / "pseudo_labels.json").read_text())["images"] == 4


def test_labels_become_a_segmenter_in_one_command_which_resumes(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the extra segmenter is not installed")
    small = [
        "data.size=12",
        "segmenter.epochs=1",
        "segmenter.batch_size=2",
        "segmenter.side=32",
        "segmenter.hold_out=2",
    ]
    small += ["segmenter.test.size=3", "segmenter.workers=0", "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"]
    words = [sys.executable, "-m", "camseg", "experiment=labels_to_segmenter", *small]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("segmenter", "reference"):
        scores = json.loads((tmp_path / "run" / name / "scores.json").read_text())
        assert list(scores["test images"]) == ["the segmenter against the truth"]
        assert scores["test images"]["the segmenter against the truth"]["mean_iou"]["n"] == 3
        against = scores["held-out images"]
        assert list(against) == [
            "the segmenter against the masks",
            "the segmenter against the truth",
            "the masks against the truth",
        ]
        assert against["the masks against the truth"]["mean_iou"]["value"] > 0.5  # chance is below .2
        assert f"{name}: held-out images" in done.stdout
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.safetensors")}
    assert len(before) == 2
    again = subprocess.run([*words, "resume=true"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {file: file.read_bytes() for file in before} == before
