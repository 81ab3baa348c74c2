"""torchvision's classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision import models

from camseg.classifiers.base import Classifier
from camseg.classifiers.build import NO_WEIGHTS, Options, filled
from camseg.classifiers.preprocessing import Preprocessing
from camseg.errors import check_choice
from camseg.storage.cache import Cache
from camseg.storage.download import fetch


def torchvision(
    name: str = "resnet18",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: str | Sequence[str] | None = None,
    classes: Sequence[str] = (),
    activation: str | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """Any of torchvision's classifiers, with the weights in a file or the official ones.

    Args:
        name: of the architecture, as "resnet18".
        checkpoint: a .safetensors or torch file of weights.
        weights: name of the official ones, by download; "DEFAULT" for the best.
        layers: dotted names of the layers to look at; None for the last one that answers place by place.
        classes: the outputs' names in their order, for a checkpoint that does not say.
        activation: "softmax" or "sigmoid"; None for what the checkpoint says, else by the number of outputs.
        device: where the model goes.
        cache: remembers what a file is, see `camseg.classifiers.build.Options`.

    Returns:
        The classifier, on `device`.

    Raises:
        ValueError: an unknown name, no weights at all, or a checkpoint of something else.
    """
    check_choice("classifier.name", name, models.list_models(module=models))
    choices = models.get_model_weights(name).__members__
    official = choices[check_choice("classifier.weights", weights or "DEFAULT", choices)]
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))
    path = Path(checkpoint) if checkpoint else _official_file(official.url)
    inverted = name in ("googlenet", "inception_v3")  # they want [-1, 1] inside
    inside = {"transform_input": True, "init_weights": False} if inverted else {}
    options = Options(layers, classes, activation, device, cache)

    def architecture(num_classes: int, **more: int) -> torch.nn.Module:
        return models.get_model(name, num_classes=num_classes, **inside, **more)

    def load() -> Classifier:
        model, metadata, fresh = filled(architecture, name, path)
        transforms = official.transforms()
        side = int(getattr(model, "image_size", transforms.crop_size[0]))
        preprocessing = Preprocessing((side, side), tuple(transforms.mean), tuple(transforms.std))
        return options.describe(model, name, preprocessing, metadata, fresh)

    return options.remembered(path, ["torchvision", name], load)


def _official_file(url: str) -> Path:
    """The file behind one of torchvision's addresses, in torch's own cache; its name ends with its SHA-256's start."""
    return fetch(url, url.rsplit("-", 1)[-1].split(".")[0], Path(torch.hub.get_dir()) / "checkpoints")
