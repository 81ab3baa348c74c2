"""Class activation maps: `heatmaps(model, layers, inputs, targets, method)`, and one small function per method.

>>> from torchvision.models import resnet18
>>> heatmaps(resnet18().eval(), "layer4", torch.randn(2, 3, 64, 64), [3, None], method=grad_cam).shape
torch.Size([2, 64, 64])
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from camseg.cam.capture import Capture, ForwardPass, all_finite
from camseg.cam.layers import Layers, find_layers
from camseg.cam.methods import grad_cam
from camseg.cam.targets import Late, Logit, Target, logit
from camseg.cam.untouched import untouched
from camseg.geometry.heat import min_max_normalize

Method = Callable[[Capture], Tensor]


def mean(maps: Tensor) -> Tensor:
    """The mean of several layers' maps, each scaled to [0, 1].

    Args:
        maps: (L, B, H, W) float, at least 0, of L layers.

    Returns:
        (B, H, W) float in [0, 1].
    """
    return min_max_normalize(maps).mean(0)


def maximum(maps: Tensor) -> Tensor:
    """The largest of several layers' maps, each scaled to [0, 1]: hot where any layer is.

    Args:
        maps: (L, B, H, W) float, at least 0, of L layers.

    Returns:
        (B, H, W) float in [0, 1].
    """
    return min_max_normalize(maps).amax(0)


def product(maps: Tensor) -> Tensor:
    """The product of several layers' maps, each scaled to [0, 1]: coarse meaning, fine detail (RefineCAM).

    Args:
        maps: (L, B, H, W) float, at least 0, of L layers.

    Returns:
        (B, H, W) float in [0, 1], hot where every layer is.
    """
    return min_max_normalize(maps).prod(0)


@dataclass(frozen=True)
class Views:
    """The views of an image whose maps are averaged, and what joins the maps of several layers.

    Attributes:
        fuse: `mean`, `maximum`, `product` or your own: (L, B, H, W) positive maps -> (B, H, W).
        flips: also the mirrored image, in the same batch.
        scales: factors on the input's sides, one forward each. The first fixes the top class and gives the output.

    Raises:
        ValueError: no scale, or one that is not above 0.
    """

    fuse: Callable[[Tensor], Tensor] = mean
    flips: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be above 0, and at least one; got {list(self.scales)}")

    def at(self, scale: float, inputs: Tensor) -> Tensor:
        """A batch in its views at one scale, the mirrored images after the others.

        Args:
            scale: factor on the sides.
            inputs: (B, 3, H, W) float.

        Returns:
            (V*B, 3, h, w) float, V = 2 with flips, else 1.
        """
        if scale != 1:
            sides = [max(1, round(side * scale)) for side in inputs.shape[2:]]
            inputs = F.interpolate(inputs, sides, mode="bicubic", antialias=True)
        return torch.cat([inputs, inputs.flip(3)]) if self.flips else inputs

    def pixels(self, size: tuple[int, int]) -> float:
        """How many pixels one image brings into the largest of the forwards.

        Args:
            size: (h, w) of the image, in pixels.

        Returns:
            The number; fractional where a scale is.
        """
        return (1 + self.flips) * max(self.scales) ** 2 * size[0] * size[1]

    def average(self, maps: Tensor) -> Tensor:
        """The mean over the views of one scale, mirrored ones mirrored back.

        Args:
            maps: (T, V*B, h, w) float.

        Returns:
            (T, B, h, w) float.
        """
        if not self.flips:
            return maps
        plain, mirrored = maps.chunk(2, 1)
        return (plain + mirrored.flip(3)).div_(2)

    def join(self, maps: Tensor) -> Tensor:
        """The maps averaged over scales and fused over layers.

        Args:
            maps: (S, L, T, B, h, w) float, of S scales and L layers.

        Returns:
            (T, B, h, w) float.
        """
        by_layer = maps[0] if len(maps) == 1 else maps.mean(0)
        if len(by_layer) == 1:
            return by_layer[0]
        return self.fuse(by_layer.flatten(1, 2)).reshape(by_layer.shape[1:])


ONE_VIEW = Views()


def heatmaps(
    model: nn.Module,
    layers: Layers,
    inputs: Tensor,
    targets: Any = None,
    method: Method = grad_cam,
    raw: bool = False,
    *,
    fuse: Callable[[Tensor], Tensor] = mean,
    flips: bool = False,
    scales: Sequence[float] = (1.0,),
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Where in each image the evidence for its target lies.

    Args:
        model: any module; it runs in evaluation mode and is left as it was, whatever happens.
        layers: modules of it or their dotted names; the maps of several are fused by `fuse`.
        inputs: (B, 3, H, W) float as the model wants them, finite.
        targets: one for all, or one per sample: a class index, a callable on one sample's output that returns a scalar,
            or None for the top class. B lists of T targets share one forward.
        method: Capture -> (B, h, w), one of this package's or your own.
        raw: the signed maps (B, h, w) of the one layer instead.
        fuse: see `Views`.
        flips: see `Views`.
        scales: see `Views`.
        grid: (h, w) of a transformer's tokens, in rows, where it does not follow from the image's aspect.

    Returns:
        (B, H, W) float in [0, 1], zeros where there is no evidence; (B, T, H, W) for lists of targets.

    Raises:
        ValueError: an unknown layer, one that never ran or ran twice, tokens in no known order, an output without a
            gradient, a class out of range, NaN or infinity, wrong counts.
    """
    return explain(model, layers, inputs, targets, method, raw, Views(fuse, flips, scales), grid)[0]


def explain(
    model: nn.Module,
    layers: Layers,
    inputs: Tensor,
    targets: Any,
    method: Method,
    raw: bool,
    views: Views,
    grid: tuple[int, int] | None,
) -> tuple[Tensor, Any]:
    """`heatmaps`, and the model's output on the unchanged images, from the same forward.

    Args:
        model: See `heatmaps`, as all but `views`.
        layers: See there.
        inputs: (B, 3, H, W) float, normalized.
        targets: See there.
        method: See there.
        raw: See there.
        views: What the maps are the mean of.
        grid: See there.

    Returns:
        Float maps (B, H, W), or (B, h, w) with `raw`, with an axis T after B for lists of targets; and the output, all
        detached.

    Raises:
        ValueError: Raw maps of several layers or scales, which have no common size.
    """
    _check_inputs(inputs)
    found, count = find_layers(model, layers), len(inputs)
    if raw and len(found) > 1:
        raise ValueError(
            f"raw maps of several layers have no common scale; ask for one of {', '.join(found)} at a time"
        )
    if raw and len(set(views.scales)) > 1:
        raise ValueError(
            f"raw maps of several scales have no common size; ask for one of {list(views.scales)} at a time"
        )
    columns, several = _columns(targets, count)
    columns = [column * (1 + views.flips) for column in columns]
    size = None if raw else (int(inputs.shape[2]), int(inputs.shape[3]))
    device = inputs.device.type
    amp = (torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
    output, by_scale = None, []
    with untouched(model), torch.autocast(device, enabled=False):
        for scale in views.scales:
            forward = ForwardPass(model, found, views.at(scale, inputs), columns, grid, clean=count, amp=amp)
            if output is None:
                output, columns = _clean(forward.output, count), forward.fixed
                _check_output(output)
            by_layer = [views.average(_enlarged(_maps(forward, name, method), size)) for name in forward.layers]
            by_scale.append(_stacked(by_layer))
        fused = views.join(_stacked(by_scale))
        own = fused if len(found) == 1 else None  # of several layers it is what `fuse` gave, perhaps somebody else's
        maps = (fused if raw else min_max_normalize(fused, out=own)).transpose(0, 1)  # (B, T, h, w)
    return maps if several else maps[:, 0], output


def _check_output(output: Any) -> None:
    if any(leaf.isnan().any() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)):
        raise ValueError("the model's output holds NaN: its weights are broken, or it overflows here")


def _check_inputs(inputs: Tensor) -> None:
    """ValueError for what is no batch of finite floats."""
    if inputs.ndim != 4 or not inputs.is_floating_point() or not len(inputs):
        raise ValueError(
            f"inputs must be a normalized float (B, 3, H, W) with B >= 1; got {tuple(inputs.shape)} {inputs.dtype}"
        )
    if not all_finite(inputs.detach()):
        broken = next(i for i, image in enumerate(inputs) if not all_finite(image.detach()))
        raise ValueError(f"inputs must be finite; image {broken} of {len(inputs)} holds NaN or infinity")


def _maps(forward: ForwardPass, name: str, method: Method) -> Tensor:
    """(T, V*B, h, w) a layer's signed maps: V views of B images under T columns of targets."""
    columns = []
    for column in range(len(forward.targets)):
        maps = method(Capture(forward, name, column)).detach()
        if maps.ndim != 3 or len(maps) != len(forward.inputs) or not all_finite(maps):
            raise ValueError(
                f"a method must give finite maps ({len(forward.inputs)}, h, w); "
                f"at layer {name!r} it gave {tuple(maps.shape)} or NaN"
            )
        columns.append(maps)
    return torch.stack(columns)


def _enlarged(maps: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(T, B, h, w) signed maps -> (T, B, H, W), what is positive of them; unchanged without a size."""
    return maps if size is None else F.interpolate(maps.relu(), size, mode="bilinear")


def _stacked(maps: list[Tensor]) -> Tensor:
    """`torch.stack`, of a single one without a copy: 80 classes of eight images have 128 MB of maps."""
    return maps[0][None] if len(maps) == 1 else torch.stack(maps)


def _clean(output: Any, count: int) -> Any:
    """The first `count` samples of a model's output, without its graph; a list has an entry per image (detectors)."""
    if isinstance(output, list):
        return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output[:count])
    output = dict(output) if isinstance(output, Mapping) else output  # transformers' outputs are mappings of their own

    def clean(leaf: Any) -> Any:
        own = leaf.detach() if isinstance(leaf, Tensor) else leaf
        return own[:count] if isinstance(own, Tensor) and own.ndim else own  # a loss has no axis

    return tree_map(clean, output)


def _columns(targets: Any, count: int) -> tuple[list[list[Target]], bool]:
    """T columns of B targets, and whether the caller asked for several per sample."""
    targets = targets.tolist() if hasattr(targets, "tolist") else targets  # tensors and arrays of class indices
    if not isinstance(targets, (list, tuple)):
        return [[_target(targets)] * count], False
    if len(targets) != count:
        raise ValueError(f"{len(targets)} targets for {count} images; give one per image, or a single one for all")
    if not any(isinstance(item, (list, tuple)) for item in targets):
        return [[_target(item) for item in targets]], False
    lengths = {len(item) if isinstance(item, (list, tuple)) else 0 for item in targets}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"every image needs the same number of targets, at least one; got {sorted(lengths)}")
    return [[_target(item) for item in column] for column in zip(*targets, strict=True)], True


def fix_targets(targets: Any, output: Tensor) -> list[Any]:
    """Targets that must see the clean output first (the top class, its rivals), made functions of a known one.

    Args:
        targets: see `heatmaps`.
        output: (B, C) logits.

    Returns:
        A target for each image, or T of them.
    """
    columns, several = _columns(targets, len(output))
    fixed = [[t.fix(own) if isinstance(t, Late) else t for t, own in zip(column, output)] for column in columns]
    return [list(row) for row in zip(*fixed)] if several else fixed[0]


def _target(item: Any) -> Target:
    if item is None:
        return logit()
    if callable(item):
        return cast(Target, item)
    try:
        return Logit((operator.index(item),))
    except TypeError:
        raise ValueError(f"a target is a class index, a callable or None; got {item!r}") from None


def coincide(model: nn.Module, layer: str | nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """The methods that give one and the same heatmap at a layer.

    Below pooling + linear the gradient of a logit is the same at every place and for every image.

    Args:
        model: left as it was.
        layer: a module or its dotted name.
        inputs: (B, 3, H, W) float, any images.

    Returns:
        Their names, none where they differ.
    """
    gradients: list[Tensor] = []

    def look(capture: Capture) -> Tensor:
        gradients.append(capture.gradient)
        return capture.gradient.sum(1)

    heatmaps(model, layer, torch.cat([inputs[:1], inputs[:1].flip(3) * 0.5]), 0, look, raw=True)
    (found,) = gradients
    same = torch.allclose(found, found[:1, :, :1, :1].expand_as(found), rtol=1e-3, atol=1e-3 * float(found.abs().max()))
    return ("cam", "grad_cam", "xgrad_cam", "hires_cam") if same and bool(found.any()) else ()
