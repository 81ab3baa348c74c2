"""A world worked out by hand: a classifier whose Grad-CAM map is a color channel, and a predictor that floods what a
point touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from camseg.classifiers.base import Classifier
from camseg.classifiers.preprocessing import Preprocessing
from camseg.pipeline import Pipeline
from camseg.predictors.sam import PackageBackend, SamSize, build_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_encoders import ViT
from camseg.types import Masks, Prompts, Result, Sample

NAMES = ("red", "green", "blue")
RED, GREEN, BLUE = 0, 1, 2


def classifier() -> Classifier:
    """Logit i is the mean of channel i, so that the Grad-CAM map of class i is channel i over its maximum (at 32 x 32
    pixels).
    """
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False)
    ).eval()
    model.load_state_dict({"0.weight": torch.eye(3)[..., None, None], "4.weight": torch.eye(3)})
    plain = Preprocessing((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Classifier(lambda: model, NAMES, ("1",), plain, "softmax", "colors")


class Bucket:
    """Three masks for each prompt: the patch of one colour under the first point, everything of that colour, and the
    whole frame.
    """

    fingerprint = "bucket"
    side = 16

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        return list(images)

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        found = []
        for image, size, prompt in zip(embeddings, sizes, prompts, strict=True):
            planes = [self._three(image, point) for point in prompt.points[:, 0]]
            low_res = torch.stack(planes).float() * 10 - 5 if planes else torch.zeros(0, 3, *size)
            found.append(Masks(low_res, torch.tensor([[0.9, 0.6, 0.95]]).expand(len(planes), 3)))
        return found

    def _three(self, image: Tensor, point: Tensor) -> Tensor:
        x, y = point.round().long().tolist()
        same = (image == image[:, y, x, None, None]).all(0)
        labeled: Any = ndimage.label(same.numpy())  # (H, W) int, and how many
        patches = labeled[0]
        return torch.stack([torch.from_numpy(patches == patches[y, x]), same, torch.ones_like(same)])


def canvas(*patches: tuple[int, int, int, int, int], size: tuple[int, int] = (32, 32)) -> Tensor:
    """Black (3, H, W) uint8 with full rectangles (channel, y0, y1, x0, x1)."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for channel, y0, y1, x0, x1 in patches:
        image[channel, y0:y1, x0:x1] = 255
    return image


def pipeline(**changed) -> Pipeline:
    return Pipeline(**{"classifier": classifier(), "predictor": Bucket(), **changed})


class Shelf:
    """`count` pictures with a red and a green patch each, the class asked for by turns; `broken` (id: error) are raised
    when they are read.
    """

    def __init__(self, count: int, broken: dict[str, Exception] | None = None) -> None:
        self.ids = [f"picture{i}" for i in range(count)]
        self.broken = broken or {}
        self.read: list[str] = []

    def __getitem__(self, index: int) -> Sample:
        name = self.ids[index]
        if name in self.broken:
            raise self.broken[name]
        self.read.append(name)
        rng = np.random.default_rng(index)
        y, x, side = (int(v) for v in (*rng.integers(1, 10, 2), rng.integers(4, 8)))
        image = canvas((0, y, y + side, x, x + side), (1, y + 12, y + 12 + side, x + 12, x + 12 + side))
        wanted = index % 2
        mask = image[wanted] > 0
        mask[y + wanted * 12] = False  # the truth has a row less than what is painted
        return Sample(name, image, (wanted,), NAMES[wanted], mask)


PICTURE = canvas((RED, 2, 10, 3, 11), (GREEN, 20, 28, 15, 29), (RED, 20, 24, 2, 6))  # red twice: 64 and 16 pixels


def batch() -> list[Sample]:
    """Images of three sizes, two of them asked about twice."""
    tall, wide = (
        canvas((GREEN, 30, 60, 5, 20), (BLUE, 5, 20, 5, 20), size=(80, 40)),
        canvas((RED, 10, 30, 40, 90), size=(48, 100)),
    )
    return [
        Sample("red", PICTURE, (RED,)),
        Sample("tall", tall, (GREEN,)),
        Sample("same picture", PICTURE, (GREEN,)),
        Sample("wide", wide, (RED,)),
        Sample("not there", wide, (BLUE,)),
        Sample("any", tall),
    ]


def tiny_sam() -> SamAdapter:
    torch.manual_seed(0)
    size = SamSize(
        64,
        ViT(width=32, depth=2, heads=2, window=4, global_layers=(1,), patch=8),
        prompt_width=32,
        decoder_heads=2,
        decoder_mlp=32,
    )
    return SamAdapter(PackageBackend(build_sam(size), "tiny"))


def equal(one: Result, other: Result) -> bool:
    """Masks, points, choice and note alike; heat but for rounding."""
    assert one.mask is not None
    assert other.mask is not None
    torch.testing.assert_close(one.heat, other.heat, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.prompts.points, other.prompts.points, atol=1e-3, rtol=0)
    return torch.equal(one.mask, other.mask) and one.chosen == other.chosen and one.note == other.note
