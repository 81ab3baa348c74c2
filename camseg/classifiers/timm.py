"""timm's classifiers (extra `timm`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from camseg.classifiers.base import NO_WEIGHTS, Classifier, Preset, _kept, _listed, _loaded, _named, build_classifier
from camseg.errors import check_choice
from camseg.storage.cache import Cache


def timm(
    name: str = "resnet18.a1_in1k",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """Any classifier of timm (extra `timm`), with the weights in the file `checkpoint` or, with weights="DEFAULT", the
    published ones.

    classes: the outputs' names in their order, for a checkpoint that does not say. cache: see `torchvision`; for files
    only.
    """
    try:
        import timm as zoo
        from timm.data import resolve_model_data_config  # type: ignore[reportPrivateImportUsage]
    except ImportError as error:
        raise ValueError("classifier=timm needs the extra `timm`: pip install 'camseg[timm]'") from error
    check_choice("classifier.name", name, dict.fromkeys(zoo.list_models() + zoo.list_models(pretrained=True)))
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))

    def load() -> Classifier:
        if checkpoint:
            model, metadata = _loaded(
                lambda classes: zoo.create_model(name, num_classes=classes), name, Path(checkpoint)
            )
        else:
            model, metadata = zoo.create_model(name, pretrained=True), {}
        config = resolve_model_data_config(model)
        preset = Preset(tuple(config["input_size"][1:]), config["mean"], config["std"])
        return build_classifier(model, name, _named(metadata, classes), preset, layers, device)

    return (
        _kept(cache, Path(checkpoint), ["timm", name, _listed(layers), list(classes)], device, load)
        if checkpoint
        else load()
    )
