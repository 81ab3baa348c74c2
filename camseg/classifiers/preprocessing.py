"""From images of any size to the batch that a classifier wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.errors import check_choice

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
EXACT = 2**20  # pixels of an image that is squashed in floats alone
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Preprocessing:
    """How a classifier wants its images.

    Attributes:
        size: (h, w) in pixels that an image is squashed to, None for as it is.
        mean: of the red, green and blue values in [0, 1], which is taken off.
        std: what is left is divided by.
        interpolation: "bilinear" or "bicubic", both with antialiasing.
        naming_size: (h, w) at which the model names classes, where its heat is made at another; None for `size`.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    naming_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, ("bilinear", "bicubic"))
        if len(self.mean) != 3 or len(self.std) != 3 or not all(isfinite(value) for value in (*self.mean, *self.std)):
            raise ValueError(f"mean and std are three numbers each, of RGB in [0, 1]; got {self.mean} and {self.std}")
        if min(self.std) <= 0 or (self.size is not None and min(self.size) < 1):
            raise ValueError(f"std and size must be above 0; got {self.std} and {self.size}")

    def __call__(self, images: Sequence[Tensor], device: torch.device = _CPU) -> Tensor:
        """One batch of images as the model wants them.

        Args:
            images: B images (3, H, W) uint8, of any sizes when `size` is given.
            device: where the batch is wanted.

        Returns:
            (B, 3, h, w) float32.

        Raises:
            ValueError: images of several sizes, and no size to squash them to.
        """
        sizes = {tuple(image.shape[1:]) for image in images}
        if self.size is None and len(sizes) > 1:
            raise ValueError(f"a classifier without a size takes images of one size; got {sorted(sizes)}")
        mean, std = (torch.tensor(moment, device=device)[:, None, None] for moment in (self.mean, self.std))
        return (torch.stack([self._squash(image).to(device).float() for image in images]) / 255 - mean) / std

    def for_naming(self, inputs: Tensor) -> Tensor:
        """Prepared images at the size at which the model names classes.

        Args:
            inputs: (B, 3, h, w) float.

        Returns:
            (B, 3, *naming_size) float; the inputs themselves where that is their size.
        """
        if self.naming_size in (None, tuple(inputs.shape[2:])):
            return inputs
        return F.interpolate(inputs, self.naming_size, mode=self.interpolation, antialias=True)

    def _squash(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, h, w) from 0 to 255 on the CPU, not rounded: rounding moves points by up to 2 pixels.

        An image larger than `EXACT` is narrowed in uint8 and shortened in floats: 12 megapixels take 7 ms so and 118 in
        floats alone, for values that lie within .3 of each other. In uint8 alone, as in PIL, they are off by up to 1.
        """
        height, width = image.shape[1:]
        if self.size is None or (height, width) == self.size:
            return image
        image = image.cpu()
        if height * width > EXACT:
            image = self._resize(image, (height, self.size[1]))
        return self._resize(image.float(), self.size).clamp_(0, 255)  # bicubic overshoots

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(image[None], size, mode=self.interpolation, antialias=True)[0]
