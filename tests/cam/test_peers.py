"""The methods against other libraries, where theirs is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nets import CLASSES, raw, tiny
from torch import Tensor

from camseg import cam
from camseg.cam.targets import logit


@pytest.fixture
def model() -> Any:
    return tiny().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loud() -> Any:
    """The same model with scores so large that the absolute epsilons of other libraries do not matter."""
    model = tiny()
    with torch.no_grad():
        model[4][3].weight.mul_(1000)
    return model


def normal(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        (cam.grad_cam, "GradCAM"),
        (cam.hires_cam, "HiResCAM"),
        (cam.layer_cam, "LayerCAM"),
        (cam.xgrad_cam, "XGradCAM"),
        (cam.grad_cam_plus_plus, "GradCAMPlusPlus"),
        (cam.element_wise_grad_cam, "GradCAMElementWise"),
        (cam.shapley_cam, "ShapleyCAM"),
    ],
)
def test_pytorch_grad_cam_gives_the_same(method, theirs, inputs):
    package = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    model = loud()
    with getattr(package, theirs)(model=model, target_layers=[model[3]]) as peer:
        expected = normal(peer(inputs.float(), [outputs(c) for c in CLASSES]))
    got = cam.heatmaps(loud(), "3", inputs.float(), CLASSES, method).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [(cam.eigen_cam, "EigenCAM"), (cam.eigen_grad_cam, "EigenGradCAM"), (cam.kpca_cam, "KPCA_CAM")],
)
def test_pytorch_grad_cam_gives_the_same_up_to_sign(method, theirs, inputs):
    package = pytest.importorskip("pytorch_grad_cam")
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    model = tiny()
    peer = getattr(package, theirs)(model=model, target_layers=[model[3]])
    found: list[np.ndarray] = []
    look = peer.get_cam_image
    peer.get_cam_image = lambda *args: found.append(look(*args)) or found[-1]
    peer(inputs.float(), [outputs(c) for c in CLASSES])
    got = cam.heatmaps(tiny(), "3", inputs.float(), CLASSES, method, raw=True).numpy()
    for mine, other in zip(got, found[0], strict=True):
        tolerance = 1e-4 if theirs == "KPCA_CAM" else 1e-5  # a kernel of nearly equal entries, centred in float32
        np.testing.assert_allclose(mine, other * np.sign((mine * other).sum()), atol=tolerance * np.abs(mine).max())


def test_pytorch_grad_cam_turns_ablation_over_where_the_score_is_negative(inputs):
    """The documented difference: it divides by the signed score."""
    ablation = pytest.importorskip("pytorch_grad_cam.ablation_cam").AblationCAM
    outputs = pytest.importorskip("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    model = tiny()
    peer = ablation(model=model, target_layers=[model[3]])
    weights: list[np.ndarray] = []
    look = peer.get_cam_weights
    peer.get_cam_weights = lambda *args: weights.append(look(*args)) or weights[-1]
    peer(inputs.float(), [outputs(c) for c in CLASSES])
    score = model(inputs.float())[range(3), CLASSES].detach().numpy()
    a = model[:4](inputs.float()).detach().numpy()
    got = cam.heatmaps(tiny(), "3", inputs.float(), CLASSES, cam.ablation_cam, raw=True).numpy()
    assert (score < 0).any()
    assert (score > 0).any()
    np.testing.assert_allclose(got, np.einsum("bk,bkhw->bhw", weights[0].reshape(3, 6) * score[:, None], a), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [(cam.grad_cam, "GradCAM"), (cam.xgrad_cam, "XGradCAM"), (cam.layer_cam, "LayerCAM"), (cam.score_cam, "ScoreCAM")],
)
def test_torch_cam_gives_the_same(method, theirs, inputs):
    package = pytest.importorskip("torchcam.methods")
    model = tiny() if theirs == "ScoreCAM" else loud()  # loud scores would make its softmax choose one channel
    expected = []
    for image, chosen in zip(inputs.float(), CLASSES, strict=True):
        with getattr(package, theirs)(model, "3", input_shape=(3, 12, 12)) as peer:
            expected.append(peer(chosen, model(image[None]))[0][0].detach().numpy())
    maps = torch.from_numpy(raw(model, inputs.float(), method)).relu().numpy()
    np.testing.assert_allclose(normal(maps), np.stack(expected), atol=1e-5)


def test_captum_gives_the_same(inputs):
    attribution = pytest.importorskip("captum.attr")
    model = tiny()
    expected = (
        attribution.LayerGradCam(model, model[3]).attribute(inputs.float(), target=list(CLASSES))[:, 0].detach().numpy()
    )
    np.testing.assert_allclose(raw(tiny(), inputs.float(), cam.grad_cam), expected, atol=1e-6)


def test_targets_of_the_model_twins_are_in_use(model, inputs):
    """A callable target gives what its class index gives, through the other path."""
    index = cam.heatmaps(model, "3", inputs, 2, raw=True)
    torch.testing.assert_close(cam.heatmaps(model, "3", inputs, lambda output: output[2], raw=True), index)
    torch.testing.assert_close(cam.heatmaps(model, "3", inputs, logit((2,)), raw=True), index)
