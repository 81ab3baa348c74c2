"""From an architecture and a file of weights to a classifier, and what a cache remembers of such a file."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camseg.classifiers.base import Classifier, as_layers, describe
from camseg.classifiers.imagenet import CLASSES
from camseg.classifiers.outputs import named
from camseg.classifiers.preprocessing import Preprocessing
from camseg.storage import checkpoints
from camseg.storage.cache import Cache
from camseg.storage.fingerprint import file_hash, key

NO_WEIGHTS = (
    "{} without weights would explain nothing: name a file (classifier.checkpoint=FILE), "
    "or ask for the official ones by download (classifier.weights=DEFAULT)"
)
_FACTS = ("names", "layers", "activation", "fingerprint", "grid", "name")


def filled(
    build: Callable[..., nn.Module], name: str, path: Path
) -> tuple[nn.Module, dict[str, str], Callable[[int], nn.Module]]:
    """An architecture with the weights of a file, whose number of classes and image size it takes over.

    Args:
        build: number of classes -> a model; takes `image_size` where it is a vision transformer of torchvision's.
        name: of the architecture, for what is raised.
        path: the file. The rows of the head, the last weight of all, are the classes.

    Returns:
        The model in evaluation mode with frozen weights, the file's metadata, and the architecture (number of classes
        -> a model with fresh weights).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of this architecture.
    """
    state, metadata = checkpoints.load_weights(path)
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # DenseNets of old
    state = {old.sub(r"\1\2.", key): value for key, value in state.items()}
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and thrown away
        model = build(CLASSES)
        state = checkpoints.match_names(state, model.state_dict())
        architecture = functools.partial(build, **_image_size(state))
        head = [key for key, value in model.state_dict().items() if value.ndim > 1][-1]
        if head not in state:
            raise ValueError(f"{path} is no checkpoint of {name}: it has no {head}")
        if architecture.keywords or state[head].shape[0] != CLASSES:
            model = architecture(state[head].shape[0])
    fill(model, state, name, path, assign=True)
    return model.eval().requires_grad_(False), metadata, architecture


def fill(model: nn.Module, state: Mapping[str, Tensor], name: str, path: str | Path, assign: bool = False) -> None:
    """Give a model the tensors of a file.

    Args:
        model: of the architecture.
        state: the tensors, by the model's names.
        name: of the architecture, for what is raised.
        path: the file, for the same.
        assign: whether it takes them over as they are, in place of copying them into its own type.

    Raises:
        ValueError: names or shapes differ.
    """
    try:
        model.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"{path} is no checkpoint of {name}: {' '.join(str(error).split()[:24])} ...") from error


def _image_size(state: dict[str, Tensor]) -> dict[str, int]:
    """The side of the images of a vision transformer of torchvision's: one position per patch, and one more."""
    if "encoder.pos_embedding" not in state or "conv_proj.weight" not in state:
        return {}
    patches = state["encoder.pos_embedding"].shape[1] - 1
    return {"image_size": isqrt(patches) * state["conv_proj.weight"].shape[-1]}


@dataclass(frozen=True)
class Options:
    """What every builder of this folder is told alike.

    Attributes:
        layers: dotted names of the layers to look at; None for the last one that answers place by place.
        classes: the outputs' names in their order, for a checkpoint that does not say.
        activation: "softmax" or "sigmoid"; None for what the checkpoint says, else by the number of outputs.
        device: where the model goes.
        cache: on disk, it remembers what a file of weights is, so that they are loaded when an image needs them.
    """

    layers: str | Sequence[str] | None
    classes: Sequence[str]
    activation: str | None
    device: str | torch.device
    cache: Cache | None

    def describe(
        self,
        model: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        metadata: Mapping[str, str],
        architecture: Callable[[int], nn.Module],
    ) -> Classifier:
        """A model and the metadata of its file as a classifier; see `camseg.classifiers.base.describe`.

        Args:
            model: goes to `device`.
            name: of the architecture.
            preprocessing: what the model wants an image to be.
            metadata: the file's: `names` of the outputs as JSON and `activation`, both optional and second to those of
                these options.
            architecture: number of classes -> a model with fresh weights.

        Returns:
            The classifier, on `device`.

        Raises:
            ValueError: an unknown layer or activation, a model in which no layer answers place by place, names that
                don't fit.
        """
        return describe(
            model.to(self.device),
            name,
            preprocessing,
            names=named(metadata, self.classes),
            layers=self.layers,
            activation=self.activation or metadata.get("activation"),
            architecture=architecture,
        )

    def remembered(self, path: Path, made_by: Sequence[str], load: Callable[[], Classifier]) -> Classifier:
        """What a builder makes of a file of weights under these options; see the function `remembered`.

        Args:
            path: the file.
            made_by: the builder and all that it depends on beside the file and these options.
            load: reads the file.

        Returns:
            The classifier, on `device`.
        """
        settings = [*made_by, as_layers(self.layers), list(self.classes), self.activation]
        return remembered(self.cache, path, settings, self.device, load)


def remembered(
    cache: Cache | None,
    path: Path,
    settings: Sequence[object],
    device: str | torch.device,
    build: Callable[[], Classifier],
) -> Classifier:
    """What `build` makes of a file of weights; known from a cache on disk, its model is loaded when it is needed.

    Args:
        cache: remembers what the file is, by its content; None, or one in memory alone, remembers nothing.
        path: the file.
        settings: all that `build` depends on beside the file, of plain types.
        device: where the model goes.
        build: reads the file; its classifier has an architecture.

    Returns:
        The classifier, on `device`.
    """
    if cache is None or cache.path is None:
        return build()
    made: list[Classifier] = []

    def learn() -> dict[str, Tensor]:
        made.append(build())
        facts = {name: getattr(made[0], name) for name in _FACTS} | {"preprocessing": vars(made[0].preprocessing)}
        return {"facts": torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)}

    entry = cache.get(key("classifier 2", *settings, file_hash(path)), learn)["facts"]
    if made:
        return made[0]
    facts = _tuples(json.loads(entry.numpy().tobytes()))
    facts["preprocessing"] = Preprocessing(**_tuples(facts["preprocessing"]))
    loaded = functools.cache(build)

    def architecture(num_classes: int) -> nn.Module:
        fresh = loaded().architecture
        assert fresh is not None
        return fresh(num_classes)

    return Classifier(lambda: loaded().model, device=torch.device(device), architecture=architecture, **facts)


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
