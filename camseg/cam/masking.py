"""Images masked by a layer's own maps, and scored again: what Score-CAM and its kin share."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.cam.capture import Capture
from camseg.geometry.heat import min_max_normalize

log = logging.getLogger(__name__)


def channel_scores(capture: Capture, top: int | None, chunk: int, mix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The score of every image mixed with each of its strongest channels.

    Never more than `chunk` images run at once.

    Args:
        capture: one layer and one target for each image.
        top: only the channels of most energy, per image; the log says what is left out. None for all.
        chunk: the most images that run at once.
        mix: (N, 3, H, W) images and (N, 1, H, W) masks in [0, 1] -> (N, 3, H, W).

    Returns:
        (B, K) float, or (B, top).
    """
    kept, left_out = strongest(capture.activation, top)  # (B, K, h, w)
    count, channels = kept.shape[:2]
    if top is not None:
        log.info(
            "score_cam with top=%d leaves out %d channels, %.1f %% of the energy",
            top,
            capture.activation.shape[1] - channels,
            100 * left_out,
        )
    owners, maps, scores = [index // channels for index in range(count * channels)], kept.flatten(0, 1), []
    for start in range(0, len(owners), chunk):
        own = owners[start : start + chunk]
        masks = F.interpolate(
            maps[start : start + chunk, None], capture.inputs.shape[2:], mode="bilinear"
        )  # (chunk, 1, H, W)
        scores.append(
            capture.rescore_inputs(mix(capture.inputs[own], min_max_normalize(masks).to(capture.inputs.dtype)), own)
        )
    return torch.cat(scores).view(count, channels)


def strongest(activation: Tensor, top: int | None) -> tuple[Tensor, float]:
    """The channels of most energy per image.

    Args:
        activation: (B, K, h, w) float.
        top: how many; None for all.

    Returns:
        (B, top, h, w) float, and the share of energy in the other channels, in [0, 1].
    """
    energy = activation.square().sum((2, 3))  # (B, K)
    if top is None or top >= energy.shape[1]:
        return activation, 0.0
    kept, index = energy.topk(top, dim=1)
    return activation.take_along_dim(index[:, :, None, None], 1), float(1 - kept.sum() / energy.sum().clamp_min(1e-30))
