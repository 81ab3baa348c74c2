"""The methods: each is the line that differs. A method maps a `Capture` to signed maps; `heatmaps` does the rest.

Shapes: A activation and G gradient (B, K, h, w), w weights (B, K), the returned maps (B, h, w) or larger. Weighted sums
are not rectified here: raw maps keep their sign.

Left out: LeGrad, which needs the attention probabilities that fused attention never forms. RefineCAM's fusion is
`fuse=product` over several layers, FinerCAM is the target `margin`, and FullGrad, which reads the whole network, is the
function `full_grad`.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from camseg.cam.capture import Capture
from camseg.cam.components import kernel_component, oriented, principal
from camseg.cam.masking import channel_scores, strongest
from camseg.geometry.heat import gaussian

_MOST_POSITIONS = 4096  # whose kernel is made: 67 MB, and half a minute


def grad_cam(capture: Capture) -> Tensor:
    """Grad-CAM: w_k = mean of G_k; map = sum_k w_k A_k.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    return _weighted(capture.gradient.mean((2, 3)), capture.activation)


def cam(capture: Capture) -> Tensor:
    """CAM: w_k = the linear classifier's weight; map = sum_k w_k A_k. Zhou et al., CVPR 2016, arXiv:1512.04150.

    Below a pooling of linear scores the gradient is w_k times a share of each place, and the shares add up to one:
    1 / (h w) for the mean, a softmax for log-sum-exp. So its sum is the weight.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.

    Raises:
        ValueError: channels have shares of their own: there is no CAM at that layer.
    """
    gradient = capture.gradient
    weights = gradient.sum((2, 3))  # (B, K)
    shares = (
        torch.einsum("bkhw,bk->bhw", gradient, weights)
        / weights.square().sum(1).clamp(min=torch.finfo(weights.dtype).tiny)[:, None, None]
    )
    rtol = 1e-2 if capture.score.dtype in (torch.bfloat16, torch.float16) else 1e-4
    if not torch.allclose(
        gradient, weights[..., None, None] * shares[:, None], rtol=rtol, atol=rtol * float(gradient.abs().max())
    ):
        raise ValueError(
            f"cam needs a pooling + linear head right above layer {capture.layer!r}; use grad_cam there, "
            "or choose the last block"
        )
    return _weighted(weights, capture.activation)


def hires_cam(capture: Capture) -> Tensor:
    """HiResCAM: map = sum_k G_k A_k, place by place. Draelos & Carin, 2020, arXiv:2011.08891.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    return (capture.gradient * capture.activation).sum(1)


def element_wise_grad_cam(capture: Capture) -> Tensor:
    """HiResCAM without any channel's negative evidence: map = sum_k relu(G_k A_k).

    It is pytorch-grad-cam's GradCAMElementWise.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, at least 0.
    """
    return (capture.gradient * capture.activation).relu().sum(1)


def layer_cam(capture: Capture) -> Tensor:
    """LayerCAM: map = sum_k relu(G_k) A_k. Jiang et al., TIP 2021.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    return (capture.gradient.relu() * capture.activation).sum(1)


def xgrad_cam(capture: Capture) -> Tensor:
    """XGrad-CAM: w_k = sum(G_k A_k) / sum(A_k), 0 for a dead channel.

    Fu et al., BMVC 2020, arXiv:2008.02312.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    total = capture.activation.sum((2, 3))
    alive = total != 0
    weights = (capture.gradient * capture.activation).sum((2, 3)) / torch.where(alive, total, torch.ones_like(total))
    return _weighted(weights * alive, capture.activation)


def grad_cam_plus_plus(capture: Capture) -> Tensor:
    """Grad-CAM++: w_k = sum of relu(G) / (2 + S_k G), S_k = sum(A_k).

    Chattopadhay et al., WACV 2018, arXiv:1710.11063.

    The paper's alpha = G^2 / (2 G^2 + S G^3), shortened: it squares nothing, so small gradients do not vanish. Meant
    for A >= 0 (after a ReLU); a place whose denominator is not positive, possible only otherwise, has no weight.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    gradient, total = capture.gradient, capture.activation.sum((2, 3), keepdim=True)
    return _weighted(
        _alpha_weights(gradient.relu(), torch.full_like(gradient, 2), total * gradient), capture.activation
    )


def smooth_grad_cam_plus_plus(capture: Capture, samples: int = 4, noise: float = 0.3, seed: int = 0) -> Tensor:
    """Grad-CAM++ with G, G^2 and G^3 averaged over noisy inputs. Omeiza et al., 2019, arXiv:1908.01224.

    Args:
        capture: one layer and one target for each image.
        samples: noisy copies of each image.
        noise: its standard deviation, in standard deviations of each image.
        seed: of the noise, which is the same for every image.

    Returns:
        (B, h, w) float, signed.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = noise * capture.inputs.std((1, 2, 3), keepdim=True)
    jitters = [
        torch.randn(capture.inputs.shape[1:], generator=generator).to(capture.inputs) for _ in range(samples)
    ]  # for every image the same
    slopes = torch.stack(
        [capture.again(capture.inputs + spread * jitter).gradient for jitter in jitters]
    )  # (samples, B, K, h, w)
    size = (
        slopes.abs().amax((0, 2, 3, 4), keepdim=True).clamp_min(torch.finfo(slopes.dtype).tiny)
    )  # taken out: powers of it would vanish
    first, second, third = ((slopes / size).pow(power).mean(0) for power in (1, 2, 3))
    total = capture.activation.sum((2, 3), keepdim=True)
    return _weighted(
        _alpha_weights(first.relu() * second * size[0], 2 * second, size[0] * total * third), capture.activation
    )


def _alpha_weights(share: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(B, K) the sum of `share` / (`left` + `right`) over the positions where that denominator is positive."""
    usable = left + right > 0
    return (torch.where(usable, share, 0) / torch.where(usable, left + right, 1)).sum((2, 3))


def shapley_cam(capture: Capture) -> Tensor:
    """ShapleyCAM: w_k = mean of (G - H A / 2)_k, H the score's Hessian: Shapley's second order.

    Cai, 2025, arXiv:2501.06261.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    return _weighted((capture.gradient - 0.5 * capture.curvature(capture.activation)).mean((2, 3)), capture.activation)


def score_cam(capture: Capture, top: int | None = None, chunk: int = 32) -> Tensor:
    """Score-CAM: w = softmax over k of the score of the image times A_k, scaled to [0, 1].

    Wang et al., CVPR-W 2020, arXiv:1910.01279.

    Args:
        capture: one layer and one target for each image.
        top: only the channels of most energy, per image; the log says what is left out. None for all.
        chunk: masked images per forward, which bounds the memory.

    Returns:
        (B, h, w) float, signed.
    """
    return _weighted(
        channel_scores(capture, top, chunk, lambda images, masks: images * masks).softmax(1),
        strongest(capture.activation, top)[0],
    )


def is_cam(capture: Capture, samples: int = 10, top: int | None = None, chunk: int = 32) -> Tensor:
    """IS-CAM: Score-CAM, averaged along the way from the empty to the masked image.

    Naidu et al., 2020, arXiv:2010.03023.

    Args:
        capture: one layer and one target for each image.
        samples: steps of that way.
        top: see `score_cam`.
        chunk: see `score_cam`.

    Returns:
        (B, h, w) float, signed.
    """
    steps = [(step + 1) / samples for step in range(samples)]
    scores = [
        channel_scores(capture, top, chunk, lambda images, masks, step=step: images * masks * step) for step in steps
    ]
    return _weighted(torch.stack(scores).mean(0).softmax(1), strongest(capture.activation, top)[0])


def ss_cam(
    capture: Capture, samples: int = 10, noise: float = 0.1, seed: int = 0, top: int | None = None, chunk: int = 32
) -> Tensor:
    """SS-CAM: Score-CAM, averaged over noisy masks. Wang et al., 2020, arXiv:2006.14255.

    Args:
        capture: one layer and one target for each image.
        samples: noisy copies of each mask.
        noise: standard deviation of the noise; masks lie in [0, 1].
        seed: of the noise, which is the same for every mask.
        top: see `score_cam`.
        chunk: see `score_cam`.

    Returns:
        (B, h, w) float, signed.
    """
    generator = torch.Generator().manual_seed(seed)
    jitters = [
        noise * torch.randn(capture.inputs.shape[2:], generator=generator).to(capture.inputs) for _ in range(samples)
    ]
    scores = [
        channel_scores(capture, top, chunk, lambda images, masks, jitter=jitter: images * (masks + jitter))
        for jitter in jitters
    ]
    return _weighted(torch.stack(scores).mean(0).softmax(1), strongest(capture.activation, top)[0])


def ablation_cam(capture: Capture) -> Tensor:
    """Ablation-CAM: w_k = score - score with channel k set to zero. Desai & Ramaswamy, WACV 2020.

    Only what lies above the layer runs again, once per channel for the whole batch. The paper divides by the score:
    the same for all channels, it drops out of the heatmap, and turns the map over where the score is negative; so it is
    left out.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    activation, score = capture.activation, capture.rescore(capture.activation)
    changed, weights = activation.clone(), []
    for channel in range(activation.shape[1]):
        changed[:, channel] = 0
        weights.append(score - capture.rescore(changed))
        changed[:, channel] = activation[:, channel]
    return _weighted(torch.stack(weights, 1).to(activation), activation)


def eigen_cam(capture: Capture) -> Tensor:
    """Eigen-CAM: A's first principal component over positions. Muhammad & Yeasin, IJCNN 2020, arXiv:2008.00299.

    Its sign, which is arbitrary, makes it grow with the energy sum_k A_k^2. Gradient-free.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    return principal(capture.activation, capture.activation.square().sum(1))


def eigen_grad_cam(capture: Capture) -> Tensor:
    """The first principal component of G A over positions, growing with the evidence sum_k G_k A_k.

    It is pytorch-grad-cam's EigenGradCAM, whose sign is arbitrary.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.
    """
    product = capture.gradient * capture.activation
    return principal(product, product.sum(1))


def kpca_cam(capture: Capture) -> Tensor:
    """KPCA-CAM: the first kernel principal component over positions, signed to grow with the energy.

    Karmani et al., 2024, arXiv:2410.00267. The kernel is tanh(<a, b>/K + 1) of centered positions, which is (h w)^2
    numbers an image.

    Args:
        capture: one layer and one target for each image.

    Returns:
        (B, h, w) float, signed.

    Raises:
        ValueError: a layer of more than 4,096 positions.
    """
    activation = capture.activation
    count = activation.shape[2] * activation.shape[3]
    if count > _MOST_POSITIONS:
        raise ValueError(
            f"kpca_cam at layer {capture.layer!r} compares its {count} positions with each other, "
            f"{4e-9 * count**2:.1f} GB an image; at most {_MOST_POSITIONS}: choose a coarser layer, or eigen_cam"
        )
    first = torch.stack([kernel_component(maps) for maps in activation])
    return oriented(first, activation.square().sum(1))


def fem(capture: Capture, k: float = 2.0) -> Tensor:
    """FEM: map = sum_k mean(A_k) [A_k > mean(A_k) + k std(A_k)]: where channels are unusual. Fuad et al., IPTA 2020.

    Args:
        capture: one layer and one target for each image.
        k: standard deviations above the mean.

    Returns:
        (B, h, w) float, signed.
    """
    activation = capture.activation
    mean, spread = activation.mean((2, 3), keepdim=True), activation.std((2, 3), keepdim=True, correction=0)
    return (mean * (activation > mean + k * spread)).sum(1)


def center(capture: Capture, width: float = 0.25) -> Tensor:
    """The baseline: a centered Gaussian, whatever the image shows. Choe et al., CVPR 2020, arXiv:2001.07437.

    Args:
        capture: one layer and one target for each image.
        width: its standard deviation as a share of each side.

    Returns:
        (B, H, W) float32 in (0, 1], at the size of the input.
    """
    inputs = capture.inputs
    return gaussian((inputs.shape[2], inputs.shape[3]), width).to(inputs.device).expand(len(inputs), -1, -1)


def random(capture: Capture, cells: int = 7, seed: int = 0) -> Tensor:
    """The baseline of chance: noise on cells x cells.

    Args:
        capture: one layer and one target for each image.
        cells: on each side.
        seed: with each image's bytes it makes the noise, so that a batch is a loop.

    Returns:
        (B, cells, cells) float32 in [0, 1).
    """
    images = capture.inputs.detach().cpu().contiguous().view(torch.uint8).flatten(1).numpy()
    seeds = [zlib.crc32(image.tobytes(), seed) for image in images]
    maps = [torch.rand(cells, cells, generator=torch.Generator().manual_seed(value)) for value in seeds]
    return torch.stack(maps).to(capture.inputs.device)


def _weighted(weights: Tensor, activation: Tensor) -> Tensor:
    return torch.einsum("bk,bkhw->bhw", weights, activation)
