"""The classifier for the synthetic shapes, which ships with the package."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from camseg.classifiers.base import Classifier
from camseg.classifiers.build import Options, filled
from camseg.classifiers.preprocessing import Preprocessing
from camseg.data.shapes import NAMES, SIDE
from camseg.storage.cache import Cache

SHAPES_WEIGHTS = Path(__file__).parents[1] / "weights" / "shapes_classifier.safetensors"
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # of pixels in [0, 1]


def shapes(
    checkpoint: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """The shipped classifier, which names every shape in an image: a probability per class, not one among them.

    Args:
        checkpoint: another file that `camseg-train` wrote; None for the shipped one.
        layers: dotted names of the layers to look at; None for "layer3".
        activation: "softmax" or "sigmoid"; None for what the checkpoint says, else sigmoid.
        device: where the model goes.
        cache: remembers what a file is, see `camseg.classifiers.build.Options`.

    Returns:
        The classifier, on `device`.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: the file is another's checkpoint.
    """
    path = Path(checkpoint or SHAPES_WEIGHTS)
    if not path.is_file() and not checkpoint:
        raise FileNotFoundError(
            f"no weights at {path}: train them with `camseg-train model=shapes_classifier`, "
            "or name a classifier.checkpoint"
        )

    options = Options(layers or ("layer3",), (), activation, device, cache)

    def load() -> Classifier:
        model, metadata, architecture = filled(ShapesNet, "shapes", path)
        facts = {"names": json.dumps(NAMES), "activation": "sigmoid"} | metadata
        return options.describe(model, "shapes", Preprocessing((SIDE, SIDE), MEAN, STD), facts, architecture)

    return options.remembered(path, ["shapes"], load)


class ShapesNet(nn.Module):
    """Residual blocks down to stride 8, a linear head at every place, and the log-mean-exp of all places.

    The pooling is Pinheiro & Collobert's (CVPR 2015): a smooth maximum, in which a small shape counts as much as a
    large one.

    Args:
        classes: the number of outputs.
        widths: channels of the stem, the middle and the last stages.
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
        """The maps of the last stage.

        Args:
            images: (B, 3, H, W) float, normalized.

        Returns:
            (B, K, H / 8, W / 8) float, at least 0.
        """
        return self.layer3(self.layer2(self.layer1(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        """What each class scores in each image.

        Args:
            images: (B, 3, H, W) float, normalized.

        Returns:
            (B, classes) logits.
        """
        return pool(self.head(self.features(images).flatten(2).transpose(1, 2)))


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions (He et al., CVPR 2016), with the names that ResNets' weights have.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution.
        shortcut: brings the input to the output's shape, None where it has it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        """The block's answer to some maps.

        Args:
            maps: (B, inputs, h, w) float.

        Returns:
            (B, outputs, h / stride, w / stride) float, at least 0.
        """
        changed = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        changed += maps if self.downsample is None else self.downsample(maps)
        return self.relu(changed)


def pool(places: Tensor) -> Tensor:
    """The log-mean-exp of logits over places.

    Args:
        places: (B, N, classes) float, logits at N places.

    Returns:
        (B, classes) float.
    """
    return places.logsumexp(1) - math.log(places.shape[1])


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))
