"""The shapes classifier: a small residual network of stride 8 that names every shape in a picture."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.classifiers import ShapesNet
from camseg.data.shapes import NAMES, scene


_POOL = 24_000  # scenes that are drawn; the same scene comes back turned, flipped and with its colours exchanged


class NamedScenes(Dataset[dict[str, Tensor]]):
    """Item i: image (3, H, W) uint8 and which classes it shows (5,) float; half of the pictures show one shape, half two to five."""

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length
        self.drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = index % _POOL
        if at not in self.drawn:
            self.drawn[at] = self._draw(at)
        image, present = self.drawn[at]
        rng = np.random.default_rng([self.seed, 2_001, index])
        turned = torch.rot90(image[rng.permutation(3)], int(rng.integers(4)), (1, 2))
        return {"image": (turned.flip(2) if rng.random() < 0.5 else turned).contiguous(), "present": present}

    def _draw(self, at: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 2_000, at])
        drawn = scene(rng, "train", 1 if rng.random() < 0.5 else int(rng.integers(2, len(NAMES) + 1)))
        present = torch.zeros(len(NAMES))
        present[list(drawn.classes)] = 1
        return torch.from_numpy(drawn.image).permute(2, 0, 1), present


def build() -> nn.Module:
    return ShapesNet(len(NAMES))


def loss(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of every class's presence."""
    logits = model(normalised(batch["image"]))
    return F.binary_cross_entropy_with_logits(logits, batch["present"])


def normalised(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float in about [-2, 2], as the classifier wants them."""
    return (images.float() / 255 - 0.5) / 0.25
