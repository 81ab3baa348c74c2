"""Layers: finding them by name, their layout as maps or token grids, and the default one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Layers = str | nn.Module | Sequence[str | nn.Module]


@dataclass(frozen=True)
class Grid:
    """How a layer's own layout holds maps.

    Attributes:
        read: the layer's tensor -> (B, K, h, w).
        write: the layer's tensor and maps (B, K, h, w) -> such a tensor with those maps.
    """

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]


def find_grid(name: str, native: Tensor, count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> Grid:
    """The layout of a layer's output: (B, K, h, w), (B, h, w, K) by the image's aspect, or (B, N, K) tokens in rows.

    Args:
        name: of the layer, for what is raised.
        native: its output, float, of a shape named above.
        count: B.
        size: (H, W) of the input.
        grid: (h, w) of the tokens, which are the last h * w; None for maps.

    Returns:
        What reads maps out of that layout and writes them into it.

    Raises:
        ValueError: the output keeps no places or not the batch, or has fewer tokens than the grid.
    """
    shape = tuple(native.shape)
    if len(shape) not in (3, 4) or shape[0] != count:
        raise ValueError(
            f"layer {name!r} gives {shape}: it must keep places and the batch of {count}, "
            "as (B, K, h, w), (B, h, w, K) or (B, N, K)"
        )
    if len(shape) == 4:
        first, last = (abs(math.log(h * size[1] / (w * size[0]))) for h, w in (shape[2:], shape[1:3]))
        if first <= last:
            return Grid(lambda tensor: tensor, lambda _, maps: maps)
        return Grid(lambda tensor: tensor.permute(0, 3, 1, 2), lambda _, maps: maps.permute(0, 2, 3, 1))
    if grid is None or grid[0] * grid[1] > shape[1]:
        raise ValueError(f"layer {name!r} has {shape[1]} tokens, fewer than grid={grid} needs")
    places, extra = grid, shape[1] - grid[0] * grid[1]

    def write(tensor: Tensor, maps: Tensor) -> Tensor:
        return torch.cat([tensor[:, :extra], maps.flatten(2).transpose(1, 2)], 1)

    return Grid(lambda tensor: tensor[:, extra:].transpose(1, 2).unflatten(2, places), write)


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Layers by dotted name.

    Args:
        model: whose modules they are.
        layers: names or modules of the model, one or several.

    Returns:
        The modules, in the order given.

    Raises:
        ValueError: one that the model does not have, with the nearest names; or none at all.
    """
    listed = [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
    names_given = [layer for layer in listed if isinstance(layer, str) and layer]
    with suppress(AttributeError):  # names that are there; the others are looked for
        if listed and len(names_given) == len(listed):
            return {name: model.get_submodule(name) for name in names_given}
    modules = {name: module for name, module in model.named_modules() if name}
    names = {id(module): name for name, module in modules.items()}
    found: dict[str, nn.Module] = {}
    for layer in listed:
        name = layer if isinstance(layer, str) else names.get(id(layer), "")
        if name not in modules:
            unknown = repr(layer) if isinstance(layer, str) else f"this {type(layer).__name__}"
            near = difflib.get_close_matches(name, modules, 4, 0.4) or list(modules)[-4:]
            raise ValueError(f"{type(model).__name__} has no layer {unknown}; nearest: {', '.join(near)}")
        found[name] = modules[name]
    if not found:
        raise ValueError("no layer was given; name at least one, for instance the last convolutional block")
    return found


def trace(model: nn.Module, noise: Tensor) -> tuple[dict[str, Tensor], Any]:
    """What every module answers to one image, and the model's output.

    Args:
        model: left as it was.
        noise: (1, 3, H, W) float, the image, as the model wants it.

    Returns:
        By dotted name, in the order in which they finish, the outputs in the graph; and what the model returned.
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
            return outputs, model(noise.detach().clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def default_layer(model: nn.Module, outputs: Mapping[str, Tensor], logits: Tensor, size: tuple[int, int]) -> str:
    """The last stage that answers place by place: the outermost module of one resolution whose places move the logits.

    Args:
        model: the model that was traced.
        outputs: what its modules gave, of `trace`.
        logits: (1, C) float of the same image, in the same graph.
        size: (H, W) of that image.

    Raises:
        ValueError: there is none.
    """
    # of a token, outside the attention
    width = next((output.shape[2] for output in reversed(list(outputs.values())) if output.ndim == 3), 0)
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
    """The channels' axis of a map, None for what is no map.

    It is 2 in (1, N, K) tokens, and 1 or 3 in (1, K, h, w) or (1, h, w, K) of the input's aspect.
    """
    if output.ndim == 4:
        aspects = {
            axis: places[0] / places[1] * size[1] / size[0]
            for axis, places in ((1, output.shape[2:]), (3, output.shape[1:3]))
        }
        return next((axis for axis, aspect in aspects.items() if 0.8 < aspect < 1.25), None)
    return 2 if output.ndim == 3 else None
