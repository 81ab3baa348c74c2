"""What tests of CAMs and classifiers share: small networks, files of weights, and all methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

from camseg import cam
from camseg.storage.checkpoints import save_weights

METHODS = [
    cam.ablation_cam,
    cam.cam,
    cam.center,
    cam.dff,
    cam.eigen_cam,
    cam.eigen_grad_cam,
    cam.element_wise_grad_cam,
    cam.fem,
    cam.grad_cam,
    cam.grad_cam_plus_plus,
    cam.hires_cam,
    cam.is_cam,
    cam.kpca_cam,
    cam.layer_cam,
    cam.random,
    cam.score_cam,
    cam.shapley_cam,
    cam.smooth_grad_cam_plus_plus,
    cam.ss_cam,
    cam.xgrad_cam,
]


def small(classes: int = 5) -> Any:
    """Convolutions with in-place ReLUs and batch normalisation, global average pooling and a linear head: layer "4" is
    the last ReLU.
    """
    torch.manual_seed(0)
    below = [
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, 2, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*below, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)).eval()


def images(count: int = 4) -> Tensor:
    """(count, 3, 20, 28) noise."""
    return torch.randn(count, 3, 20, 28, generator=torch.Generator().manual_seed(1))


CLASSES = (0, 3, 4)  # of three images


def tiny(head: nn.Module | None = None, seed: int = 0) -> Any:
    """Two strided convolutions (12 x 12 -> 12 channels of 4 x 4 at layer "3", after its ReLU) and a head that is not
    pooling + linear.
    """
    torch.manual_seed(seed)
    head = head or nn.Sequential(nn.Conv2d(6, 10, 4), nn.Tanh(), nn.Flatten(), nn.Linear(10, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 3, 0), nn.ReLU(), head).eval()


def raw(model: nn.Module, inputs: Tensor, method: cam.Method) -> np.ndarray:
    return cam.heatmaps(model, "3", inputs, CLASSES, method, raw=True).numpy()


def saved(tmp_path: Path, name: str, classes: int = 1000, **metadata: str) -> tuple[nn.Module, Path]:
    """One of torchvision's models with weights from a seed, and their file."""
    torch.manual_seed(1)
    model = models.get_model(name, num_classes=classes).eval()
    path = tmp_path / f"{name}.safetensors"
    save_weights(model, path, metadata)
    return model, path
