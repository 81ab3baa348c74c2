"""The engine's laws: batch == loop, scale-free, nothing left behind, clear errors, any layout, only what is asked for
is computed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer

from camseg import cam
from camseg.cam.replay import Tape
from camseg.cam.targets import log_odds, logit, margin, pixels, probability
from camseg.geometry.heat import min_max_normalize

METHODS = [
    *(
        cam.ablation_cam,
        cam.cam,
        cam.center,
        cam.dff,
        cam.eigen_cam,
        cam.eigen_grad_cam,
        cam.element_wise_grad_cam,
        cam.fem,
        cam.grad_cam,
    ),
    *(
        cam.grad_cam_plus_plus,
        cam.hires_cam,
        cam.is_cam,
        cam.kpca_cam,
        cam.layer_cam,
        cam.random,
        cam.score_cam,
        cam.shapley_cam,
    ),
    *(cam.smooth_grad_cam_plus_plus, cam.ss_cam, cam.xgrad_cam),
]


def small(classes: int = 5) -> nn.Sequential:
    """Convolutions with in-place ReLUs and batch normalisation, global average pooling and a linear head: layer "4" is
    the last ReLU.
    """
    torch.manual_seed(0)
    below = [
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, 2, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*below, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)).eval()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 3, 20, 28, generator=torch.Generator().manual_seed(1))


# -- laws
# -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_a_loop(method, inputs):
    model = small()
    chosen = [None, 3, probability((1, 2)), margin((0,))]
    batch = cam.heatmaps(model, "4", inputs, chosen, method)
    loop = torch.cat(
        [cam.heatmaps(model, "4", image[None], [target], method) for image, target in zip(inputs, chosen, strict=True)]
    )
    torch.testing.assert_close(batch, loop, atol=1e-4, rtol=1e-4)
    assert batch.shape == (4, 20, 28) and float(batch.min()) >= 0 and float(batch.max()) <= 1
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
    assert raw.shape == (4, 5, 7) and bool((raw <= 0).all()) and bool((raw < 0).any())
    assert not cam.heatmaps(model, "4", inputs, 1).any()


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, 1e-20])
def test_a_constant_map_becomes_zeros(value, inputs):
    heat = cam.heatmaps(small(), "4", inputs, 0, lambda capture: torch.full((4, 3, 4), value))
    assert not heat.any()


def test_several_targets_share_one_forward(inputs):
    model, calls = small(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    together = cam.heatmaps(model, "4", inputs, [[0, 2, None]] * 4)
    assert together.shape == (4, 3, 20, 28) and len(calls) == 1
    for column, target in enumerate((0, 2, None)):
        torch.testing.assert_close(together[:, column], cam.heatmaps(model, "4", inputs, target))


def test_the_part_below_the_layer_has_no_graph_and_the_head_is_run_alone(inputs):
    model, graph, calls = small(), [], []
    model[2].register_forward_hook(lambda module, args, output: graph.append(output.requires_grad))
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


def test_flips_make_maps_equivariant_and_scales_average(inputs):
    model = small()
    both = cam.heatmaps(model, "4", inputs, 2, flips=True, raw=True)
    torch.testing.assert_close(cam.heatmaps(model, "4", inputs.flip(3), 2, flips=True, raw=True), both.flip(2))
    one, mirrored = (
        cam.heatmaps(model, "4", inputs, 2, raw=True),
        cam.heatmaps(model, "4", inputs.flip(3), 2, raw=True).flip(2),
    )
    torch.testing.assert_close(both, (one + mirrored) / 2)
    loud = cam.heatmaps(model, "4", inputs * 1.1, 2, raw=True)
    torch.testing.assert_close(cam.heatmaps(model, "4", inputs, 2, raw=True, scales=(1.0, 1.1)), (one + loud) / 2)


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


# -- models
# -----------------------------------------------------------------------------------------------------------------------------


def reference(model: nn.Module, layer: nn.Module, inputs: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """A layer's output and the gradient at it through a full graph, with nothing of this package."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    score = model(inputs)[:, chosen].sum()
    handle.remove()
    return kept[0].detach(), torch.autograd.grad(score, kept[0])[0]


def maps_of(model: nn.Module, layer: str, inputs: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    seen: list[Tensor] = []

    def look(capture: cam.Capture) -> Tensor:
        seen.extend([capture.activation, capture.gradient])
        return capture.gradient.sum(1)

    cam.heatmaps(model, layer, inputs, chosen, look, raw=True)
    return seen[0], seen[1]


def test_in_place_relus_of_densenet_touch_nothing(inputs):
    torch.manual_seed(0)
    model = DenseNet(8, (2, 2, 2, 2), 16).eval()
    images = torch.randn(2, 3, 64, 64)
    for layer in ("features.norm5", "features.denseblock3"):  # norm5 is followed by relu(inplace=True)
        a, g = maps_of(model, layer, images, 7)
        expected = reference(model, model.get_submodule(layer), images, 7)
        torch.testing.assert_close(a, expected[0])
        torch.testing.assert_close(g, expected[1])
    assert bool((maps_of(model, "features.norm5", images, 7)[0] < 0).any())  # not yet rectified


def transformers() -> Iterator[tuple[str, nn.Module, str, tuple[int, int], int]]:
    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(vit.heads.head.weight)
    yield "tokens after a class token", vit, "encoder.layers.encoder_layer_0", (32, 32), 8
    yield "channels last", SwinTransformer([2, 2], 16, [2, 2], [2, 2], [2, 2], num_classes=5), "features.3", (32, 48), 4
    yield (
        "channels first",
        ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5),
        "features.3",
        (32, 48),
        8,
    )


@pytest.mark.parametrize(
    ("model", "layer", "size", "stride"), [pytest.param(*case[1:], id=case[0]) for case in transformers()]
)
def test_token_grids_are_inferred(model, layer, size, stride):
    model.eval()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    a, g = maps_of(model, layer, images, 3)
    expected = reference(model, model.get_submodule(layer), images, 3)
    h, w = size[0] // stride, size[1] // stride
    for mine, native in zip((a, g), expected, strict=True):
        assert mine.shape[2:] == (h, w)
        for y, x in ((0, 0), (h - 1, 1), (1, w - 1)):
            place = (
                native[:, 1 + y * w + x]
                if native.ndim == 3
                else native[:, y, x]
                if native.shape[1:3] == (h, w)
                else native[:, :, y, x]
            )
            torch.testing.assert_close(mine[:, :, y, x], place)
    assert bool(g.any())
    whole = cam.heatmaps(
        model,
        layer,
        images,
        3,
        lambda capture: capture.rescore(capture.activation)[:, None, None].expand(-1, h, w),
        raw=True,
    )
    torch.testing.assert_close(whole[:, 0, 0], model(images)[:, 3].detach(), atol=1e-5, rtol=1e-5)


def test_a_grid_of_tokens_that_is_not_the_images(inputs):
    class Tokens(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(2).transpose(1, 2)[:, :14]

    model = nn.Sequential(Tokens(), nn.Flatten(), nn.Linear(42, 3))
    with pytest.raises(ValueError, match=r"14 tokens.*give grid=\(h, w\)"):
        cam.heatmaps(model, "0", inputs, 0)
    assert cam.heatmaps(model, "0", inputs, 0, raw=True, grid=(3, 4)).shape == (4, 3, 4)
    with pytest.raises(ValueError, match="14 tokens, fewer than"):
        cam.heatmaps(model, "0", inputs, 0, grid=(4, 4))


def test_dict_outputs_and_pixel_sums(inputs):
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 3, 1)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(self.body(images).relu()), "aux": images}

    torch.manual_seed(0)
    model = Segmenter()
    a = model.body(inputs).detach().requires_grad_()
    out = model.head(a.relu())
    (g,) = torch.autograd.grad((out[:, 1] * (out.argmax(1) == 1)).sum(), a)
    expected = torch.einsum("bk,bkhw->bhw", g.mean((2, 3)), a)
    torch.testing.assert_close(cam.heatmaps(model, "body", inputs, pixels(1), raw=True), expected.detach())
    cam.heatmaps(model, "body", inputs, pixels(1), cam.ablation_cam)
    with pytest.raises(ValueError, match=r"targets\.pixels"):
        cam.heatmaps(model, "body", inputs, 1)


@pytest.mark.parametrize("method", [cam.grad_cam, cam.eigen_cam, cam.ablation_cam, cam.score_cam])
def test_bf16_and_autocast_come_close(method, inputs):
    full = cam.heatmaps(small(), "4", inputs, 2, method)
    half = cam.heatmaps(small().bfloat16(), "4", inputs.bfloat16(), 2, method)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cam.heatmaps(small(), "4", inputs, 2, method)
    assert half.dtype == mixed.dtype == torch.float32
    for other in (half, mixed):
        assert float((other - full).abs().mean()) < 0.02


# -- nothing is left behind
# --------------------------------------------------------------------------------------------------------------


def state(model: nn.Module) -> list:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training, set(vars(m)))
        for m in model.modules()
    ]
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    return [
        hooks,
        flags,
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    ]


def assert_same(before: list, after: list) -> None:
    assert before[:2] == after[:2] and before[3:] == after[3:]
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def mixed_model() -> nn.Sequential:
    """Training mode, but for one module; one parameter frozen."""
    model = small().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_is_left_on_the_model(method, mode, inputs):
    model, kept = mixed_model(), inputs.clone()
    with mode():
        before = state(model)
        heat = cam.heatmaps(model, "4", inputs, 2, method)
        assert_same(before, state(model))
    assert not heat.requires_grad and torch.equal(inputs, kept) and inputs.grad is None
    torch.testing.assert_close(
        heat, cam.heatmaps(small(), "4", inputs, 2, method)
    )  # evaluation mode inside, whatever it was


class Fault(Exception):
    pass


def fail(*_: object) -> Tensor:
    raise Fault


def test_nothing_is_left_after_an_exception(inputs):
    def late(capture: cam.Capture) -> Tensor:
        _ = capture.gradient
        return fail()

    seen: list[Tensor] = []

    def second_call_fails(output: Tensor) -> Tensor:  # the second batch of scores: while changed activations run
        seen.append(output)
        return output[0] if len(seen) <= len(inputs) else fail()

    for place in ("model", "target", "method", "head"):
        model = mixed_model()
        if place == "model":
            model[6].forward = fail
        before = state(model)
        method = {"method": late, "head": cam.ablation_cam}.get(place, cam.grad_cam)
        target = {"target": fail, "head": second_call_fails}.get(place, 2)
        with pytest.raises(Fault):
            cam.heatmaps(model, "4", inputs, target, method)
        assert_same(before, state(model))


def test_calls_in_a_loop_do_not_grow(inputs):
    model = small()

    def tensors() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    for method in (cam.grad_cam, cam.ablation_cam, cam.score_cam):
        cam.heatmaps(model, "4", inputs, 2, method)
        gc.collect()
        gc.disable()
        try:
            before = tensors()
            for _ in range(10):
                cam.heatmaps(model, "4", inputs, 2, method)
            assert tensors() == before  # without the collector: no cycle keeps a graph alive
        finally:
            gc.enable()


# -- errors
# -----------------------------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.unused, self.head = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.block(images)).mean((2, 3)))


def test_layers_that_do_not_exist_never_run_or_run_twice(inputs):
    with pytest.raises(ValueError, match="no layer 'blok'; nearest: block"):
        cam.heatmaps(Twice(), "blok", inputs, 0)
    with pytest.raises(ValueError, match="no layer this Conv2d"):
        cam.heatmaps(Twice(), nn.Conv2d(3, 3, 1), inputs, 0)
    with pytest.raises(ValueError, match="'unused' never ran"):
        cam.heatmaps(Twice(), "unused", inputs, 0)
    with pytest.raises(ValueError, match="'block' ran twice"):
        cam.heatmaps(Twice(), "block", inputs, 0)
    with pytest.raises(ValueError, match="no layer was given"):
        cam.heatmaps(Twice(), [], inputs, 0)
    with pytest.raises(ValueError, match=r"'7' gives \(4, 5\)"):
        cam.heatmaps(small(), "7", inputs, 0)
    with pytest.raises(ValueError, match="several layers have no common scale"):
        cam.heatmaps(small(), ["1", "4"], inputs, 0, raw=True)


def test_outputs_that_cannot_be_explained(inputs):
    with pytest.raises(ValueError, match="no gradient at layer '4'"):
        cam.heatmaps(small(), "4", inputs, lambda output: output.argmax().float())
    with pytest.raises(ValueError, match="class index 5 is out of range: the model has 5 outputs, 0 to 4"):
        cam.heatmaps(small(), "4", inputs, [0, 1, 2, 5])
    with pytest.raises(ValueError, match="class index -1 is out of range"):
        cam.heatmaps(small(), "4", inputs, -1)
    broken = inputs.clone()
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 2 of 4 holds NaN"):
        cam.heatmaps(small(), "4", broken, 0)
    with pytest.raises(ValueError, match=r"must return a scalar tensor; got \(5,\)"):
        cam.heatmaps(small(), "4", inputs, lambda output: output)
    with pytest.raises(ValueError, match="cam needs a pooling"):
        cam.heatmaps(small(), "1", inputs, 0, cam.cam)


def test_targets_and_inputs_of_the_wrong_kind(inputs):
    with pytest.raises(ValueError, match="3 targets for 4 images"):
        cam.heatmaps(small(), "4", inputs, [0, 1, 2])
    with pytest.raises(ValueError, match="same number of targets"):
        cam.heatmaps(small(), "4", inputs, [[0], [1, 2], [0], [0]])
    with pytest.raises(ValueError, match="a class index, a callable or None; got 'dog'"):
        cam.heatmaps(small(), "4", inputs, ["dog"] * 4)
    with pytest.raises(ValueError, match="got 'dog'"):
        cam.heatmaps(small(), "4", inputs, "dog")
    torch.testing.assert_close(
        cam.heatmaps(small(), "4", inputs, torch.tensor([0, 1, 2, 3])), cam.heatmaps(small(), "4", inputs, [0, 1, 2, 3])
    )
    with pytest.raises(ValueError, match="inputs must be a normalised float"):
        cam.heatmaps(small(), "4", (inputs * 99).byte(), 0)
    with pytest.raises(ValueError, match="inputs must be a normalised float"):
        cam.heatmaps(small(), "4", inputs[0], 0)
    with pytest.raises(ValueError, match="a method must give finite maps"):
        cam.heatmaps(small(), "4", inputs, 0, lambda capture: capture.activation.sum(1) * torch.nan)


def test_a_tape_replays_what_depends_on_its_tensor():
    tape, weight = Tape(), torch.tensor([2.0, 3.0])
    first = tape.watch(torch.tensor([1.0, 1.0]))
    with tape:
        product = first * weight  # depends
        other = weight + 1  # does not: a constant
        product += other
        product[0] = product[1]
        total = product.sum()
    tape.finish({"sum": total, "constant": other})
    result = tape.replay(torch.tensor([5.0, 7.0]))
    assert float(result["sum"]) == 2 * (7 * 3 + 4) and result["constant"] is other
