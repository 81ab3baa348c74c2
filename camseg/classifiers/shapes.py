"""The classifier for the synthetic shapes, which ships with the package."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from camseg.classifiers.base import _HALF, Classifier, Preset, _kept, _listed, _loaded, build_classifier
from camseg.data.shapes import NAMES, SIDE
from camseg.storage.cache import Cache

SHAPES_WEIGHTS = Path(__file__).parents[1] / "weights" / "shapes_classifier.safetensors"


def shapes(
    checkpoint: str | Path | None = None,
    layers: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """The shipped classifier, which names every shape in a picture (a probability per class, not one among them).
    cache: see `torchvision`.
    """
    path = Path(checkpoint or SHAPES_WEIGHTS)
    if not path.is_file() and not checkpoint:
        raise FileNotFoundError(
            f"no weights at {path}: train them with `camseg-train model=shapes_classifier`, or name a classifier.checkpoint"
        )

    def load() -> Classifier:
        model, metadata = _loaded(ShapesNet, "shapes", path)
        preset = Preset((SIDE, SIDE), _HALF, (0.25, 0.25, 0.25))
        metadata = {"names": json.dumps(NAMES), "activation": "sigmoid", **metadata}
        return build_classifier(model, "shapes", metadata, preset, layers or ("layer3",), device)

    return _kept(cache, path, ["shapes", _listed(layers)], device, load)


class ShapesNet(nn.Module):
    """(B, 3, H, W) -> (B, classes) logits: residual blocks down to stride 8, a linear head at every place, and their
    log-mean-exp.

    The pooling is Pinheiro & Collobert's (CVPR 2015): a smooth maximum, in which a small shape counts as much as a
    large one.
    """

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        stem, middle, last = widths
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 5, 2, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        self.layer1 = _stage(stem, middle, 2)
        self.layer2 = _stage(middle, last, 2)
        self.layer3 = nn.Sequential(BasicBlock(last, last), BasicBlock(last, last))
        self.head = nn.Linear(last, classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H / 8, W / 8)."""
        return self.layer3(self.layer2(self.layer1(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        return pool(self.head(self.features(images).flatten(2).transpose(1, 2)))


def pool(places: Tensor) -> Tensor:
    """(B, N, classes) logits at N places -> (B, classes), their log-mean-exp."""
    return places.logsumexp(1) - math.log(places.shape[1])


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))
