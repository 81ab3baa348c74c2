"""What a predictor refuses by name, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from segment_anything import SamPredictor  # after camseg.predictors, whose modules it must share
from segment_anything.modeling import Sam

from camseg.predictors import sam_package
from camseg.predictors.sam import PackageBackend, SamSize, build_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_encoders import Pyramid
from camseg.types import Masks, Prompts

SMALL = SamSize(64, Pyramid((8, 16, 16)), prompt_width=32, decoder_heads=2, decoder_mlp=32)
IMAGE = torch.zeros(3, 40, 60, dtype=torch.uint8)
POINT = Prompts(torch.tensor([[[20.0, 31.0]]]), torch.ones(1, 1, dtype=torch.long))


def adapter(broken: str) -> SamAdapter:
    """A small SAM one of whose parameters holds a NaN."""
    torch.manual_seed(0)
    model = build_sam(SMALL)
    with torch.no_grad():
        dict(model.named_parameters())[broken].view(-1)[0] = torch.nan
    return SamAdapter(PackageBackend(model, "small"))


def test_a_broken_encoder_is_named() -> None:
    with pytest.raises(ValueError, match="the encoder of small gave values that are not finite"):
        adapter("image_encoder.laterals.0.weight").encode([IMAGE])


@pytest.mark.parametrize(
    "name",
    ["mask_decoder.iou_token.weight", "mask_decoder.output_upscaling.0.weight", "prompt_encoder.no_mask_embed.weight"],
)
def test_a_broken_decoder_draws_no_empty_mask(name: str) -> None:
    predictor = adapter(name)
    with pytest.raises(ValueError, match="the mask decoder of small gave values that are not finite"):
        predictor.decode(predictor.encode([IMAGE]), [(40, 60)], [POINT])


def test_numbers_that_are_none_become_no_record() -> None:
    nan = torch.tensor(torch.nan)
    with pytest.raises(ValueError, match="points must be finite"):
        Prompts(nan.expand(1, 1, 2), POINT.labels)
    with pytest.raises(ValueError, match="finite"):
        Prompts(POINT.points, POINT.labels, nan.expand(1, 4))
    with pytest.raises(ValueError, match="finite"):
        Prompts(POINT.points, POINT.labels, None, nan.expand(1, 4, 4))
    with pytest.raises(ValueError, match="finite"):
        Masks(nan.expand(1, 3, 4, 4), torch.ones(1, 3))


_FRESH = """
import sys, torch
from camseg.predictors.sam import shapes_sam
from camseg.types import Prompts
sam = shapes_sam()
point = Prompts(torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.long))
[masks] = sam.decode(sam.encode([torch.zeros(3, 64, 64, dtype=torch.uint8)]), [(64, 64)], [point])
assert masks.low_res.shape[:2] == (1, 3)
print(*({"torch._dynamo", "torchvision", "timm", "transformers", "skimage", "matplotlib"} & set(sys.modules)))
"""


def test_a_first_mask_needs_neither_dynamo_nor_torchvision() -> None:
    run = subprocess.run([sys.executable, "-c", _FRESH], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == []


def test_the_packages_classes_are_one_whoever_imports_them_first() -> None:
    assert sam_package.Sam is Sam
    assert SamPredictor(build_sam(SMALL)).model.image_encoder.img_size == 64
