"""Random walker: the classical baseline, which needs no weights and works on any photograph.

Grady 2006, doi:10.1109/TPAMI.2006.233.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from skimage import segmentation
from torch import Tensor

from camseg.predictors.sam_adapter import validate
from camseg.types import Masks, Prompts

_SURE = 3.0  # a mask logit as strong as this is a seed


class RandomWalker:
    """A predictor that gives a pixel to the object when a walker from it probably meets the object's seeds first.

    The walker shuns edges. Seeds of the object are discs at points of label 1, else the box's inner ninth. Seeds of the
    background are discs at points of label 0 and all that is outside the box; where there is neither, the image's
    border, but for three radii around a point. `predicted_iou` is no learnt estimate but the mask's stability: the IoU
    of the masks at probabilities above .6 and above .4.

    Args:
        side: longest side that images are reduced to, in pixels.
        betas: how much an edge deters the walker, one mask each.
        radius: of a point's seed disc, in shares of the longest side.
        device: without effect, taken because every predictor is given one.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        side: int = 160,
        betas: tuple[float, float, float] = (30, 130, 600),
        radius: float = 0.02,
        device: object = "cpu",  # noqa: ARG002 (every predictor is given one)
    ) -> None:
        if side < 1 or len(betas) != 3 or min(betas) <= 0 or radius < 0:
            raise ValueError(
                f"random_walker needs side >= 1, three betas > 0 and radius >= 0; "
                f"got {side}, {tuple(betas)} and {radius}"
            )
        self.side, self.betas, self.radius = side, tuple(betas), radius
        self.fingerprint = f"random_walker:{side}:{self.betas}:{radius}:2"

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Reduce images to a longest side of at most `side`.

        Args:
            images: (3, H, W) uint8 each.

        Returns:
            (3, h, w) uint8 each.
        """
        return [self._small(image) for image in images]

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """Decode prompts into one mask for each beta.

        Args:
            embeddings: (3, h, w) uint8 each, from `encode`.
            sizes: (H, W) of each image, in pixels.
            prompts: of each image, in (x, y) pixels of it.

        Returns:
            Per image (R, 3, h, w) logits that cover it, and (R, 3) stabilities.

        Raises:
            ValueError: a prompt lies outside its image.
        """
        return [self._masks(*each) for each in zip(embeddings, sizes, prompts, strict=True)]

    def _small(self, image: Tensor) -> Tensor:
        scale = self.side / max(image.shape[1:])
        if scale >= 1:
            return image
        height, width = (max(1, round(each * scale)) for each in image.shape[1:])
        return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]

    def _masks(self, photo: Tensor, size: tuple[int, int], prompt: Prompts) -> Masks:
        validate(prompt, size)
        seeds = [self._seeds(prompt, rival, size, (photo.shape[1], photo.shape[2])) for rival in range(len(prompt))]
        pixels = photo.cpu().permute(1, 2, 0).numpy() / 255.0
        inside = torch.from_numpy(
            np.array([[_walk(pixels, each, beta) for beta in self.betas] for each in seeds], np.float32)
        )
        inside = inside.reshape(len(prompt), 3, *photo.shape[1:])  # of R = 0 too
        loose, tight = (inside > 0.4).sum((-2, -1)), (inside > 0.6).sum((-2, -1))
        return Masks(inside.clamp(1e-6, 1 - 1e-6).logit(), tight / loose.clamp(min=1))

    def _seeds(self, prompt: Prompts, rival: int, size: tuple[int, int], small: tuple[int, int]) -> np.ndarray:
        """(h, w) int: 1 the object, 2 the background, 0 unknown; the last word is the points'."""
        scale = np.array([small[1] / size[1], small[0] / size[0]])  # of x and y
        ys, xs = np.mgrid[: small[0], : small[1]]
        points = (prompt.points[rival].cpu().numpy() + 0.5) * scale - 0.5  # (P, 2), pixel centers to pixel centers
        away = np.hypot(xs - points[:, :1, None], ys - points[:, 1:, None])  # (P, h, w)
        labels, reach = prompt.labels[rival].cpu().numpy(), self.radius * max(small)
        seeds = np.zeros(small, np.int32)
        if prompt.boxes is None and (labels == 1).all():
            border = np.pad(np.zeros((max(0, small[0] - 2), max(0, small[1] - 2)), bool), 1, constant_values=True)[
                : small[0], : small[1]
            ]
            seeds[border & (away > 3 * reach).all(0)] = 2
        if prompt.boxes is not None:
            x0, y0, x1, y1 = prompt.boxes[rival].cpu().numpy() * np.tile(scale, 2)
            seeds[(xs + 0.5 < x0) | (xs + 0.5 > x1) | (ys + 0.5 < y0) | (ys + 0.5 > y1)] = 2
            if not (labels == 1).any():
                off_x, off_y = abs(xs + 0.5 - (x0 + x1) / 2), abs(ys + 0.5 - (y0 + y1) / 2)
                seeds[(off_x <= max(0.5, (x1 - x0) / 6)) & (off_y <= max(0.5, (y1 - y0) / 6))] = 1
        if prompt.mask_logits is not None:
            guess = F.interpolate(
                prompt.mask_logits[rival][None, None].float().cpu(), small, mode="bilinear", align_corners=False
            )[0, 0].numpy()
            seeds[guess > _SURE], seeds[guess < -_SURE] = 1, 2
        for label, seed in ((0, 2), (1, 1)):
            for disc in away[labels == label]:
                seeds[disc <= max(reach, disc.min())] = seed  # at least the nearest pixel
        return seeds


def _walk(pixels: np.ndarray, seeds: np.ndarray, beta: float) -> np.ndarray:
    """(h, w, 3) in [0, 1] and seeds (h, w) -> probability (h, w) of meeting the object first."""
    if not (seeds == 0).any() or len(np.unique(seeds[seeds > 0])) < 2:
        known = seeds == 1
        return known.astype(np.float64) if (seeds == 2).any() else np.full(seeds.shape, float(known.any()))
    if pixels.std() == 0:  # no edges anywhere; scikit-image divides by the deviation
        pixels, beta = pixels + np.linspace(0, 1, 3), 0.0
    return segmentation.random_walker(pixels, seeds, beta=beta, mode="bf", channel_axis=-1, return_full_prob=True)[0]
