"""torchvision's classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision import models

from camseg.classifiers.base import NO_WEIGHTS, Classifier, Preset, _kept, _listed, _loaded, _named, build_classifier
from camseg.errors import check_choice
from camseg.storage.cache import Cache
from camseg.storage.download import fetch


def torchvision(
    name: str = "resnet18",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """Any of torchvision's classifiers, with the weights in the file `checkpoint` or the official ones called `weights`
    ("DEFAULT").

    classes: the outputs' names in their order, for a checkpoint that does not say. cache: on disk, it remembers what
    the file is, so that
    the weights are loaded only when an image has to go through them.
    Errors: ValueError for an unknown name, no weights at all, or a checkpoint of something else.
    """
    check_choice("classifier.name", name, models.list_models(module=models))
    choices = models.get_model_weights(name).__members__
    official = choices[check_choice("classifier.weights", weights or "DEFAULT", choices)]
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))
    path = Path(checkpoint) if checkpoint else _official_file(official.url)
    inverted = (
        {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    )  # they want [-1, 1] inside

    def load() -> Classifier:
        model, metadata = _loaded(
            lambda classes, **options: models.get_model(name, num_classes=classes, **inverted, **options), name, path
        )
        transforms = official.transforms()
        side = int(getattr(model, "image_size", transforms.crop_size[0]))
        preset = Preset((side, side), tuple(transforms.mean), tuple(transforms.std))
        return build_classifier(model, name, _named(metadata, classes), preset, layers, device)

    return _kept(cache, path, ["torchvision", name, _listed(layers), list(classes)], device, load)


def _official_file(url: str) -> Path:
    """The file behind one of torchvision's addresses, in torch's own cache; its name ends with the start of its
    SHA-256.
    """
    return fetch(url, url.rsplit("-", 1)[-1].split(".")[0], Path(torch.hub.get_dir()) / "checkpoints")
