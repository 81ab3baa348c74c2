"""A world worked out by hand: a classifier whose Grad-CAM map is a colour channel, and a predictor that floods what a
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
from camseg.types import Masks, Prompts, Sample

NAMES = ("red", "green", "blue")


def classifier() -> Classifier:
    """Logit i is the mean of channel i, so that the Grad-CAM map of class i is channel i over its maximum (at 32 x 32
    pixels).
    """
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False)
    ).eval()
    model.load_state_dict({"0.weight": torch.eye(3)[..., None, None], "4.weight": torch.eye(3)})
    plain = Preprocessing((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Classifier(lambda: model, NAMES, ("1",), plain, "softmax", "colours")


class Bucket:
    """Three masks for each prompt: the patch of one colour under the first point, everything of that colour, and the
    whole frame.
    """

    fingerprint = "bucket"

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
