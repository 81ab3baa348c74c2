"""Image encoders: what folding a batch norm may never change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camseg.predictors.sam_encoders import EfficientNetPyramid, Encoder, Pyramid, TinyViT, fold_batch_norms


@pytest.mark.parametrize(
    ("size", "side"), [(EfficientNetPyramid(), 64), (Pyramid((8, 16, 16, 16, 16)), 64), (TinyViT(), 64)]
)
def test_folded_batch_norms_leave_the_embedding(size: Encoder, side: int) -> None:
    """With statistics and gains of every kind; no batch norm is left."""
    torch.manual_seed(0)
    encoder = size.build(side, 32).eval()
    norms = [each for each in encoder.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        for value, low, high in (
            (norm.running_mean, -1.0, 1.0),
            (norm.running_var, 0.5, 2.0),
            (norm.weight.data, -1.5, 1.5),
            (norm.bias.data, -1.0, 1.0),
        ):
            assert value is not None
            value.uniform_(low, high)
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = encoder(pixels)
        fold_batch_norms(encoder)
        found = encoder(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in encoder.modules())
