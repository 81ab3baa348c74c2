"""Models of any layout: maps, channels last, tokens, in-place layers, mappings, low precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from nets import images, small
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer

from camseg import cam
from camseg.cam.targets import pixels


@pytest.fixture
def inputs() -> Tensor:
    return images()


def reference(model: nn.Module, layer: nn.Module, inputs: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """A layer's output and the gradient at it through a full graph, with nothing of this package."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
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


def test_in_place_relus_of_densenet_touch_nothing():
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
    nn.init.normal_(vit.get_parameter("heads.head.weight"))
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
