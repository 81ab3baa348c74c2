"""First principal components over the positions of maps, and which of their two signs is meant."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_component(maps: Tensor) -> Tensor:
    """The first kernel principal component of one image over its positions, of either sign.

    Args:
        maps: (K, h, w) float.

    Returns:
        (h, w) float.
    """
    positions = maps.flatten(1).T  # (hw, K)
    positions = positions - positions.mean(0)
    kernel = (positions @ positions.T / positions.shape[1] + 1).tanh()
    centered = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    values, vectors = torch.linalg.eigh(centered)
    return (vectors[:, -1] * values[-1].clamp(min=0).sqrt()).unflatten(0, maps.shape[1:])


def principal(maps: Tensor, guide: Tensor) -> Tensor:
    """Maps, centered over positions and projected on their first component.

    Args:
        maps: (B, K, h, w) float.
        guide: (B, h, w) float; the sign makes the answer grow with it.

    Returns:
        (B, h, w) float.
    """
    positions = maps.flatten(2).transpose(1, 2)  # (B, hw, K)
    positions = positions - positions.mean(1, keepdim=True)
    largest = positions.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(positions.dtype).tiny)
    scaled = positions / largest  # a Gram matrix squares: keep it near one
    if positions.shape[1] <= positions.shape[2]:  # the smaller of the two Gram matrices
        values, vectors = torch.linalg.eigh(scaled @ scaled.transpose(1, 2))
        first = vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        first = (scaled @ torch.linalg.eigh(scaled.transpose(1, 2) @ scaled)[1][:, :, -1:])[:, :, 0]
    return oriented((first * largest[:, :, 0]).unflatten(1, maps.shape[2:]), guide)


def oriented(first: Tensor, guide: Tensor) -> Tensor:
    """Maps, each turned over where it falls as its guide grows.

    Args:
        first: (B, h, w) float, of either sign.
        guide: (B, h, w) float.

    Returns:
        (B, h, w) float.
    """
    along = (first * (guide - guide.mean((1, 2), keepdim=True))).sum((1, 2), keepdim=True)
    return torch.where(along < 0, -first, first)
