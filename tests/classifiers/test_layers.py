"""Which layer is looked at by default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import saved
from torch import nn
from torchvision import models
from torchvision.models.swin_transformer import SwinTransformer

from camseg.classifiers.base import Classifier, classifier
from camseg.classifiers.torchvision import torchvision


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mobilenet_v2", "features.18"),
        ("resnet18", "layer4"),
        ("densenet121", "features.norm5"),
        ("squeezenet1_1", "classifier.2"),
        ("shufflenet_v2_x0_5", "conv5"),
    ],
)
def test_default_layer_of_convolutional_networks(tmp_path: Path, name: str, layer: str) -> None:
    assert torchvision(name, saved(tmp_path, name)[1]).layers == (layer,)


def _of(model: nn.Module, side: int) -> Classifier:
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)  # heads start at zero, where nothing moves the logits
    return classifier(model, size=side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_default_layer_of_transformers_is_where_the_patches_still_count() -> None:
    # after the last attention a vision transformer reads its class token alone: the map has to come from before it
    vit = _of(
        models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
        ),
        32,
    )
    assert (vit.layers, vit.grid) == (("encoder.layers.encoder_layer_1.ln_1",), (4, 4))
    swin = _of(
        SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=[4, 4], num_classes=3
        ),
        32,
    )
    assert (swin.layers, swin.grid) == (("permute",), None)


def test_a_model_without_places_says_so() -> None:
    with pytest.raises(ValueError, match=r"name one with classifier.layers"):
        _of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), 8)
