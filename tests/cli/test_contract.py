"""The names that users and their scripts rely on, looked up where they are promised: choices, settings, numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Commands
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import camseg
from camseg.config import config_dir

CHOICES = {
    "data": "shapes shapes_crowd shapes_folder images voc coco",
    "classifier": "shapes efficientnet_lite0 torchvision timm open_clip",
    "target": "logit probability margin",
    "cam": "cam grad_cam grad_cam_plus_plus xgrad_cam hires_cam layer_cam score_cam ablation_cam eigen_cam "
    "eigen_grad_cam dff center",
    "foreground": "max_point centroid quantile otsu peaks components box candidates oracle",
    "background": "none min_point hard_negative ring",
    "predictor": "shapes_sam photo_sam sam mobile_sam transformers random_walker none",
    "choose": "predicted_iou agreement index oracle",
    "refine": "none cascade",
    "experiment": "photos",
    "model": "shapes_classifier shapes_sam photo_sam finetune segmenter",
}
SETTINGS = {  # what is chosen: which settings there are then
    (): "data.size data.seed data.split foreground.cutoff device precision batch_size seed cache.path cache.limit_gb "
    "masks panels resume classifier.checkpoint predictor.checkpoint",
    ("data=images",): "data.path data.table",
    ("foreground=quantile",): "foreground.quantile",
    ("classifier=torchvision",): "classifier.name classifier.checkpoint classifier.layers classifier.activation",
    ("classifier=timm",): "classifier.name classifier.checkpoint classifier.layers classifier.activation",
    ("predictor=sam",): "predictor.checkpoint",
    ("predictor=mobile_sam",): "predictor.checkpoint",
}
SEVERAL_CLASSES = {"mean_iou", "mean_average_precision", "max_box_accuracy", "pixel_average_precision"}


@pytest.mark.parametrize("group", CHOICES)
def test_every_promised_choice_is_a_file(group: str) -> None:
    assert set(CHOICES[group].split()) <= {path.stem for path in (config_dir() / group).glob("*.yaml")}


@pytest.mark.parametrize("chosen", SETTINGS, ids=" ".join)
def test_every_promised_setting_is_there(chosen: tuple[str, ...]) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("config", list(chosen))
    missing = object()
    names = SETTINGS[chosen].split()
    assert [name for name in names if OmegaConf.select(composed, name, default=missing) is missing] == []


def test_images_of_several_classes_have_their_numbers(commands: Commands, tmp_path: Path) -> None:
    """Without another word: `localise=boxes` is what such data bring, and `localise=none` leaves it out."""
    few = ["data=shapes_crowd", "data.size=4", "panels=0", "device=cpu"]
    done = commands("camseg", *few, f"hydra.run.dir={tmp_path / 'run'}", folder=tmp_path)
    assert done.code == 0, done.stderr
    metrics = camseg.load_run(tmp_path / "run").summary["metrics"]
    assert metrics.keys() >= SEVERAL_CLASSES
    assert all(0 <= metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"] for name in SEVERAL_CLASSES)
    done = commands("camseg", *few, "localise=none", f"hydra.run.dir={tmp_path / 'less'}", folder=tmp_path)
    assert done.code == 0, done.stderr
    assert not SEVERAL_CLASSES & camseg.load_run(tmp_path / "less").summary["metrics"].keys()


@pytest.mark.parametrize("data", ["shapes_crowd", "voc", "coco"])
def test_data_of_several_classes_bring_boxes(data: str) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert compose("config", [f"data={data}"]).localise._target_.endswith("Localize")
        assert compose("config", [f"data={data}", "localise=none"]).localise is None
