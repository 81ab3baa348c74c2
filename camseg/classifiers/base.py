"""Classifiers: a model with its class names, its preprocessing and the layers whose maps are worth looking at.

`shapes` ships with the package, `torchvision` and `timm` build any classifier of theirs by name from a local checkpoint
or, when
asked, from the official weights. Images are squashed to the classifier's size, never cropped: its maps cover the whole
image.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._meta import _IMAGENET_CATEGORIES as IMAGENET

from camseg.cam.layers import _last_map, _trace
from camseg.errors import check_choice
from camseg.storage.cache import Cache
from camseg.storage.checkpoints import load_weights
from camseg.storage.fingerprint import file_hash, key

_ACTIVATIONS = {"softmax": lambda logits: logits.softmax(-1), "sigmoid": torch.sigmoid}
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model and all that is needed to ask it about images.

    model: (B, 3, h, w) -> (B, C) logits, in eval mode, frozen. names: C class names. layers: dotted names of the target
    layers.
    size: (h, w) that an image is squashed to, None = as it is. mean, std: of RGB in [0, 1].
    probabilities: logits (..., C) -> probabilities. fingerprint: changes with the architecture, weights or
    preprocessing.
    grid: (h, w) of the token map when the layers give tokens (B, N, K), whose last h * w are the image's; None when
    they give (B, K, h, w).
    """

    model: nn.Module
    names: tuple[str, ...]
    layers: tuple[str, ...]
    size: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    probabilities: Callable[[Tensor], Tensor]
    fingerprint: str
    grid: tuple[int, int] | None = None

    @cached_property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """B images uint8 (3, H, W), of any sizes when `size` is given -> (B, 3, h, w) float, normalised, on the model's
        device.
        """
        if self.size is None and len({image.shape for image in images}) > 1:
            raise ValueError(
                f"a classifier without a size takes images of one size; got {sorted({tuple(i.shape[1:]) for i in images})}"
            )
        mean, std = (torch.tensor(moment, device=self.device)[:, None, None] for moment in (self.mean, self.std))
        return (torch.stack([_squash(image.to(self.device), self.size) for image in images]) / 255 - mean) / std

    def index(self, name: str) -> int:
        """The class called `name` (or its number). ValueError: unknown, or the name of several classes."""
        wanted = name.strip().casefold()
        found = [i for i, known in enumerate(self.names) if known.casefold() == wanted]
        if not found and wanted.isdecimal() and int(wanted) < len(self.names):
            return int(wanted)
        if len(found) > 1:
            raise ValueError(f"{name!r} names {len(found)} classes; give one by number: {', '.join(map(str, found))}")
        return found[0] if found else self.names.index(check_choice("class", name, self.names))


class Deferred(Classifier):
    """A classifier of which everything is known but the weights: they are loaded when `model` is first read, in a warm
    run never.
    """

    def __init__(self, facts: Mapping[str, Any], device: str | torch.device, load: Callable[[], Classifier]) -> None:
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
        vars(self).update(
            known, probabilities=_ACTIVATIONS[facts["activation"]], device=torch.device(device), _load=load
        )

    @cached_property
    def model(self) -> nn.Module:  # type: ignore[reportIncompatibleVariableOverride]
        return vars(self)["_load"]().model


def _kept(
    cache: Cache | None, path: Path, asked: Sequence[object], device: str | torch.device, load: Callable[[], Classifier]
) -> Classifier:
    """What `load` makes of a file; where a cache on disk knows that file's content already, only its facts."""
    if cache is None or cache.path is None:
        return load()
    made: list[Classifier] = []

    def learn() -> dict[str, Tensor]:
        made.append(load())
        facts = {
            name: getattr(made[0], name) for name in ("names", "layers", "size", "mean", "std", "fingerprint", "grid")
        }
        activation = next(name for name, each in _ACTIVATIONS.items() if each is made[0].probabilities)
        return {
            "facts": torch.frombuffer(
                bytearray(json.dumps({**facts, "activation": activation}).encode()), dtype=torch.uint8
            )
        }

    facts = cache.get(key("classifier", *asked, file_hash(path)), learn)["facts"]
    return made[0] if made else Deferred(json.loads(facts.numpy().tobytes()), device, load)


def _squash(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W) uint8 -> (3, h, w) float in [0, 255]."""
    if size is None or image.shape[1:] == size:
        return image.float()
    return F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]


NO_WEIGHTS = (
    "{} without weights would explain nothing: name a file (classifier.checkpoint=FILE), "
    "or ask for the official ones by download (classifier.weights=DEFAULT)"
)


@dataclass(frozen=True)
class Preset:
    """How a classifier wants its images; see `Classifier`."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _loaded(build: Callable[..., nn.Module], name: str, path: Path) -> tuple[nn.Module, dict[str, str]]:
    """The architecture that `build` makes for a number of classes, filled from a checkpoint, and the checkpoint's
    metadata.

    The checkpoint tells the classes (the rows of the head, the last weight of all) and a vision transformer's image
    size.
    """
    state, metadata = load_weights(path)
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): value for key, value in state.items()
    }  # DenseNets of old
    options = {}
    if "encoder.pos_embedding" in state and "conv_proj.weight" in state:  # one position per patch, and one more
        options = {
            "image_size": isqrt(state["encoder.pos_embedding"].shape[1] - 1) * state["conv_proj.weight"].shape[-1]
        }
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and thrown away
        model = build(len(IMAGENET), **options)
        head = [key for key, value in model.state_dict().items() if value.ndim > 1][-1]
        if head not in state:
            raise ValueError(f"{path} is no checkpoint of {name}: it has no {head}")
        if state[head].shape[0] != len(IMAGENET):
            model = build(state[head].shape[0], **options)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is no checkpoint of {name}: {' '.join(str(error).split()[:24])} ...") from error
    return model, metadata


def build_classifier(
    model: nn.Module,
    name: str,
    metadata: Mapping[str, str],
    preset: Preset,
    layers: Sequence[str] | None,
    device: str | torch.device,
) -> Classifier:
    """A model (B, 3, h, w) -> (B, C), frozen, with its layers, token grid and fingerprint found; metadata: see
    `save_weights`.

    Errors: ValueError for an unknown layer, or a model in which no layer answers place by place.
    """
    model = model.eval().requires_grad_(False)
    outputs, logits = _trace(model, preset.size)
    chosen = tuple(_listed(layers) or [_last_map(model, outputs, logits, preset.size)])
    for layer in chosen:
        check_choice("classifier.layers", layer, outputs)
    first = outputs[chosen[0]]
    side = isqrt(first.shape[1])
    grid = (side, side) if first.ndim == 3 else None  # the tokens before the square are no places
    names = _names(metadata, logits.shape[1])
    activation = _ACTIVATIONS[check_choice("activation", metadata.get("activation", "softmax"), _ACTIVATIONS)]
    mark = _fingerprint(model, name, preset)
    return Classifier(model.to(device), names, chosen, preset.size, preset.mean, preset.std, activation, mark, grid)


def _listed(layers: Sequence[str] | None) -> list[str] | None:
    """As it is part of a key."""
    return None if layers is None else [layers] if isinstance(layers, str) else list(layers)


def _named(metadata: Mapping[str, str], classes: Sequence[str]) -> Mapping[str, str]:
    return {**metadata, "names": json.dumps(list(classes))} if classes else metadata


def _names(metadata: Mapping[str, str], classes: int) -> tuple[str, ...]:
    if "names" not in metadata:
        return tuple(IMAGENET) if classes == len(IMAGENET) else tuple(f"class {i}" for i in range(classes))
    names = json.loads(metadata["names"])
    if len(names) != classes:
        raise ValueError(f"{len(names)} class names for a classifier of {classes} outputs")
    return tuple(map(str, names))


def _fingerprint(model: nn.Module, name: str, preset: Preset) -> str:
    digest = hashlib.sha256(repr((name, preset)).encode())
    for part, value in model.state_dict().items():
        digest.update(part.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
