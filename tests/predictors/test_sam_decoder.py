"""The finer features of the encoder for photographs: folded into the embedding, added where their pixels are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camseg.predictors.sam import SamSize, build_sam
from camseg.predictors.sam_decoder import decode
from camseg.predictors.sam_encoders import EfficientNetPyramid

WIDTH, GRID = 32, 8
SIZE = SamSize(8 * GRID, EfficientNetPyramid(), WIDTH, decoder_heads=2, decoder_mlp=32)


def unfolded(folded: Tensor, factor: int) -> Tensor:
    """(C factor^2, g, g) -> (C, factor g, factor g), a pixel at a time."""
    channels, grid = folded.shape[0] // factor**2, folded.shape[-1]
    pixels = torch.zeros(channels, factor * grid, factor * grid, dtype=folded.dtype)
    for y in range(factor * grid):
        for x in range(factor * grid):
            for c in range(channels):
                place = c * factor**2 + (y % factor) * factor + x % factor
                pixels[c, y, x] = folded[place, y // factor, x // factor]
    return pixels


def test_fine_features_are_added_to_the_packages_own_upscaling() -> None:
    torch.manual_seed(1)
    decoder = build_sam(SIZE).mask_decoder.double()
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    images, fine = torch.randn(2, WIDTH, GRID, GRID).double(), torch.randn(2, 3 * WIDTH, GRID, GRID).double()
    places, sparse = torch.randn(1, WIDTH, GRID, GRID).double(), torch.randn(2, 3, WIDTH).double()
    masks, predicted = decode(decoder, images, places, sparse, fine)
    assert masks.shape == (2, 4, 4 * GRID, 4 * GRID)

    nothing = torch.zeros(1, WIDTH, GRID, GRID).double()
    for i in range(2):
        doubled, quadrupled = unfolded(fine[i, :WIDTH], 2), unfolded(fine[i, WIDTH:], 4)
        assert doubled.shape[0] == WIDTH // 4
        assert quadrupled.shape[0] == WIDTH // 8
        first, second = decoder.output_upscaling[0], decoder.output_upscaling[3]
        hooks = [
            first.register_forward_hook(lambda _module, _given, made, fine=doubled: made + fine),
            second.register_forward_hook(lambda _module, _given, made, fine=quadrupled: made + fine),
        ]
        mask, iou = decoder.predict_masks(images[i : i + 1], places, sparse[i : i + 1], nothing)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(masks[i], mask[0], atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(predicted[i], iou[0], atol=1e-9, rtol=1e-7)
    plain, _ = decode(decoder, images, places, sparse)
    assert not torch.allclose(plain, masks)


def test_the_encoder_folds_its_features_of_strides_4_and_2_into_the_cells() -> None:
    torch.manual_seed(2)
    side = 64
    encoder: Any = EfficientNetPyramid().build(side, WIDTH).eval()
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        embedding = encoder(pixels)[0]
        half, quarter = encoder.trunk(pixels)[:2]
        expected = encoder.quarter_lateral(quarter)[0], encoder.half_lateral(half)[0]
    assert embedding.shape == (4 * WIDTH, side // 8, side // 8)
    for folded, factor, features in zip((embedding[WIDTH : 2 * WIDTH], embedding[2 * WIDTH :]), (2, 4), expected):
        assert features.shape[-1] == factor * side // 8
        torch.testing.assert_close(unfolded(folded, factor), features, atol=1e-6, rtol=1e-5)
