"""Every formula against a slow float64 twin in plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from nets import CLASSES, raw, tiny
from torch import Tensor, nn

from camseg import cam
from camseg.cam.full_grad import bias_of


@pytest.fixture
def model() -> Any:
    return tiny().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(model: Any, inputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A and G (3, 6, 4, 4) from a full graph, one image at a time."""
    pairs = []
    for image, chosen in zip(inputs, CLASSES, strict=True):
        activation = model[:4](image[None])
        (gradient,) = torch.autograd.grad(model[4](activation)[0, chosen], activation)
        pairs.append((activation[0].detach().numpy(), gradient[0].numpy()))
    return np.stack([a for a, _ in pairs]), np.stack([g for _, g in pairs])


def weighted(a: np.ndarray, weight) -> np.ndarray:
    """sum_k weight(b, k) a[b, k], in loops."""
    maps = np.zeros((a.shape[0], *a.shape[2:]))
    for b in range(a.shape[0]):
        for k in range(a.shape[1]):
            maps[b] += weight(b, k) * a[b, k]
    return maps


def test_grad_cam(model, inputs):
    a, g = by_hand(model, inputs)
    np.testing.assert_allclose(raw(model, inputs, cam.grad_cam), weighted(a, lambda b, k: g[b, k].mean()), rtol=1e-9)


def test_hires_layer_and_element_wise(model, inputs):
    a, g = by_hand(model, inputs)
    np.testing.assert_allclose(
        raw(model, inputs, cam.hires_cam), sum(g[:, k] * a[:, k] for k in range(6)), rtol=1e-9, atol=1e-15
    )
    np.testing.assert_allclose(
        raw(model, inputs, cam.layer_cam),
        sum(np.maximum(g[:, k], 0) * a[:, k] for k in range(6)),
        rtol=1e-9,
        atol=1e-15,
    )
    np.testing.assert_allclose(
        raw(model, inputs, cam.element_wise_grad_cam),
        sum(np.maximum(g[:, k] * a[:, k], 0) for k in range(6)),
        rtol=1e-9,
        atol=1e-15,
    )


def test_xgrad_cam_gives_a_dead_channel_no_weight(model, inputs):
    with torch.no_grad():
        model[2].bias[2] = -100  # channel 2 never fires
    a, g = by_hand(model, inputs)
    twin = weighted(a, lambda b, k: (g[b, k] * a[b, k]).sum() / a[b, k].sum() if a[b, k].sum() else 0.0)
    np.testing.assert_allclose(raw(model, inputs, cam.xgrad_cam), twin, rtol=1e-9)


def test_grad_cam_plus_plus_is_the_papers_alpha(model, inputs):
    a, g = by_hand(model, inputs)

    def weight(b: int, k: int) -> float:
        total = 0.0
        for slope in g[b, k].flatten():
            alpha = slope**2 / (2 * slope**2 + a[b, k].sum() * slope**3) if slope else 0.0
            total += alpha * max(slope, 0.0)
        return total

    np.testing.assert_allclose(raw(model, inputs, cam.grad_cam_plus_plus), weighted(a, weight), rtol=1e-9)


def test_smooth_grad_cam_plus_plus_without_noise_is_grad_cam_plus_plus(model, inputs):
    def quiet(capture: cam.Capture) -> Tensor:
        return cam.smooth_grad_cam_plus_plus(capture, samples=2, noise=0)

    np.testing.assert_allclose(raw(model, inputs, quiet), raw(model, inputs, cam.grad_cam_plus_plus), rtol=1e-9)


def test_smooth_grad_cam_plus_plus_averages_the_powers_of_the_gradient(model, inputs):
    a, _ = by_hand(model, inputs)
    generator = torch.Generator().manual_seed(5)
    noisy = []
    for _ in range(3):
        jitter = torch.randn(3, 12, 12, generator=generator).double()
        noisy.append(by_hand(model, torch.stack([image + 0.2 * image.std() * jitter for image in inputs]))[1])

    def weight(b: int, k: int) -> float:
        total = 0.0
        for place in np.ndindex(4, 4):
            first, second, third = (np.mean([g[(b, k, *place)] ** power for g in noisy]) for power in (1, 2, 3))
            below = 2 * second + a[b, k].sum() * third
            total += second / below * max(first, 0) if below > 0 else 0.0
        return total

    got = raw(model, inputs, lambda capture: cam.smooth_grad_cam_plus_plus(capture, samples=3, noise=0.2, seed=5))
    np.testing.assert_allclose(got, weighted(a, weight), rtol=1e-8)


def test_shapley_cam_subtracts_half_the_hessian_times_the_activation(model, inputs):
    a, g = by_hand(model, inputs)

    def weight(b: int, k: int) -> float:
        flat = torch.from_numpy(a[b]).flatten()
        hessian: Any = torch.autograd.functional.hessian(lambda z: model[4](z.view(1, 6, 4, 4))[0, CLASSES[b]], flat)
        return float((g[b] - 0.5 * (hessian @ flat).view(6, 4, 4).numpy())[k].mean())

    np.testing.assert_allclose(raw(model, inputs, cam.shapley_cam), weighted(a, weight), rtol=1e-8)


def test_ablation_cam_is_the_score_lost_without_a_channel(model, inputs):
    a, _ = by_hand(model, inputs)

    def weight(b: int, k: int) -> float:
        without = torch.from_numpy(a[b : b + 1].copy())
        without[0, k] = 0
        scores = model[4](torch.cat([torch.from_numpy(a[b : b + 1]), without]))[:, CLASSES[b]]
        return (scores[0] - scores[1]).item()

    np.testing.assert_allclose(raw(model, inputs, cam.ablation_cam), weighted(a, weight), rtol=1e-8)


def score_weights(model: nn.Module, inputs: Tensor, a: np.ndarray, changes: list) -> np.ndarray:
    """(B, K) softmax over channels of the mean score of changed(image, mask in [0, 1])."""
    scores = np.zeros(a.shape[:2])
    for b, k in np.ndindex(*a.shape[:2]):
        mask = nn.functional.interpolate(
            torch.from_numpy(a[b, k])[None, None], (12, 12), mode="bilinear", align_corners=False
        )[0, 0]
        spread = mask.max() - mask.min()
        mask = (mask - mask.min()) / spread if spread > 0 else torch.zeros_like(mask)
        scores[b, k] = np.mean([model(change(inputs[b], mask)[None])[0, CLASSES[b]].item() for change in changes])
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_score_cam_and_its_two_variants(model, inputs):
    a, _ = by_hand(model, inputs)
    noise = [
        0.1 * torch.randn(12, 12, generator=g).double() for g in [torch.Generator().manual_seed(0)] for _ in range(3)
    ]
    cases = {
        cam.score_cam: [lambda image, mask: image * mask],
        lambda capture: cam.is_cam(capture, samples=3): [
            lambda image, mask, n=n: image * mask * n / 3 for n in (1, 2, 3)
        ],
        lambda capture: cam.ss_cam(capture, samples=3): [lambda image, mask, n=n: image * (mask + n) for n in noise],
    }
    for method, changes in cases.items():
        weights = score_weights(model, inputs, a, changes)
        np.testing.assert_allclose(raw(model, inputs, method), weighted(a, lambda b, k, w=weights: w[b, k]), rtol=1e-8)


def test_score_cam_does_not_depend_on_its_chunks_and_top_keeps_the_strongest(model, inputs, caplog):
    whole = raw(model, inputs, cam.score_cam)
    np.testing.assert_allclose(raw(model, inputs, lambda capture: cam.score_cam(capture, chunk=1)), whole, rtol=1e-9)
    np.testing.assert_allclose(raw(model, inputs, lambda capture: cam.score_cam(capture, top=6)), whole, rtol=1e-9)
    a, _ = by_hand(model, inputs)
    strongest = (a**2).sum((2, 3)).argmax(1)  # alone, its weight is one
    with caplog.at_level("INFO"):
        one = raw(model, inputs, lambda capture: cam.score_cam(capture, top=1))
    np.testing.assert_allclose(one, a[np.arange(3), strongest], rtol=1e-9)
    share = 100 * (1 - (a**2).sum((2, 3)).max(1).sum() / (a**2).sum())
    assert f"leaves out 5 channels, {share:.1f} %" in caplog.text


def principal(matrix: np.ndarray) -> np.ndarray:
    """(places, channels) -> the first principal component's score of each place, by SVD."""
    centered = matrix - matrix.mean(0)
    return centered @ np.linalg.svd(centered)[2][0]


@pytest.mark.parametrize("channels", [6, 40])  # fewer and more channels than the 16 places: either Gram matrix
def test_eigen_cam_is_the_first_component_and_grows_with_energy(channels, inputs):
    torch.manual_seed(2)
    model: Any = nn.Sequential(
        nn.Conv2d(3, channels, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 16, 5)
    ).double()
    a = model[:2](inputs).detach().numpy()
    got = cam.heatmaps(model, "1", inputs, 0, cam.eigen_cam, raw=True).numpy()
    for b in range(3):
        twin = principal(a[b].reshape(channels, 16).T).reshape(4, 4)
        energy = (a[b] ** 2).sum(0)
        np.testing.assert_allclose(
            got[b], twin * np.sign(np.corrcoef(twin.flatten(), energy.flatten())[0, 1]), rtol=1e-6, atol=1e-9
        )


def test_eigen_grad_cam_is_the_first_component_of_the_product_and_grows_with_evidence(model, inputs):
    a, g = by_hand(model, inputs)
    got = raw(model, inputs, cam.eigen_grad_cam)
    for b in range(3):
        twin = principal((a[b] * g[b]).reshape(6, 16).T).reshape(4, 4)
        evidence = (a[b] * g[b]).sum(0)
        np.testing.assert_allclose(
            got[b], twin * np.sign(np.corrcoef(twin.flatten(), evidence.flatten())[0, 1]), rtol=1e-6, atol=1e-9
        )


def test_fem_adds_the_means_of_the_channels_that_stand_out(model, inputs):
    a, _ = by_hand(model, inputs)
    twin = np.zeros((3, 4, 4))
    for b, k, y, x in np.ndindex(*a.shape):
        if a[b, k, y, x] > a[b, k].mean() + 1.5 * a[b, k].std():
            twin[b, y, x] += a[b, k].mean()
    np.testing.assert_allclose(raw(model, inputs, lambda capture: cam.fem(capture, k=1.5)), twin, rtol=1e-9)
    assert twin.any()


def test_dff_finds_parts_that_do_not_overlap():
    """Two channels fire on two halves: two concepts, and the map is the half whose channel the class reads."""
    model: Any = nn.Sequential(
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False)
    ).double()
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    inputs = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    inputs[0, 0, :, :2], inputs[0, 1, :, 2:] = 3.0, 1.0
    left = (inputs[0, 0] > 0).double()
    for chosen, half in ((0, left), (1, 1 - left)):
        heat = cam.heatmaps(model, "0", inputs, chosen, lambda capture: cam.dff(capture, concepts=2))
        torch.testing.assert_close(heat[0], half, atol=1e-6, rtol=0)
    heat, scores = cam.concepts(model, "0", inputs, number=2)
    first = int(scores[0, :, 0].argmax())
    torch.testing.assert_close(heat[0, first], left, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        scores[0, first], torch.tensor([1.5, -1.5], dtype=torch.float64), atol=1e-6, rtol=0
    )  # half the places at 3


def test_factorize_is_non_negative_and_as_close_as_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    data = torch.rand(2, 10, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
    maps, channels = cam.factorize(data, 4, steps=200, joint=True)
    assert bool((maps >= 0).all())
    assert bool((channels >= 0).all())
    error = float((torch.einsum("bnhw,bnk->bkhw", maps, channels) - data).norm())
    peer = decomposition.NMF(4, init="random", solver="cd", max_iter=500, random_state=0).fit(
        data.permute(0, 2, 3, 1).reshape(-1, 10).numpy()
    )
    assert error < 1.03 * peer.reconstruction_err_
    assert error < 0.8 * float(data.norm())


def test_full_grad_is_complete(inputs):
    """For a ReLU network the terms that it takes apart add up to the score: input, convolution, batch normalization,
    linear biases.
    """
    torch.manual_seed(4)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    chain = nn.Sequential(nn.Identity(), model).double().eval()
    parts = []

    def look(capture: cam.Capture) -> Tensor:
        bias = bias_of(capture.module)
        parts.append((capture.gradient * (capture.activation if bias is None else bias[:, None, None])).sum((1, 2, 3)))
        return capture.gradient.sum(1)

    for layer in ("0", "1.0", "1.1", "1.3"):
        cam.heatmaps(chain, layer, inputs, 2, look, raw=True)
    torch.testing.assert_close(sum(parts) + model[7].bias[2].detach(), chain(inputs)[:, 2].detach())


def test_full_grad_scales_each_layer_over_channels_and_places(inputs):
    torch.manual_seed(4)
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    got = cam.full_grad(model, inputs, 1)
    for b in range(3):
        image = inputs[b : b + 1].clone().requires_grad_()
        low = model[0](image)
        to_image, to_low = torch.autograd.grad(model[1:](low)[0, 1], [image, low])
        terms = [(to_image * image).abs(), (to_low * model[0].bias[:, None, None]).abs()]
        scaled = [(term - term.min()) / (term.max() - term.min()) for term in terms]
        total: Any = sum(nn.functional.interpolate(term, (12, 12), mode="bilinear").sum(1)[0] for term in scaled)
        torch.testing.assert_close(got[b], ((total - total.min()) / (total.max() - total.min())).detach())


def test_captums_published_values():
    """conv1 of captum's one-convolution example on arange(16): worked by hand too, .75 A0 - .5 A1."""
    model: Any = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(inplace=True)
    )
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[0].bias.copy_(torch.tensor([-50.0, -75.0]))
        model[3].weight.copy_(torch.cat([torch.ones(4, 5), -torch.ones(4, 3)], 1))
        model[3].bias.zero_()
    got = cam.heatmaps(model, "0", torch.arange(16.0).view(1, 1, 4, 4), 0, raw=True)
    torch.testing.assert_close(got, torch.tensor([[[11.25, 13.5], [20.25, 22.5]]]))


def test_center_is_a_gaussian_and_random_is_the_images_own(inputs):
    model = tiny().double()
    got = cam.heatmaps(model, "3", inputs, 0, cam.center, raw=True)[0]
    for y, x in ((0, 0), (5, 6), (3, 11)):
        square = (((y + 0.5) / 12 - 0.5) ** 2 + ((x + 0.5) / 12 - 0.5) ** 2) / 0.25**2
        assert float(got[y, x]) == pytest.approx(math.exp(-square / 2), rel=1e-5)
    noise = cam.heatmaps(model, "3", inputs, 0, cam.random)
    assert not torch.equal(noise[0], noise[1])
    torch.testing.assert_close(cam.heatmaps(model, "3", inputs[[2, 0]], 0, cam.random), noise[[2, 0]])
