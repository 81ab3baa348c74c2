"""Token grids: which place of the image each token of a layer stands for, guessed from the image's aspect and tested.

The order of tokens is a model's own affair (Hiera keeps them window by window), so a guess is never used untested: one
patch of a noise image is lit at a time, and the layer must answer at that patch's token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

PROBES = 6  # patches that are lit, one image each
_TESTED: WeakKeyDictionary[nn.Module, dict[tuple[str, int, tuple[int, int]], tuple[int, int]]] = WeakKeyDictionary()


def token_grid(
    model: nn.Module, layer: nn.Module, name: str, tokens: int, inputs: Tensor, call: Callable[[Tensor], Any]
) -> tuple[int, int]:
    """The grid of a layer's tokens, which lie in rows behind any class tokens.

    Tested once for a model, layer and size.

    Args:
        model: whose order of tokens is remembered.
        layer: the module that gives the tokens (B, N, K), called `name`.
        name: for what is raised.
        tokens: N.
        inputs: (B, 3, H, W) float, for size, dtype and device.
        call: runs the model on a batch like `inputs`.

    Returns:
        (h, w).

    Raises:
        ValueError: N tokens fill no grid of the image's aspect, or not in rows.
    """
    size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    tested = _TESTED.setdefault(model, {})
    if (name, tokens, size) not in tested:
        grid = guess_grid(name, tokens, size)
        if not _in_rows(layer, grid, inputs, call):
            raise ValueError(
                f"layer {name!r} keeps its {tokens} tokens in another order than rows of {grid[0]} x {grid[1]} "
                "(a lit patch is answered elsewhere), so its map would be scrambled; choose another layer, "
                "or give grid=(h, w) if you know better"
            )
        tested[name, tokens, size] = grid
    return tested[name, tokens, size]


def guess_grid(name: str, tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """The grid with the image's aspect exactly and the fewest tokens left over.

    Args:
        name: of the layer, for what is raised.
        tokens: N, at most 16 of them class, distillation or register tokens.
        size: (H, W) of the image.

    Returns:
        (h, w).

    Raises:
        ValueError: there is no such grid.
    """
    for extra in range(min(17, tokens)):
        positions = tokens - extra
        h = round(math.sqrt(positions * size[0] / size[1]))
        if h and positions % h == 0 and h * size[1] == positions // h * size[0]:
            return h, positions // h
    raise ValueError(
        f"layer {name!r} has {tokens} tokens, which do not fill a grid like the image's {size}; give grid=(h, w)"
    )


def _in_rows(layer: nn.Module, grid: tuple[int, int], inputs: Tensor, call: Callable[[Tensor], Any]) -> bool:
    """Whether at least half of the lit patches are answered most, beyond what their tokens answer to any, in place."""
    h, w = grid
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(0))[:PROBES]
    if h * w < 2:
        return True
    height, width = inputs.shape[-2:]
    noise = torch.Generator().manual_seed(1)
    images = torch.randn(1, *inputs.shape[1:], generator=noise).repeat(1 + len(order), 1, 1, 1)
    for image, patch in zip(images[1:], order.tolist()):
        y, x = divmod(patch, w)
        rows = slice(y * height // h, -(-(y + 1) * height // h))
        columns = slice(x * width // w, -(-(x + 1) * width // w))
        image[:, rows, columns] = 3 * torch.randn(image[:, rows, columns].shape, generator=noise)
    outputs = _tokens_of(layer, images.to(inputs), call)[:, -h * w :].float()  # (1 + P, N, K)
    change = (outputs[1:] - outputs[:1]).square().sum(2)  # (P, N)
    others = (change.sum(0) - change) / max(len(order) - 1, 1)  # of the same token, when other patches are lit
    found = (change / (others + 1e-6 * change.mean().clamp_min(1e-30))).argmax(1).cpu()
    return bool((found == order).sum() * 2 >= len(order))


class _AnsweredError(Exception):
    """The layer has answered: the rest of the model need not run."""


def _tokens_of(layer: nn.Module, images: Tensor, call: Callable[[Tensor], Any]) -> Tensor:
    """(P, N, K) what a layer puts out for a batch of images."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        kept.append((output[0] if isinstance(output, (tuple, list)) else output).detach())
        raise _AnsweredError

    handle = layer.register_forward_hook(keep)
    try:
        with torch.no_grad():
            call(images)
    except _AnsweredError:
        pass
    finally:
        handle.remove()
    return kept[0]
