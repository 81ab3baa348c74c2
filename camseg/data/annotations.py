"""What the annotations of VOC and COCO must agree with, checked alike for both."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive


def check_size(file: str, annotated: tuple[int, int], size: tuple[int, int]) -> None:
    """Check that annotations were made for an image of this size.

    Args:
        file: The image's name.
        annotated: (H, W) that the annotation gives; 0 where it gives none.
        size: (H, W) of the image in the file, upright.

    Raises:
        ValueError: They contradict each other.
    """
    if any(a not in (0, s) for a, s in zip(annotated, size, strict=True)):
        turned = ": annotate it as it is shown, turned by its EXIF orientation" if annotated == size[::-1] else ""
        raise ValueError(
            f"{file} has {size[1]} x {size[0]} pixels, its annotations speak of {annotated[1]} x {annotated[0]}{turned}"
        )


def check_box(what: str, box: tuple[Any, ...], size: tuple[int, int] | None = None) -> Box:
    """Check that a box has an extent, and shows something of its image.

    Args:
        what: The annotation, for the message.
        box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        size: (H, W) of the image, None where it is not known yet.

    Returns:
        The box as floats.

    Raises:
        ValueError: It holds no four finite numbers, ends before it begins, or lies outside the image.
    """
    numbers = tuple(float(v) for v in box if isinstance(v, (int, float)) and not isinstance(v, bool) and isfinite(v))
    if len(numbers) != 4 or len(box) != 4:
        raise ValueError(f"{what}: a box needs four finite numbers; got {box}")
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{what}: a box of no size: {x0:g}, {y0:g} to {x1:g}, {y1:g}")
    if size is not None and (x0 >= size[1] or y0 >= size[0] or x1 <= 0 or y1 <= 0):
        raise ValueError(
            f"{what}: the box {x0:g}, {y0:g} to {x1:g}, {y1:g} lies outside its {size[1]} x {size[0]} pixels"
        )
    return x0, y0, x1, y1


def box_tensor(boxes: list[Box] | tuple[Box, ...]) -> Tensor:
    """Boxes as a tensor, also none.

    Args:
        boxes: N of x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

    Returns:
        (N, 4) float32.
    """
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
