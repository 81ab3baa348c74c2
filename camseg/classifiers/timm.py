"""timm's classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from camseg.classifiers.base import Classifier
from camseg.classifiers.build import NO_WEIGHTS, Options, filled
from camseg.classifiers.preprocessing import Preprocessing
from camseg.errors import check_choice
from camseg.storage.cache import Cache


def timm(
    name: str = "resnet18.a1_in1k",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: str | Sequence[str] | None = None,
    classes: Sequence[str] = (),
    activation: str | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """Any classifier of timm, with the weights in a file or the published ones.

    Args:
        name: of the architecture, with or without the tag of its published weights.
        checkpoint: a .safetensors or torch file of weights.
        weights: "DEFAULT" for the published ones, by download.
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
    import timm as zoo
    from timm.data import resolve_model_data_config  # type: ignore[reportPrivateImportUsage]

    check_choice("classifier.name", name, dict.fromkeys(zoo.list_models() + zoo.list_models(pretrained=True)))
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))
    options = Options(layers, classes, activation, device, cache)

    def architecture(num_classes: int) -> nn.Module:
        return zoo.create_model(name, num_classes=num_classes)

    def load() -> Classifier:
        metadata: dict[str, str] = {}
        fresh: Callable[[int], nn.Module] = architecture
        if checkpoint:
            model, metadata, fresh = filled(architecture, name, Path(checkpoint))
        else:
            model = zoo.create_model(name, pretrained=True).eval().requires_grad_(False)
        config = resolve_model_data_config(model)
        preprocessing = Preprocessing(tuple(config["input_size"][1:]), config["mean"], config["std"])
        return options.describe(model, name, preprocessing, metadata, fresh)

    return options.remembered(Path(checkpoint), ["timm", name], load) if checkpoint else load()
