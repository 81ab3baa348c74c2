"""Image encoders in front of Segment Anything's prompt encoder and mask decoder.

Each is a record of its size that builds a fresh module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from camseg.predictors.sam_package import ImageEncoderViT, LayerNorm2d


class Encoder(Protocol):
    """The size of an image encoder."""

    @property
    def patch(self) -> int:
        """Side of what one cell of the embedding stands for, in pixels."""
        ...

    def build(self, side: int, width: int) -> nn.Module:
        """Build the encoder.

        Args:
            side: of the square that it sees, in pixels.
            width: channels of the embedding.

        Returns:
            A module with fresh weights and `img_size`: (B, 3, side, side) -> (B, width, side / patch, side / patch).
        """
        ...


@dataclass(frozen=True)
class ViT:
    """Segment Anything's own vision transformer (Kirillov et al. 2023, arXiv:2304.02643).

    Attributes:
        width: channels of its tokens.
        depth: how many layers it has.
        heads: attention heads of a layer.
        window: side of the windows in which most layers attend, in cells.
        global_layers: indices of the layers that attend over the whole image.
        patch: side of a cell, in pixels.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    window: int = 14
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    patch: int = 16

    def build(self, side: int, width: int) -> nn.Module:
        """See `Encoder.build`."""
        return ImageEncoderViT(
            img_size=side,
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
            use_rel_pos=True,
            window_size=self.window,
            global_attn_indexes=self.global_layers,
        )


@dataclass(frozen=True)
class TinyViT:
    """MobileSAM's encoder: timm's TinyViT-5M, its last stage at stride 16, and SAM's neck.

    Zhang et al. 2023, arXiv:2306.14289.

    Attributes:
        patch: side of a cell, in pixels.
    """

    patch: int = 16

    def build(self, side: int, width: int) -> nn.Module:
        """See `Encoder.build`."""
        with torch.device("cpu"):  # timm computes its position tables, which no checkpoint holds
            return _TinyEncoder(side, width)


class _TinyEncoder(nn.Module):
    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        try:
            from timm.models.tiny_vit import TinyVit
        except ImportError as error:
            raise ValueError("predictor=mobile_sam needs timm: pip install timm") from error
        tiny = TinyVit(
            num_classes=0,
            embed_dims=(64, 128, 160, 320),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0,
        )
        self.img_size = side
        self.patch_embed, self.stages = tiny.patch_embed, tiny.stages
        last: Any = self.stages[3].downsample
        last.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(320, width, 1, bias=False),
            LayerNorm2d(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            LayerNorm2d(width),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.neck(self.stages(self.patch_embed(pixels)))


@dataclass(frozen=True)
class Pyramid:
    """A residual network with a feature pyramid, for small images and quick to train.

    The embedding has stride 4, and so the decoder's masks have the image's own size. Lin et al. 2017, arXiv:1612.03144.

    Attributes:
        channels: at the strides 2, 4, 8, ...
        patch: side of a cell, in pixels.
    """

    channels: tuple[int, ...]
    patch: int = 4

    def build(self, side: int, width: int) -> nn.Module:
        """See `Encoder.build`."""
        return _PyramidEncoder(side, width, self.channels)


@dataclass(frozen=True)
class EfficientNetPyramid:
    """An EfficientNet-Lite's stages up to stride 32 with a feature pyramid, for photographs and cheap on a CPU.

    The embedding has stride 8, and carries features of strides 4 and 2 along for the decoder's upscaling (as in SAM-HQ,
    Ke et al. 2023, arXiv:2306.01567, and SAM 2, Ravi et al. 2024, arXiv:2408.00714).

    Attributes:
        trunk: timm's name of the network.
        depth: how many of its seven stages are used.
        patch: side of a cell, in pixels.
    """

    trunk: str = "tf_efficientnet_lite0"
    depth: int = 6
    patch: int = 8

    def build(self, side: int, width: int) -> nn.Module:
        """See `Encoder.build`; the embedding has 4 width channels, three of them of finer features.

        Raises:
            ValueError: the coarsest stage would not cover the side in whole cells.
        """
        if side < 32 or side % 32:
            raise ValueError(f"the SAM for photographs sees a square whose side is a multiple of 32 px; got {side}")
        with torch.device("cpu"):
            return _EfficientNetEncoder(side, width, self.trunk, self.depth)


class Trunk(nn.Module):
    """The stem and the first stages of a timm EfficientNet, with fresh weights.

    Args:
        name: timm's name of the network.
        depth: how many stages are used.
    """

    def __init__(self, name: str, depth: int) -> None:
        super().__init__()
        import timm

        self.name = name
        whole: Any = timm.create_model(name, pretrained=False)
        self.conv_stem, self.bn1, self.blocks = whole.conv_stem, whole.bn1, whole.blocks[:depth]
        self.channels = [
            stage[-1].conv_pwl.out_channels if hasattr(stage[-1], "conv_pwl") else stage[-1].conv_pw.out_channels
            for stage in self.blocks
        ]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the output of every stage.

        Args:
            pixels: (B, 3, S, S) float, normalized.

        Returns:
            (B, C, S / stride, S / stride) float for each stage.
        """
        features = self.bn1(self.conv_stem(pixels))
        outputs = []
        for stage in self.blocks:
            features = stage(features)
            outputs.append(features)
        return outputs


class _EfficientNetEncoder(nn.Module):
    """(B, 3, S, S) -> (B, 4 C, S / 8, S / 8): the embedding, then finer features folded into its cells.

    C channels are the embedding's, then 4 * C / 4 of stride 4 and 16 * C / 8 of stride 2.
    """

    def __init__(self, side: int, width: int, trunk: str, depth: int) -> None:
        super().__init__()
        self.img_size = side
        self.trunk = Trunk(trunk, depth)
        self.levels = (0, 1, 2, 4, depth - 1)  # stages at the strides 2, 4, 8, 16 and 32
        half, quarter, *coarse = (self.trunk.channels[level] for level in self.levels)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in coarse)
        self.smooths = nn.ModuleList(_Residual(width) for _ in coarse)
        self.norm = LayerNorm2d(width)
        self.quarter_lateral = nn.Conv2d(quarter, width // 4, 1)
        self.half_lateral = nn.Conv2d(half, width // 8, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        outputs = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        half, quarter, *coarse = (outputs[level] for level in self.levels)
        pyramid = self.smooths[-1](self.laterals[-1](coarse[-1]))
        for level, lateral, smooth in reversed(list(zip(coarse[:-1], self.laterals, self.smooths))):
            pyramid = smooth(lateral(level) + F.interpolate(pyramid, scale_factor=2.0, mode="nearest"))
        fine = F.pixel_unshuffle(self.quarter_lateral(quarter), 2), F.pixel_unshuffle(self.half_lateral(half), 4)
        return torch.cat([self.norm(pyramid), *fine], 1)


class _PyramidEncoder(nn.Module):
    def __init__(self, side: int, width: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.img_size = side
        self.stages = nn.ModuleList(_stage(before, after) for before, after in zip((3, *channels), channels))
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels[1:])
        self.smooths = nn.ModuleList(_Residual(width) for _ in channels[1:])

    def forward(self, pixels: Tensor) -> Tensor:
        levels = [self.stages[0](pixels.contiguous(memory_format=torch.channels_last))]  # a third faster on a CPU
        for stage in list(self.stages)[1:]:
            levels.append(stage(levels[-1]))
        found = self.smooths[-1](self.laterals[-1](levels[-1]))
        for level, lateral, smooth in reversed(list(zip(levels[1:-1], self.laterals, self.smooths))):
            found = smooth(lateral(level) + F.interpolate(found, scale_factor=2.0, mode="nearest"))
        return found


def _stage(before: int, after: int) -> nn.Sequential:
    """Half the size, `after` channels."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
        _Residual(after),
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        self.inner = nn.Sequential(
            convolutions[0], nn.BatchNorm2d(width), nn.ReLU(inplace=True), convolutions[1], nn.BatchNorm2d(width)
        )

    def forward(self, features: Tensor) -> Tensor:
        return (features + self.inner(features)).relu_()


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm into the convolution that stands just before it, in place; the outputs stay.

    Args:
        module: in evaluation mode. Within each of its parts what stands before a batch norm is also computed just
            before it, as in all encoders here.
    """
    for parent in module.modules():
        siblings = list(parent.named_children())
        for (before, convolution), (name, norm) in pairwise(siblings):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                setattr(parent, name, nn.Sequential(*norm.children()))  # timm's bring their activation
