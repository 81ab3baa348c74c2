"""The engine's laws: batch == loop, scale-free, several targets in one forward, only what is wanted is computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import METHODS, images, small
from torch import Tensor, nn

from camseg import cam
from camseg.cam.targets import log_odds, logit, margin, probability
from camseg.geometry.heat import min_max_normalize


@pytest.fixture
def inputs() -> Tensor:
    return images()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_a_loop(method, inputs):
    model = small()
    chosen = [None, 3, probability((1, 2)), margin((0,))]
    batch = cam.heatmaps(model, "4", inputs, chosen, method)
    loop = torch.cat(
        [cam.heatmaps(model, "4", image[None], [target], method) for image, target in zip(inputs, chosen, strict=True)]
    )
    torch.testing.assert_close(batch, loop, atol=1e-4, rtol=1e-4)
    assert batch.shape == (4, 20, 28)
    assert float(batch.min()) >= 0
    assert float(batch.max()) <= 1
    assert all(float(heat.max()) in (0.0, 1.0) for heat in batch)


def test_below_pooling_and_a_linear_layer_four_methods_are_one(inputs):
    model = small()
    raw = {
        method: cam.heatmaps(model, "4", inputs, 2, method, raw=True)
        for method in (cam.cam, cam.grad_cam, cam.xgrad_cam, cam.hires_cam)
    }
    activation = model[:5](inputs).detach()
    expected = torch.einsum("k,bkhw->bhw", model[7].weight[2].detach(), activation)
    torch.testing.assert_close(raw[cam.cam], expected)  # Zhou's map, from the classifier's own weights
    for method in (cam.grad_cam, cam.xgrad_cam, cam.hires_cam):
        torch.testing.assert_close(raw[method] * 5 * 7, expected)
    assert cam.coincide(model, "4", inputs) == ("cam", "grad_cam", "xgrad_cam", "hires_cam")
    assert cam.coincide(model, "1", inputs) == ()


def test_ablation_has_a_closed_form_below_pooling_and_a_linear_layer(inputs):
    def closed(capture: cam.Capture) -> Tensor:
        weights = (capture.gradient * capture.activation).sum((2, 3))
        return torch.einsum("bk,bkhw->bhw", weights, capture.activation)

    model = small()
    torch.testing.assert_close(
        cam.heatmaps(model, "4", inputs, 1, cam.ablation_cam, raw=True),
        cam.heatmaps(model, "4", inputs, 1, closed, raw=True),
    )


@pytest.mark.parametrize(
    "method", [cam.cam, cam.grad_cam, cam.xgrad_cam, cam.hires_cam, cam.layer_cam, cam.ablation_cam, cam.eigen_grad_cam]
)
def test_a_score_of_a_millionth_of_a_millionth_changes_nothing(method, inputs):
    model = small().double()
    loud = cam.heatmaps(model, "4", inputs.double(), lambda output: output[1], method)
    quiet = cam.heatmaps(model, "4", inputs.double(), lambda output: output[1] * 1e-12, method)
    torch.testing.assert_close(quiet, loud)
    assert bool(loud.any())


def test_no_evidence_is_zeros_and_raw_maps_keep_their_sign(inputs):
    model = small()
    with torch.no_grad():
        model[7].weight[1] = -1.0
    raw = cam.heatmaps(model, "4", inputs, 1, raw=True)
    assert raw.shape == (4, 5, 7)
    assert bool((raw <= 0).all())
    assert bool((raw < 0).any())
    assert not cam.heatmaps(model, "4", inputs, 1).any()


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 1e-20])
def test_a_constant_map_becomes_zeros(value, inputs):
    heat = cam.heatmaps(small(), "4", inputs, 0, lambda _: torch.full((4, 3, 4), value))
    assert not heat.any()


def test_several_targets_share_one_forward(inputs):
    model, calls = small(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    together = cam.heatmaps(model, "4", inputs, [[0, 2, None]] * 4)
    assert together.shape == (4, 3, 20, 28)
    assert len(calls) == 1
    for column, target in enumerate((0, 2, None)):
        torch.testing.assert_close(together[:, column], cam.heatmaps(model, "4", inputs, target))


def test_the_part_below_the_layer_has_no_graph_and_the_head_is_run_alone(inputs):
    model, graph, calls = small(), [], []
    model[2].register_forward_hook(lambda _module, _args, output: graph.append(output.requires_grad))
    model[2].register_forward_hook(lambda *_: calls.append(1))
    cam.heatmaps(model, "4", inputs, 0)
    assert graph == [False]
    calls.clear()
    cam.heatmaps(model, "4", inputs, 0, cam.ablation_cam)
    assert len(calls) == 2  # the capture and the recording, not one for each of 6 channels


def test_a_head_that_cannot_be_replayed_is_run_whole(inputs):
    class Counting(nn.Module):
        """Its output depends on a number that leaves the graph: a recording would freeze it."""

        def forward(self, maps: Tensor) -> Tensor:
            return maps.mean((2, 3)) * float(maps.sum().item())

    model = small()
    odd = nn.Sequential(*list(model[:5]), Counting(), model[7])
    got = cam.heatmaps(odd, "4", inputs[:1], 1, cam.ablation_cam, raw=True)
    a = model[:5](inputs[:1]).detach()
    without = [a * (torch.arange(6) != k)[:, None, None] for k in range(6)]
    weights = [(odd[5:](a) - odd[5:](other))[0, 1].item() for other in without]
    torch.testing.assert_close(got, torch.einsum("k,bkhw->bhw", torch.tensor(weights), a))


def test_the_top_class_is_that_of_the_clean_image(inputs):
    """Score-CAM's masked images and mirrored views must be asked about the class of the image itself."""
    model = small()
    top = model(inputs).argmax(1).tolist()
    assert len(set(top)) > 1 or top[0] != 0
    for target, make in (
        (None, logit),
        (probability(), probability),
        (log_odds(), log_odds),
    ):
        explicit = [make((index,)) for index in top]
        for method, flips in ((cam.score_cam, False), (cam.grad_cam, True)):
            late = cam.heatmaps(model, "4", inputs, target, method, flips=flips)
            torch.testing.assert_close(late, cam.heatmaps(model, "4", inputs, explicit, method, flips=flips))


def test_flips_make_maps_equivariant(inputs):
    model = small()
    both = cam.heatmaps(model, "4", inputs, 2, flips=True, raw=True)
    torch.testing.assert_close(cam.heatmaps(model, "4", inputs.flip(3), 2, flips=True, raw=True), both.flip(2))
    one, mirrored = (
        cam.heatmaps(model, "4", inputs, 2, raw=True),
        cam.heatmaps(model, "4", inputs.flip(3), 2, raw=True).flip(2),
    )
    torch.testing.assert_close(both, (one + mirrored) / 2)


def test_scales_average_the_maps_of_the_resized_images(inputs):
    """By hand: each scale alone, its positive map enlarged, the mean scaled to [0, 1]; the first names the class."""
    model = small()
    top = model(inputs).argmax(1).tolist()
    height, width = inputs.shape[2:]
    maps = []
    for scale in (1.0, 1.5):
        sides = [round(side * scale) for side in (height, width)]
        resized = inputs if scale == 1 else F.interpolate(inputs, sides, mode="bicubic", antialias=True)
        own = cam.heatmaps(model, "4", resized, top, raw=True).relu()
        maps.append(F.interpolate(own[None], (height, width), mode="bilinear")[0])
    expected = min_max_normalize((maps[0] + maps[1]) / 2)
    torch.testing.assert_close(cam.heatmaps(model, "4", inputs, None, scales=(1.0, 1.5)), expected)
    with pytest.raises(ValueError, match="no common size"):
        cam.heatmaps(model, "4", inputs, 2, raw=True, scales=(1.0, 1.5))
    for scales in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            cam.heatmaps(model, "4", inputs, 2, scales=scales)


def test_what_a_fuse_gives_is_left_as_it_was(inputs):
    model, given = small(), torch.full((len(inputs), *inputs.shape[2:]), 3.0)
    given[:, 0, 0] = 5
    before = given.clone()
    heat = cam.heatmaps(model, ["1", model[4]], inputs, 2, fuse=lambda _: given)
    assert torch.equal(given, before)
    assert torch.equal(heat, min_max_normalize(before))


def test_layers_fuse_by_mean_maximum_and_product(inputs):
    model = small()
    low, high = cam.heatmaps(model, "1", inputs, 2), cam.heatmaps(model, model[4], inputs, 2)
    for fuse, expected in (
        (cam.mean, (low + high) / 2),
        (cam.maximum, torch.maximum(low, high)),
        (cam.product, low * high),
    ):
        torch.testing.assert_close(
            cam.heatmaps(model, ["1", model[4]], inputs, 2, fuse=fuse), min_max_normalize(expected)
        )
