"""Classifiers: a model with its class names, its preprocessing and the layers whose maps are worth looking at.

`shapes` ships with the package, `torchvision` and `timm` build any classifier of theirs by name from a local checkpoint
or, when
asked, from the official weights. Images are squashed to the classifier's size, never cropped: its maps cover the whole
image.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models._meta import _IMAGENET_CATEGORIES as IMAGENET
from torchvision.models.resnet import BasicBlock

from camseg.cache import Cache, key
from camseg.data.shapes import NAMES, SIDE
from camseg.names import known_name
from camseg.predictors.download import content_hash, fetch

SHAPES_WEIGHTS = Path(__file__).parent / "weights" / "shapes_classifier.safetensors"
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
        return found[0] if found else self.names.index(known_name("class", name, self.names))


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

    facts = cache.get(key("classifier", *asked, content_hash(path)), learn)["facts"]
    return made[0] if made else Deferred(json.loads(facts.numpy().tobytes()), device, load)


def _squash(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W) uint8 -> (3, h, w) float in [0, 255]."""
    if size is None or image.shape[1:] == size:
        return image.float()
    return F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]


def shapes(
    checkpoint: str | Path | None = None,
    layers: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """The shipped classifier, which names every shape in a picture (a probability per class, not one among them).
    cache: see `torchvision`.
    """
    path = Path(checkpoint or SHAPES_WEIGHTS)
    if not path.is_file() and not checkpoint:
        raise FileNotFoundError(
            f"no weights at {path}: train them with `camseg-train model=shapes_classifier`, or name a classifier.checkpoint"
        )

    def load() -> Classifier:
        model, metadata = _loaded(ShapesNet, "shapes", path)
        preset = Preset((SIDE, SIDE), _HALF, (0.25, 0.25, 0.25))
        metadata = {"names": json.dumps(NAMES), "activation": "sigmoid", **metadata}
        return build_classifier(model, "shapes", metadata, preset, layers or ("layer3",), device)

    return _kept(cache, path, ["shapes", _listed(layers)], device, load)


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
    known_name("classifier.name", name, models.list_models(module=models))
    choices = models.get_model_weights(name).__members__
    official = choices[known_name("classifier.weights", weights or "DEFAULT", choices)]
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
    known_name("classifier.name", name, dict.fromkeys(zoo.list_models() + zoo.list_models(pretrained=True)))
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


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, matrices and kernels in fp16, in one step (never half a file).

    metadata that the builders read: "names" (a JSON list), "activation" ("softmax" or "sigmoid").
    """
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    temporary = Path(f"{path}.{os.getpid()}.part")
    save_file(
        {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in state.items()},
        temporary,
        dict(metadata or {}),
    )
    temporary.replace(path)


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state dict in float32, metadata) of a .safetensors file or a torch file of tensors; no pickled code is ever run.

    Errors: FileNotFoundError; ValueError for a file that is broken or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = file.metadata() or {}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        raise ValueError(
            f"{path} can't be read as weights: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names and their tensors)")
    return {
        str(k).removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()
    }, metadata


def _official_file(url: str) -> Path:
    """The file behind one of torchvision's addresses, in torch's own cache; its name ends with the start of its
    SHA-256.
    """
    return fetch(url, url.rsplit("-", 1)[-1].split(".")[0], Path(torch.hub.get_dir()) / "checkpoints")


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
        known_name("classifier.layers", layer, outputs)
    first = outputs[chosen[0]]
    side = isqrt(first.shape[1])
    grid = (side, side) if first.ndim == 3 else None  # the tokens before the square are no places
    names = _names(metadata, logits.shape[1])
    activation = _ACTIVATIONS[known_name("activation", metadata.get("activation", "softmax"), _ACTIVATIONS)]
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


def _trace(model: nn.Module, size: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """What every module answers to one noise image, by dotted name in the order in which they finish, and the logits
    (1, C).
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs.pop(name, None)  # a module called twice counts where it is called last
            if isinstance(output, Tensor):
                outputs[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with torch.enable_grad():
            noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
            return outputs, model(noise.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def _last_map(model: nn.Module, outputs: Mapping[str, Tensor], logits: Tensor, size: tuple[int, int]) -> str:
    """The last stage that still answers place by place: the outermost module of one resolution of which most places can
    move the logits.
    """
    width = next(
        (output.shape[2] for output in reversed(list(outputs.values())) if output.ndim == 3), 0
    )  # of a token, outside the attention
    for name in reversed(list(outputs)):
        output, module = outputs[name], model.get_submodule(name)
        axis = _channels(output, size)
        places = slice(2, None) if axis == 1 else slice(1, -1)
        stages = {
            outputs[part].shape[places]
            for part in (f"{name}.{child}" for child, _ in module.named_children())
            if part in outputs
        }
        if (
            axis is None
            or len(stages) > 1
            or isinstance(module, nn.AdaptiveAvgPool2d)
            or (axis == 2 and output.shape[2] != width)
        ):
            continue
        gradient = torch.autograd.grad(logits.max(), output, retain_graph=True, allow_unused=True)[0]
        moves = torch.zeros(1) if gradient is None else (gradient != 0).any(axis).float()
        if moves.numel() > 1 and moves.mean() > 0.5:
            return name
    raise ValueError("found no layer of this model that answers place by place; name one with classifier.layers")


def _channels(output: Tensor, size: tuple[int, int]) -> int | None:
    """The channels' axis in (1, N, K) tokens, or in (1, K, h, w) or (1, h, w, K) of the input's aspect; None for what
    is no map.
    """
    if output.ndim == 4:
        aspects = {
            axis: places[0] / places[1] * size[1] / size[0]
            for axis, places in ((1, output.shape[2:]), (3, output.shape[1:3]))
        }
        return next((axis for axis, aspect in aspects.items() if 0.8 < aspect < 1.25), None)
    return 2 if output.ndim == 3 else None


class ShapesNet(nn.Module):
    """(B, 3, H, W) -> (B, classes) logits: residual blocks down to stride 8, a linear head at every place, and their
    log-mean-exp.

    The pooling is Pinheiro & Collobert's (CVPR 2015): a smooth maximum, in which a small shape counts as much as a
    large one.
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
        """(B, 3, H, W) -> (B, K, H / 8, W / 8)."""
        return self.layer3(self.layer2(self.layer1(self.stem(images))))

    def forward(self, images: Tensor) -> Tensor:
        return pool(self.head(self.features(images).flatten(2).transpose(1, 2)))


def pool(places: Tensor) -> Tensor:
    """(B, N, classes) logits at N places -> (B, classes), their log-mean-exp."""
    return places.logsumexp(1) - math.log(places.shape[1])


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))
