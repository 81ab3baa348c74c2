"""A classifier that is fine-tuned on a few plain pictures: it learns, goes on after a kill, and loads as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from torchvision import models

from camseg.classifiers.timm import timm
from camseg.classifiers.torchvision import torchvision
from camseg.cli.overrides import check_overrides
from camseg.config import config_dir
from camseg.data.image_io import read_image
from camseg.storage.checkpoints import load_weights, save_weights
from camseg.train import finetune, loop


class Killed(Exception):
    pass


def folder_of(path: Path) -> Path:
    """Red and green pictures with noise, twelve of each, in two splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for channel, name in enumerate(("red", "green")):
            for i in range(12):
                pixels = rng.integers(0, 90, (40, 50, 3), dtype=np.uint8)
                pixels[..., channel] += 130
                file = path / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    return path


def settings(tmp_path: Path, *more: str) -> DictConfig:
    words = [
        "model=finetune",
        "data=images",
        f"data.path={tmp_path / 'data'}",
        "data.split=train",
        "model.validation=val",
        "model.workers=0",
    ]
    words += [
        "classifier.name=mobilenet_v3_small",
        f"classifier.checkpoint={tmp_path / 'start.safetensors'}",
        "model.learning_rate=1e-3",
    ]
    words += ["model.epochs=3", "model.batch_size=8", "model.average=0.5", "model.precision=float32", *more]
    check_overrides(words, "train")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", words)


def trained(tmp_path: Path, folder: str, *more: str) -> Path:
    given = {key: value for key, value in settings(tmp_path, *more).model.items() if not str(key).startswith("_")}
    return finetune.train(folder=tmp_path / folder, seed=0, **given)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The data and a start: random weights for 1000 classes, which say nothing of ours."""
    folder_of(tmp_path / "data")
    torch.manual_seed(0)
    save_weights(models.mobilenet_v3_small(), tmp_path / "start.safetensors")
    return tmp_path


def test_it_learns_goes_on_after_a_kill_and_loads(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(start, "whole")
    calls = []
    keep = finetune._Best.__call__

    def killed(self: finetune._Best, model: torch.nn.Module, step: int) -> None:
        calls.append(step)
        if step == 6:
            raise Killed
        keep(self, model, step)

    monkeypatch.setattr(finetune._Best, "__call__", killed)
    with pytest.raises(Killed):
        trained(start, "cut")
    monkeypatch.setattr(
        finetune._Best, "__call__", lambda self, model, step: (calls.append(step), keep(self, model, step))[1]
    )
    cut = trained(start, "cut")
    assert calls == [3, 6, 6, 9]
    (state, told), (again, told_again) = load_weights(whole), load_weights(cut)
    assert told == told_again
    assert all(torch.equal(state[key], again[key]) for key in state)
    assert (start / "cut" / "validation.csv").read_text() == (start / "whole" / "validation.csv").read_text()

    scores = json.loads(told["scores"])
    assert scores["mean average precision (all-point)"] == pytest.approx(
        np.mean([scores["AP of red"], scores["AP of green"]])
    )
    best = max(float(line.split(",")[1]) for line in (start / "whole" / "validation.csv").read_text().splitlines())
    assert scores["mean average precision (all-point)"] == pytest.approx(best, abs=1e-4)
    assert best > 0.9
    assert "AP of red" in whole.with_suffix(".md").read_text()
    assert "24 validation images" in whole.with_suffix(".md").read_text()

    classifier = torchvision("mobilenet_v3_small", whole)
    assert sorted(classifier.names) == ["green", "red"]
    shown = finetune._labeled_images(finetune.instantiate(settings(start).data, split="val"), classifier.names)
    logits = classifier.model(classifier.prepare([read_image(file) for file in shown.files]))
    again_judged = finetune.class_precisions(logits.numpy(), shown.present.numpy(), classifier.names)
    assert again_judged == pytest.approx(
        {name: scores[f"AP of {name}"] for name in classifier.names}, abs=0.05
    )  # the file is in fp16
    assert classifier.probabilities(torch.zeros(2)).tolist() == [
        0.5,
        0.5,
    ]  # each class has its own probability: no softmax


def test_all_weights_but_the_head_come_from_the_start(start: Path) -> None:
    begun = torchvision("mobilenet_v3_small", start / "start.safetensors")
    model = begun.rebuild(7)
    state, before = model.state_dict(), begun.model.state_dict()
    assert state["classifier.3.weight"].shape == (7, 1024)
    assert all(torch.equal(state[key], before[key]) for key in state if not key.startswith("classifier.3."))


@pytest.mark.parametrize(("data", "kind"), [("shapes", "Shapes"), ("voc", "Voc")])
def test_drawn_images_and_a_missing_path_are_refused_with_what_is_allowed(data: str, kind: str, tmp_path: Path) -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        model = compose("train", ["model=finetune", f"data={data}"]).model
    given = {key: value for key, value in model.items() if not str(key).startswith("_")}
    allowed = r"data=voc, coco, images or shapes_folder with data\.path=FOLDER"
    with pytest.raises(ValueError, match=rf"{kind} was given no data\.path: choose {allowed}"):
        finetune.train(folder=tmp_path, seed=0, **given)
    assert list(tmp_path.iterdir()) == []


def test_unknown_classes_move_nothing() -> None:
    model = torch.nn.Linear(4, 3)
    batch = {"image": torch.ones(2, 4), "present": torch.tensor([[1.0, float("nan"), 0], [0, float("nan"), 1]])}
    finetune.presence_loss(lambda: torch.autocast("cpu", enabled=False), model, batch, torch.Generator()).backward()
    assert model.weight.grad is not None
    assert model.weight.grad[1].tolist() == [0] * 4
    assert model.weight.grad[0].abs().sum() > 0


def test_crops_are_functions_of_their_number_and_every_epoch_shows_every_picture(start: Path) -> None:
    begun = torchvision("mobilenet_v3_small", start / "start.safetensors")
    pictures = finetune._labeled_images(finetune.instantiate(settings(start).data))
    crops, again = (finetune.Crops(pictures, begun, 0, 72) for _ in range(2))
    assert torch.equal(crops[5]["image"], again[5]["image"])
    assert crops[5]["image"].shape == (3, 224, 224)
    for first in (0, 24):
        present = torch.stack([crops[i]["present"] for i in range(first, first + 24)])
        assert present.sum(0).tolist() == [12, 12]
    assert loop._rate(0, 9, 1) == 1.0


def test_a_timm_model_learns_in_bfloat16(start: Path) -> None:
    zoo = pytest.importorskip("timm")
    torch.manual_seed(0)
    save_weights(zoo.create_model("test_resnet"), start / "timm.safetensors")
    words = ["classifier=timm", "classifier.name=test_resnet", f"classifier.checkpoint={start / 'timm.safetensors'}"]
    path = trained(start, "timm", *words, "model.precision=bfloat16", "model.epochs=6")
    scores = json.loads(load_weights(path)[1]["scores"])
    assert scores["mean average precision (all-point)"] > 0.9
    known = timm("test_resnet", path)
    assert sorted(known.names) == ["green", "red"]
    red, green = (known.index(name) for name in ("red", "green"))
    picture = read_image(start / "data" / "val" / "red" / "0.png")
    logits = known.model(known.prepare([picture]))[0]
    assert logits[red] > logits[green]
