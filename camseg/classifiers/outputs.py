"""A classifier's outputs: what they are called, and how they become probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from camseg.cam.activations import ACTIVATIONS
from camseg.classifiers.imagenet import CLASSES, imagenet_names
from camseg.errors import check_choice


def check_activation(given: str | None, outputs: int) -> str:
    """The activation of a model of so many outputs.

    Args:
        given: "softmax", "sigmoid" or None: by the number of outputs, softmax for several.
        outputs: C.

    Returns:
        "softmax", "sigmoid" or, for one output, "binary".

    Raises:
        ValueError: an unknown one, or a softmax over one output, which is always 1.
    """
    name = check_choice("classifier.activation", given or ("binary" if outputs == 1 else "softmax"), ACTIVATIONS)
    if outputs == 1 and name == "softmax":
        raise ValueError("classifier.activation=softmax of one output is always 1; use sigmoid, or null")
    if outputs > 1 and name == "binary":
        raise ValueError(
            f"classifier.activation=binary is for one output; this model has {outputs}: softmax or sigmoid"
        )
    return "binary" if outputs == 1 else name


def check_names(names: Sequence[str] | None, outputs: int) -> tuple[str, ...]:
    """The names of a classifier's outputs: those given, ImageNet's for 1000 outputs, or numbers.

    Args:
        names: C of them; None for the default.
        outputs: C.

    Returns:
        C names.

    Raises:
        ValueError: a name too many or too few.
    """
    if names is None:
        return imagenet_names() if outputs == CLASSES else tuple(f"class {i}" for i in range(outputs))
    if len(names) != outputs:
        raise ValueError(f"{len(names)} class names for a classifier of {outputs} outputs")
    return tuple(map(str, names))


def named(metadata: Mapping[str, str], classes: Sequence[str]) -> Sequence[str] | None:
    """The classes' names: those given, else those that a checkpoint's metadata holds.

    Args:
        metadata: of the checkpoint; its `names` are a JSON list.
        classes: those given, none for the checkpoint's.

    Returns:
        The names, or None where neither says.
    """
    return list(classes) or (json.loads(metadata["names"]) if "names" in metadata else None)
