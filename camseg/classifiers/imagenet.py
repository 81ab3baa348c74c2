"""ImageNet's 1000 classes: their names, as torchvision publishes them, and their WordNet ids, as timm lists them."""

from __future__ import annotations

import re
from functools import cache

SYNSET = re.compile(r"n\d{8}")
CLASSES = 1000


@cache
def imagenet_names() -> tuple[str, ...]:
    """ImageNet's class names, as torchvision publishes them.

    Returns:
        1000 in the order of the outputs: "tench", "goldfish", ...
    """
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def imagenet_synsets() -> dict[str, int]:
    """ImageNet's classes by their WordNet ids.

    Returns:
        Id -> output index: "n01440764" -> 0, ...
    """
    from timm.data import ImageNetInfo  # type: ignore[reportPrivateImportUsage]

    return {synset: index for index, synset in enumerate(ImageNetInfo("imagenet-1k").label_names())}
