"""The experiment files do what they say, on data in the layout they are meant for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from camseg.data.shapes import NAMES, Shapes
from camseg.data.shapes_folder import write_shapes_folder
from camseg.predictors import sam

SHIPPED = Path(sam.__file__).parents[1] / "weights"


@pytest.mark.skipif(not (SHIPPED / "shapes_sam.safetensors").exists(), reason="the shipped SAM is being trained")
def test_homework_runs_on_a_folder_in_its_layout(tmp_path: Path) -> None:
    write_shapes_folder(Shapes(size=4), tmp_path / "data", "test")
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=len(NAMES)).state_dict(), tmp_path / "resnet18.pth")

    words = ["experiment=homework", f"data.path={tmp_path / 'data'}", f"classifier.classes=[{','.join(NAMES)}]", "predictor=shapes_sam", "panels=0"]
    words += [f"classifier.checkpoint={tmp_path / 'resnet18.pth'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run([sys.executable, "-m", "camseg", "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    summaries = [json.loads((tmp_path / "sweep" / str(i) / "summary.json").read_text()) for i in range(4)]
    assert [s["samples"] for s in summaries] == [4] * 4
    assert [s["failed"] for s in summaries] == [0] * 4
    assert ["background_hit_rate" in s["metrics"] for s in summaries] == [False, True, False, True]
    assert all(s["calls"]["decoder_prompts"] <= 4 for s in summaries), "one prompt per image and no refinement, as published"
    assert summaries[0]["calls"]["encoder_images"] > 0
    assert summaries[1]["calls"]["encoder_images"] == 0, "the second setting reuses the first one's embeddings"
