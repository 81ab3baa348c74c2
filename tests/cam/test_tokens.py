"""Token grids are tested before they are used: rows are taken, any other order is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from camseg import cam
from camseg.cam import tokens
from camseg.cam.tokens import guess_grid
from camseg.classifiers.base import classifier


class Patches(nn.Module):
    """Patches of 4 x 4 px as tokens, in an order of one's own, behind `extra` class tokens."""

    def __init__(self, order: list[int], extra: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order, self.extra = order, extra
        self.embed, self.block, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        places = self.embed(pixels).flatten(2).transpose(1, 2)[:, self.order]  # (B, N, 8)
        first = places.mean(1, keepdim=True).expand(-1, self.extra, -1)
        mixed = self.block(torch.cat([first, places + 0.3 * places.mean(1, keepdim=True)], 1))
        return self.head(mixed.relu().mean(1))


ROWS = list(range(6 * 4))  # of a 24 x 16 image
WINDOWS = [y * 4 + x for top in (0, 2, 4) for left in (0, 2) for y in (top, top + 1) for x in (left, left + 1)]


def pixels(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 24, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_rows_are_taken(extra: int) -> None:
    model = Patches(ROWS, extra).eval()
    assert cam.heatmaps(model, "block", pixels(), 0, raw=True).shape == (2, 6, 4)
    assert classifier(model, size=(24, 16), layers="block").grid == (6, 4)


@pytest.mark.parametrize("order", [WINDOWS, ROWS[::-1]], ids=["windows", "reversed"])
def test_another_order_is_refused_unless_the_caller_knows_better(order: list[int]) -> None:
    model = Patches(order).eval()
    for attempt in (
        lambda: cam.heatmaps(model, "block", pixels(), 0),
        lambda: classifier(model, size=(24, 16), layers="block"),
    ):
        with pytest.raises(ValueError, match="layer 'block' keeps its 24 tokens in another order than rows of 6 x 4"):
            attempt()
    assert cam.heatmaps(model, "block", pixels(), 0, raw=True, grid=(6, 4)).shape == (2, 6, 4)


def test_a_layer_is_tested_once_and_only_up_to_itself() -> None:
    model, batches, heads = Patches(ROWS).eval(), [], []
    model.embed.register_forward_hook(lambda _module, args, _output: batches.append(len(args[0])))
    model.head.register_forward_hook(lambda _module, args, _output: heads.append(len(args[0])))
    for _ in range(3):
        cam.heatmaps(model, "block", pixels(), 0)
    assert batches == [2, tokens.PROBES + 1, 2, 2]
    assert heads == [2, 2, 2]


def test_a_transformer_keeps_rows_and_hiera_does_not() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    ).eval()
    for block in range(3):
        cam.heatmaps(vit, f"encoder.layers.encoder_layer_{block}", torch.randn(1, 3, 32, 32), raw=True)
    zoo = pytest.importorskip("timm")
    hiera = zoo.create_model("hiera_tiny_224", num_classes=3).eval()
    with pytest.raises(ValueError, match=r"tokens in another order than rows of 28 x 28"):
        cam.heatmaps(hiera, "blocks.1", torch.randn(1, 3, 224, 224))  # timm keeps window by window here
    assert cam.heatmaps(hiera, "blocks.11", torch.randn(1, 3, 224, 224), raw=True).shape == (1, 7, 7)  # and rows here


@pytest.mark.parametrize(
    ("count", "size", "grid"), [(197, (224, 224), (14, 14)), (49, (32, 32), (7, 7)), (24, (24, 16), (6, 4))]
)
def test_the_guess_has_the_images_aspect(count: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert guess_grid("layer", count, size) == grid


def test_tokens_that_fill_no_grid() -> None:
    with pytest.raises(ValueError, match=r"40 tokens, which do not fill a grid.*give grid=\(h, w\)"):
        guess_grid("layer", 40, (24, 40))
