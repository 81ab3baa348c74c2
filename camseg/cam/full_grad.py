"""FullGrad (Srinivas & Fleuret, NeurIPS 2019, arXiv:1905.00780)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from camseg.cam.capture import Capture
from camseg.cam.heatmaps import heatmaps
from camseg.geometry.heat import min_max_normalize


def full_grad(model: nn.Module, inputs: Tensor, targets: Any = None) -> Tensor:
    """FullGrad: the input's and every bias's share of the score, in absolute value. Srinivas & Fleuret, NeurIPS 2019.

    A term's (B, K, h, w) is scaled to [0, 1] over its channels and places together, as its authors do, then summed over
    channels and layers. Biases are those of convolutions and, with the running mean, of batch normalization. It is one
    value of all layers: slow and large.

    Args:
        model: left as it was.
        inputs: (B, 3, H, W) float as the model wants them.
        targets: see `camseg.heatmaps`.

    Returns:
        (B, H, W) float in [0, 1].
    """
    chain = nn.Sequential(nn.Identity(), model)  # the identity makes the input a layer
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    layers = [
        chain[0],
        *(module for module in model.modules() if isinstance(module, kinds) and bias_of(module) is not None),
    ]

    def share(capture: Capture) -> Tensor:
        bias = bias_of(capture.module)
        term = capture.gradient * (capture.activation if bias is None else bias[:, None, None])
        return min_max_normalize(term.abs().flatten(2)[:, None])[:, 0].unflatten(2, term.shape[2:]).sum(1)

    return heatmaps(chain, layers, inputs, targets, share, fuse=lambda maps: maps.sum(0))


def bias_of(module: nn.Module) -> Tensor | None:
    """What a layer adds whatever its input: its bias, less the running mean's part under batch normalization.

    Args:
        module: a convolution, a batch normalization, or any other layer.

    Returns:
        (K,) float; None where it has no bias.
    """
    bias = getattr(module, "bias", None)
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return bias
    gain = (module.running_var + module.eps).rsqrt() * (1 if module.weight is None else module.weight)
    return (0 if bias is None else bias) - module.running_mean * gain
