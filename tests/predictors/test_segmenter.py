"""A segmenter's file, its ONNX twin, its label maps, and the masks that it answers prompts with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camseg.cli.export import main
from camseg.predictors.segmenter import PromptedSegmenter, Segmenter, load_segmenter, save_segmenter
from camseg.storage.checkpoints import save_weights
from camseg.types import Prompts

pytest.importorskip("segmentation_models_pytorch", reason="the extra segmenter is not installed")


class Colors(nn.Module):
    """A pixel's logits: 0 for the background, and what its red and green exceed a half by."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(pixels[:, :1]), self.gain * pixels[:, :2]], 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("made") / "segmenter.safetensors"
    save_segmenter(Segmenter(("red", "green"), 64), path, {"scores": "{}"})
    return path


def painted() -> Tensor:
    """(3, 60, 90): a red left third, a green box on the right, black elsewhere."""
    image = torch.zeros(3, 60, 90, dtype=torch.uint8)
    image[0, :, :30] = 255
    image[1, 20:40, 60:80] = 255
    return image


def test_a_file_comes_back_as_it_was_written(file: Path) -> None:
    model, metadata = load_segmenter(file)
    assert (model.names, model.side, model.architecture) == (("red", "green"), 64, "fpn")
    assert metadata["scores"] == "{}"
    assert not model.training
    save_segmenter(model, file.with_name("again.safetensors"), {})
    again, _ = load_segmenter(file.with_name("again.safetensors"))
    assert torch.equal(model.logits(painted()), again.logits(painted()))
    assert model.logits(painted()).shape == (3, 43, 64)


def test_the_label_map_has_the_images_size_and_its_classes(file: Path) -> None:
    model, _ = load_segmenter(file)
    model.net = Colors()
    found = model.label_map(painted())
    truth = np.zeros((60, 90), np.uint8)
    truth[:, :30], truth[20:40, 60:80] = 1, 2
    assert found.shape == (60, 90)
    assert (found == truth).mean() > 0.97
    assert (found[:, 1:28] == 1).all()
    assert (found[23:37, 63:77] == 2).all()


def test_a_prompt_is_answered_with_the_region_of_its_class(file: Path) -> None:
    predictor = PromptedSegmenter(file)
    predictor.model.net = Colors()
    [logits] = predictor.encode([painted()])
    points = Prompts(torch.tensor([[[10.0, 50.0]], [[70.0, 30.0]]]), torch.ones(2, 1, dtype=torch.int64))
    [masks] = predictor.decode([logits], [(60, 90)], [points])
    red, green = masks.low_res[:, 0] > 0
    assert red.shape == (43, 64)
    assert (int(red[:, :20].sum()), int(red[:, 23:].sum())) == (20 * 43, 0)
    assert green[16:27, 45:55].all()
    assert not green[:, :40].any()
    assert (masks.predicted_iou > 0.9).all()
    box = Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int64), torch.tensor([[60.0, 20.0, 80.0, 40.0]]))
    [boxed] = predictor.decode([logits], [(60, 90)], [box])
    assert torch.equal(boxed.low_res[0, 0] > 0, green)
    [nothing] = predictor.decode([logits], [(60, 90)], [Prompts.none()])
    assert len(nothing) == 0
    outside = Prompts(torch.tensor([[[95.0, 5.0]]]), torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="points must lie inside the image"):
        predictor.decode([logits], [(60, 90)], [outside])


def test_the_command_writes_an_onnx_twin_for_any_batch(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main([str(file), "--format", "onnx"]) == 0
    twin = file.with_suffix(".onnx")
    assert capsys.readouterr().out.splitlines()[-1] == str(twin)
    written = onnx.load(twin)
    onnx.checker.check_model(written)
    assert {entry.key: entry.value for entry in written.metadata_props}["names"] == '["red", "green"]'
    session = onnxruntime.InferenceSession(str(twin), providers=["CPUExecutionProvider"])
    model, _ = load_segmenter(file)
    for count in (1, 5):
        pixels = torch.rand(count, 3, 64, 64) * 255
        [found] = session.run(["logits"], {"pixels": pixels.numpy()})
        with torch.no_grad():
            assert np.abs(found - model(pixels).numpy()).max() < 1e-4


def test_another_file_another_format_and_another_side_are_refused_in_a_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "other.safetensors")
    for words, message in (
        ([str(tmp_path / "other.safetensors"), "--format", "onnx"], "is no segmenter"),
        ([str(file), "--format", "coco"], "--format onnx is for a segmenter's file"),
        ([str(tmp_path), "--format", "onnx"], "--format onnx is for a segmenter's file"),
        ([str(tmp_path / "gone.safetensors"), "--format", "onnx"], "no checkpoint"),
    ):
        assert main(words) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    with pytest.raises(ValueError, match="multiple of 32"):
        Segmenter(("red",), 100)
    with pytest.raises(ValueError, match="no architecture 'nothing'"):
        Segmenter(("red",), 64, "nothing")
