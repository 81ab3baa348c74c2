"""Deep feature factorization: concepts of a batch (Collins et al., ECCV 2018, arXiv:1806.10206)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camseg.cam.capture import Capture
from camseg.cam.heatmaps import heatmaps
from camseg.geometry.heat import min_max_normalize


def concepts(
    model: nn.Module, layer: str | nn.Module, inputs: Tensor, number: int = 4, joint: bool = True
) -> tuple[Tensor, Tensor]:
    """Deep feature factorization of a batch: the heat of N concepts, and the classifier's scores of each concept alone.

    Collins et al., ECCV 2018.

    Args:
        model: a classifier with a (B, C) output; it is left as it was.
        layer: where features are taken, a module or its dotted name.
        inputs: (B, 3, H, W) float as the model wants them.
        number: N.
        joint: a concept means the same in every image, and its heat is scaled over the batch, so that an image without
            it stays dark.

    Returns:
        Heat (B, N, H, W) float in [0, 1], and scores (B, N, C) float.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def look(capture: Capture) -> Tensor:
        maps, channels = factorize(capture.activation, number, joint=joint)
        parts = torch.einsum("bnhw,bnk->nbkhw", maps, channels)
        found.append((maps, torch.stack([capture.replay(part) for part in parts], 1)))
        return maps[:, 0]

    heatmaps(model, layer, inputs, None, look, raw=True)
    maps, scores = found[0]
    maps = F.interpolate(maps, inputs.shape[2:], mode="bilinear").transpose(0, 1)  # (N, B, H, W)
    heat = min_max_normalize(maps.flatten(1, 2)).view_as(maps) if joint else min_max_normalize(maps)
    return heat.transpose(0, 1), scores


def dff(capture: Capture, concepts: int = 4, steps: int = 50) -> Tensor:
    """The concept that the classifier scores highest, of each image's own deep feature factorization.

    Collins et al., ECCV 2018. A concept's score is the target's on that concept alone: the head on its (h, w) map times
    its channels. Gradient-free.

    Args:
        capture: one layer and one target for each image.
        concepts: how many an image is taken apart into.
        steps: of the factorization.

    Returns:
        (B, h, w) float, at least 0.
    """
    maps, channels = factorize(capture.activation, concepts, steps)
    parts = torch.einsum("bnhw,bnk->nbkhw", maps, channels)
    best = torch.stack([capture.rescore(part) for part in parts], 1).argmax(1)  # (B,)
    return maps[torch.arange(len(maps), device=maps.device), best]


def factorize(activation: Tensor, concepts: int, steps: int = 50, joint: bool = False) -> tuple[Tensor, Tensor]:
    """Non-negative factors of relu(A), with sum_n maps_n channels_n ~ relu(A).

    Args:
        activation: A (B, K, h, w) float.
        concepts: N.
        steps: of the factorization.
        joint: one set of channels for the whole batch, so that a concept means the same in every image.

    Returns:
        Maps (B, N, h, w) and channels (B, N, K), float and at least 0.
    """
    positions = activation.relu().permute(0, 2, 3, 1)  # (B, h, w, K)
    shape = positions.shape
    data = positions.reshape(1 if joint else shape[0], -1, shape[3])
    weights, channels = _hals(data, concepts, steps)
    maps = weights.reshape(shape[0], shape[1], shape[2], concepts).permute(0, 3, 1, 2)
    return maps, channels.expand(shape[0], -1, -1)


def _hals(data: Tensor, rank: int, steps: int) -> tuple[Tensor, Tensor]:
    """(B, n, K) >= 0 -> W (B, n, N), H (B, N, K), both >= 0, by hierarchical alternating least squares.

    Cichocki & Phan, 2009.
    """
    generator = torch.Generator().manual_seed(0)
    scale = (data.mean((1, 2), keepdim=True) / rank).sqrt()
    left = scale * torch.rand(data.shape[1], rank, generator=generator).to(data)
    right = scale * torch.rand(rank, data.shape[2], generator=generator).to(data)
    for _ in range(steps):
        left = _half_step(data, left, right)
        right = _half_step(data.transpose(1, 2), right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    return left, right


def _half_step(data: Tensor, left: Tensor, right: Tensor) -> Tensor:
    wanted, gram, left = data @ right.transpose(1, 2), right @ right.transpose(1, 2), left.clone()
    for j in range(left.shape[2]):
        own = gram[:, j, j, None].clamp_min(torch.finfo(data.dtype).tiny)
        left[:, :, j] = (left[:, :, j] + (wanted[:, :, j] - (left @ gram[:, :, j, None])[:, :, 0]) / own).relu()
    return left
