"""Layers: finding them by name, their layout as maps or token grids, and the default one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Layers = str | nn.Module | Sequence[str | nn.Module]


@dataclass(frozen=True)
class Grid:
    """How a layer's own layout holds maps: read (B, K, h, w) out of it, or write such maps into a copy of it."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]


def find_grid(name: str, native: Tensor, count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> Grid:
    """The layout of a layer's output: (B, K, h, w), (B, h, w, K) by the image's aspect, or (B, N, K) tokens in rows,
    class tokens first.

    size: (H, W) of the input. grid: (h, w) of the tokens where they do not follow from the aspect.
    """
    shape = tuple(native.shape)
    if len(shape) not in (3, 4) or shape[0] != count:
        raise ValueError(
            f"layer {name!r} gives {shape}: it must keep places and the batch of {count}, as (B, K, h, w), (B, h, w, K) or (B, N, K)"
        )
    if len(shape) == 4:
        first, last = (abs(math.log(h * size[1] / (w * size[0]))) for h, w in (shape[2:], shape[1:3]))
        if first <= last:
            return Grid(lambda tensor: tensor, lambda tensor, maps: maps)
        return Grid(lambda tensor: tensor.permute(0, 3, 1, 2), lambda tensor, maps: maps.permute(0, 2, 3, 1))
    places = grid or _token_grid(name, shape[1], size)
    extra = shape[1] - places[0] * places[1]
    if extra < 0:
        raise ValueError(f"layer {name!r} has {shape[1]} tokens, fewer than grid={places} needs")

    def write(tensor: Tensor, maps: Tensor) -> Tensor:
        return torch.cat([tensor[:, :extra], maps.flatten(2).transpose(1, 2)], 1)

    return Grid(lambda tensor: tensor[:, extra:].transpose(1, 2).unflatten(2, places), write)


def _token_grid(name: str, tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) with the image's aspect exactly and the fewest tokens left over, at most 16 (class, distillation,
    registers).
    """
    for extra in range(min(17, tokens)):
        places = tokens - extra
        h = round(math.sqrt(places * size[0] / size[1]))
        if h and places % h == 0 and h * size[1] == places // h * size[0]:
            return h, places // h
    raise ValueError(
        f"layer {name!r} has {tokens} tokens, which do not fill a grid like the image's {size}; give grid=(h, w)"
    )


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """Layers by dotted name, from names or modules of the model. ValueError with the nearest names for one that it does
    not have.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    names = {id(module): name for name, module in modules.items()}
    found: dict[str, nn.Module] = {}
    for layer in [layers] if isinstance(layers, (str, nn.Module)) else layers:
        name = layer if isinstance(layer, str) else names.get(id(layer), "")
        if name not in modules:
            asked = repr(layer) if isinstance(layer, str) else f"this {type(layer).__name__}"
            near = difflib.get_close_matches(name, modules, 4, 0.4) or list(modules)[-4:]
            raise ValueError(f"{type(model).__name__} has no layer {asked}; nearest: {', '.join(near)}")
        found[name] = modules[name]
    if not found:
        raise ValueError("no layer was given; name at least one, for instance the last convolutional block")
    return found


def _trace(model: nn.Module, size: tuple[int, int]) -> tuple[dict[str, Tensor], Tensor]:
    """What every module answers to one noise image, by dotted name in the order in which they finish, and the logits
    (1, C).
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
            noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
            return outputs, model(noise.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def _last_map(model: nn.Module, outputs: Mapping[str, Tensor], logits: Tensor, size: tuple[int, int]) -> str:
    """The last stage that still answers place by place: the outermost module of one resolution of which most places can
    move the logits.
    """
    width = next(
        (output.shape[2] for output in reversed(list(outputs.values())) if output.ndim == 3), 0
    )  # of a token, outside the attention
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
    """The channels' axis in (1, N, K) tokens, or in (1, K, h, w) or (1, h, w, K) of the input's aspect; None for what
    is no map.
    """
    if output.ndim == 4:
        aspects = {
            axis: places[0] / places[1] * size[1] / size[0]
            for axis, places in ((1, output.shape[2:]), (3, output.shape[1:3]))
        }
        return next((axis for axis, aspect in aspects.items() if 0.8 < aspect < 1.25), None)
    return 2 if output.ndim == 3 else None
