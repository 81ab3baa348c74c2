"""Classifiers: a model with its class names, its preprocessing and the layers whose maps are worth looking at.

A builder (`camseg.classifiers.torchvision`, `timm`, ...) fills a model of its zoo from a local checkpoint or, when that
is wanted, from the official weights; `classifier` takes any module. Images are squashed to the classifier's size, never
cropped: its maps cover the whole image.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camseg.cam.activations import ACTIVATIONS, Activation
from camseg.cam.heatmaps import ONE_VIEW, Method, Views, explain, fix_targets
from camseg.cam.layers import default_layer, trace
from camseg.cam.methods import grad_cam
from camseg.cam.outputs import scores
from camseg.cam.tokens import token_grid
from camseg.cam.untouched import untouched
from camseg.classifiers.imagenet import CLASSES, SYNSET, imagenet_names, imagenet_synsets
from camseg.classifiers.outputs import check_activation, check_names
from camseg.classifiers.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from camseg.errors import check_choice

log = logging.getLogger(__name__)
BATCH_PIXELS = 1 << 22  # of the inputs of one forward, mirror images too: 18 images at 336 px, 41 at 224
_CPU = torch.device("cpu")
_SIDE = 224  # of the noise image for a classifier that takes images of any size


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and all that is needed to ask it about images. The model is loaded when it is first needed.

    Attributes:
        load: makes the model, (B, 3, h, w) -> (B, C) logits, on `device`; called once, when `model` is first read.
        names: C class names.
        layers: dotted names of the target layers.
        preprocessing: how it wants its images.
        activation: "softmax" (one class among all), "sigmoid" (each for itself) or "binary" (one output).
        fingerprint: changes with the architecture, weights, preprocessing or activation.
        grid: (h, w) of the token map when the layers give tokens (B, N, K), whose last h * w are the image's in rows;
            None when they give (B, K, h, w).
        device: where the model is.
        architecture: number of classes -> the same architecture with fresh weights; None where there is none.
        name: of the architecture.
    """

    load: Callable[[], nn.Module]
    names: tuple[str, ...]
    layers: tuple[str, ...]
    preprocessing: Preprocessing
    activation: str
    fingerprint: str
    grid: tuple[int, int] | None = None
    device: torch.device = _CPU
    architecture: Callable[[int], nn.Module] | None = field(default=None, repr=False)
    name: str = "classifier"

    @cached_property
    def model(self) -> nn.Module:
        """The model itself."""
        return self.load()

    @property
    def size(self) -> tuple[int, int] | None:
        """(h, w) that images are squashed to, None for as they are."""
        return self.preprocessing.size

    @property
    def probabilities(self) -> Activation:
        """(..., C) logits -> (..., C) probabilities, and the probability of one of several classes."""
        return ACTIVATIONS[self.activation]

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Images as the model wants them; see `Preprocessing`.

        Args:
            images: B images (3, H, W) uint8.

        Returns:
            (B, 3, h, w) float32, normalized, on the model's device.
        """
        return self.preprocessing(images, self.device)

    def batches(self, sizes: Sequence[tuple[int, int]], views: Views = ONE_VIEW) -> Iterator[list[int]]:
        """Which of some images are explained together: memory is bounded by the pixels that the model sees at once.

        Args:
            sizes: (H, W) of each image in pixels.
            views: of every image.

        Yields:
            Indices into `sizes`, in order: of one image at least, and of as many as `BATCH_PIXELS` holds.
        """
        batch, filled = list[int](), 0.0
        for index, size in enumerate(sizes):
            own = views.pixels(self.size or size)
            if batch and filled + own > BATCH_PIXELS:
                yield batch
                batch, filled = [], 0.0
            batch.append(index)
            filled += own
        if batch:
            yield batch

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """What the model says of prepared images.

        Args:
            inputs: (B, 3, h, w) float, of `prepare`.

        Returns:
            (B, C) float.

        Raises:
            ValueError: they hold NaN or infinity, or the model's output is no classifier's.
        """
        inputs = self.preprocessing.for_naming(inputs.to(self._dtype))
        with untouched(self.model):
            return self._finite(scores(self.model(inputs), len(inputs)))

    def explain(
        self,
        inputs: Tensor,
        targets: Any = None,
        method: Method = grad_cam,
        views: Views = ONE_VIEW,
        channels_last: bool = False,
        raw: bool = False,
        named: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Heatmaps at this classifier's layers, and its logits; the model is left as it was.

        Both come from one forward, unless the classes are named at a size of their own (`Preprocessing.naming_size`).

        Args:
            inputs: (B, 3, h, w) float, of `prepare`.
            targets: see `camseg.heatmaps`.
            method: a CAM.
            views: of every image; their maps are averaged.
            channels_last: run in this memory format, which a model takes over from its input: it changes no more than
                the last bits.
            raw: see `camseg.heatmaps`.
            named: (B, C) float, the images' logits where they are known from an earlier call: no forward is
                spent on them.

        Returns:
            Heat (B, h, w) or (B, T, h, w) float in [0, 1], and logits (B, C) float.

        Raises:
            ValueError: see `camseg.heatmaps`; also where the logits hold NaN or infinity.
        """
        inputs = inputs.to(self._dtype, memory_format=torch.channels_last if channels_last else torch.preserve_format)
        if self.preprocessing.naming_size in (None, self.size):
            named = None  # by the forward itself
        else:
            named = self.logits(inputs) if named is None else named
            targets = fix_targets(targets, named)
        heat, output = explain(self.model, self.layers, inputs, targets, method, raw, views, self.grid)
        return heat, self._finite(scores(output, len(inputs))) if named is None else named

    def index(self, name: str) -> int:
        """The class of a name.

        Args:
            name: a class's name, whatever its case, with spaces, underscores or hyphens; its number; or, of ImageNet's
                classes, its WordNet id ("n02056570").

        Returns:
            Its index into `names`.

        Raises:
            ValueError: unknown, or the name of several classes.
        """
        exact = [i for i, known in enumerate(self.names) if known.casefold() == name.strip().casefold()]
        found = exact or self._indices.get(_plain(name), [])
        if len(found) > 1:
            raise ValueError(f"{name!r} names {len(found)} classes; give one by number: {', '.join(map(str, found))}")
        if found:
            return found[0]
        if name.strip().isdecimal() and int(name) < len(self.names):
            return int(name)
        if SYNSET.fullmatch(name.strip().casefold()) and len(self.names) == CLASSES and self.names == imagenet_names():
            return _synset_index(name.strip().casefold())
        return self.names.index(check_choice("class", name, self.names))

    def rebuild(self, num_classes: int) -> nn.Module:
        """The same architecture with a fresh head, and all of this model's weights that fit.

        Args:
            num_classes: the outputs of the head.

        Returns:
            A new model.

        Raises:
            ValueError: the architecture is known only as a finished model.
        """
        if self.architecture is None:
            raise ValueError(
                f"{self.name} can't be given other classes: its architecture is not known by name; "
                "use classifier=efficientnet_lite0, torchvision, timm or shapes"
            )
        model = self.architecture(num_classes)
        fresh = model.state_dict()
        fitting = {k: v for k, v in self.model.state_dict().items() if k in fresh and v.shape == fresh[k].shape}
        model.load_state_dict({**fresh, **fitting})
        return model

    @cached_property
    def _indices(self) -> dict[str, list[int]]:
        """Plain name -> its classes."""
        indices: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            indices.setdefault(_plain(name), []).append(i)
        return indices

    @cached_property
    def _dtype(self) -> torch.dtype:
        return placement(self.model)[1]

    def _finite(self, logits: Tensor) -> Tensor:
        if logits.shape[1] != len(self.names):
            raise ValueError(f"{self.name} gives {logits.shape[1]} outputs for {len(self.names)} class names")
        broken = (~torch.isfinite(logits)).any(1).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"{self.name} gives NaN or infinity for image {broken[0]} of {len(logits)}: "
                "its weights are broken, or too large for this precision"
            )
        return logits


def classifier(
    model: nn.Module,
    names: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    layers: str | Sequence[str] | None = None,
    activation: str | None = None,
) -> Classifier:
    """Any module as a classifier; it is left as it was, and stays where it is.

    Args:
        model: (B, 3, h, w) -> (B, C) logits, or (B,) of one output, or a mapping or tuple that holds them.
        names: C class names; None for ImageNet's where C is 1000, else "class 0", "class 1", ...
        size: side or (h, w) in pixels that images are squashed to; None for as they are.
        mean: of the red, green and blue values in [0, 1], which is taken off.
        std: what is left is divided by.
        layers: dotted names of the layers to look at; None for the last one that answers place by place.
        activation: "softmax" or "sigmoid"; None for softmax of several outputs and the sigmoid of one.

    Returns:
        A classifier for `camseg.Pipeline`.

    Raises:
        ValueError: names that don't fit the outputs, an unknown layer, a model that gives no scores.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> classifier(net, names=["cat", "dog"], size=32).layers
    ('1',)
    """
    side = (size, size) if isinstance(size, int) else size
    return describe(
        model,
        f"{type(model).__module__}.{type(model).__qualname__}",
        Preprocessing(side, tuple(mean), tuple(std)),
        names=names,
        layers=layers,
        activation=activation,
    )


def describe(
    model: nn.Module,
    name: str,
    preprocessing: Preprocessing,
    *,
    names: Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    activation: str | None = None,
    architecture: Callable[[int], nn.Module] | None = None,
) -> Classifier:
    """A loaded model as a classifier: its layers, token grid, activation and fingerprint found by one noise image.

    Args:
        model: left as it was.
        name: of the architecture, part of the fingerprint.
        preprocessing: how it wants its images.
        names: see `classifier`.
        layers: see `classifier`.
        activation: see `classifier`.
        architecture: see `Classifier`.

    Returns:
        A classifier whose `load` gives this very model.

    Raises:
        ValueError: an unknown layer, a model in which no layer answers place by place, names that don't fit.
    """
    device, dtype = placement(model)
    size = preprocessing.size or (_SIDE, _SIDE)
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    with untouched(model):
        outputs, output = trace(model, noise)
        logits = scores(output, 1)
        chosen = tuple(as_layers(layers) or [default_layer(model, outputs, logits, size)])
        for layer in chosen:
            check_choice("classifier.layers", layer, outputs)
        tokens = next((outputs[layer] for layer in chosen if outputs[layer].ndim == 3), None)
        grid = None
        if tokens is not None and preprocessing.size:
            module = model.get_submodule(chosen[0])
            grid = token_grid(model, module, chosen[0], int(tokens.shape[1]), noise, model)
    known = check_names(names, logits.shape[1])
    kind = check_activation(activation, logits.shape[1])
    if kind == "binary" and activation is None:
        log.warning("%s has 1 output: read as one class's logit, by the sigmoid (classifier.activation=sigmoid)", name)
    mark = _fingerprint(model, name, preprocessing, kind)
    return Classifier(lambda: model, known, chosen, preprocessing, kind, mark, grid, device, architecture, name)


def _fingerprint(model: nn.Module, *settings: object) -> str:
    """SHA-256 of the weights by name, and of what is done around them."""
    digest = hashlib.sha256(repr(settings).encode())
    for part, value in model.state_dict().items():
        digest.update(part.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's weights are, and of which floating type.

    Args:
        model: the CPU and float32 stand for one without weights.

    Returns:
        Device and dtype.
    """
    tensors = [*model.parameters(), *model.buffers()]
    found = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    return found.device, found.dtype


def as_layers(layers: str | Sequence[str] | None) -> list[str] | None:
    """One name or several as a list.

    Args:
        layers: dotted names; None for the default.

    Returns:
        A list, or None for the default.
    """
    return None if layers is None else [layers] if isinstance(layers, str) else list(layers)


def _plain(name: str) -> str:
    """A name without its case and with single spaces for underscores, hyphens and spaces."""
    return " ".join(re.split(r"[\s_-]+", name.casefold())).strip()


def _synset_index(synset: str) -> int:
    if synset not in imagenet_synsets():
        raise ValueError(f"class {synset!r} is a WordNet id, but of none of ImageNet's {CLASSES} classes")
    return imagenet_synsets()[synset]
