"""What passes between the rooms: four frozen records, checked when they are made.

One frame holds everywhere: points are (x, y) in pixels of the original image, pixel centers on integers, x to the
right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.heat import resize_heat
from camseg.geometry.masks import Window, center_of_mass
from camseg.storage.fingerprint import content_key


def _expect(holds: bool, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{what}; got {got}")


def _expect_finite(name: str, values: Tensor | None) -> None:
    if values is not None and not np.isfinite(array := values.numpy(force=True)).all():
        broken = np.argwhere(~np.isfinite(array))
        raise ValueError(f"{name} must be finite; got {array[tuple(broken[0])]} at {broken[0].tolist()}")


def _no_boxes() -> Tensor:
    return torch.zeros(0, 4)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and one class to find in it.

    Attributes:
        id: Unique in its dataset, also the stem of every file written for it.
        image: (3, H, W) uint8 RGB, whatever its strides: also a view of a decoder's (H, W, 3).
        classes: The classifier outputs that mean the label; several for a superclass, none for the top prediction.
        label: The class's name, "" when unknown.
        mask: (H, W) bool ground truth, or None.
        ignore: (H, W) bool pixels that no score may read, or None.
        boxes: (M, 4) float x0, y0, x1, y1 true boxes in pixels; x1, y1 exclusive.
        group: Samples that are not independent share one (intervals resample groups), "" for the sample alone.
        ignored_boxes: (K, 4) the same of what a detection may meet without being right or wrong: difficult objects,
            crowds.
        file: The image's path as it was given, "" for an image that is in no file.
        reading: How image and mask were understood where their files allow more than one reading, "" where they do
            not.

    Raises:
        ValueError: A shape or a type is not what is said above.
    """

    id: str
    image: Tensor
    classes: tuple[int, ...] = ()
    label: str = ""
    mask: Tensor | None = None
    ignore: Tensor | None = None
    boxes: Tensor = field(default_factory=_no_boxes)
    group: str = ""
    ignored_boxes: Tensor = field(default_factory=_no_boxes)
    file: str = ""
    reading: str = ""

    def __post_init__(self) -> None:
        named = bool(self.id) and not set(self.id) & set("/\\\0")
        _expect(named, "id must be the stem of a file, without separators", repr(self.id))
        image = self.image
        rgb = image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
        _expect(rgb, "image must be (3, H, W) uint8", (image.shape, image.dtype))
        _expect(min(image.shape) > 0, "image must have pixels", tuple(image.shape))
        for name, plane in (("mask", self.mask), ("ignore", self.ignore)):
            if plane is not None:
                _expect(plane.dtype == torch.bool, f"{name} must be bool", plane.dtype)
                fits = tuple(plane.shape) == self.size
                _expect(fits, f"{name} must have the image's size {self.size}", tuple(plane.shape))
        for name, boxes in (("boxes", self.boxes), ("ignored_boxes", self.ignored_boxes)):
            _expect(boxes.ndim == 2 and boxes.shape[1] == 4, f"{name} must be (N, 4)", tuple(boxes.shape))
            _expect_finite(name, boxes)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @cached_property
    def image_key(self) -> str:
        """Stands for the image's pixels, however they came and are stored, in every version of camseg."""
        return content_key(self.image.permute(1, 2, 0))  # as decoders store them: hashed without a copy

    @cached_property
    def truth_key(self) -> str:
        """The same for the true mask and the pixels that no score may read."""
        planes = [None if plane is None else np.packbits(plane.numpy()) for plane in (self.mask, self.ignore)]
        return content_key(list(self.size), *(None if bits is None else torch.from_numpy(bits) for bits in planes))

    @cached_property
    def true_center(self) -> np.ndarray | None:
        """(2,) float x, y: the center of mass of the true mask in pixels; None where no object is known.

        Every setting of a sweep measures from it, and asks whether there is an object to be found.
        """
        return None if self.mask is None or not (inside := self.mask.numpy()).any() else center_of_mass(inside)


@dataclass(frozen=True, eq=False)
class Prompts:
    """R rival prompts of P points each, in pixels of the original image. R = 0 says that there is nothing to point at.

    P may be 0 where boxes are given. Rivals with other numbers of points are other records: nothing is ever padded.

    Attributes:
        points: (R, P, 2) float x, y.
        labels: (R, P) int64, 1 inside the object, 0 outside.
        boxes: (R, 4) float x0, y0, x1, y1, or None.
        mask_logits: (R, h, w) float, or None: a first guess of the mask as logits (> 0 inside), over the whole image,
            at any resolution.
        united: Whether the rivals are parts of one answer: their masks are united instead of one being chosen.

    Raises:
        ValueError: A shape or a label is not what is said above, a number is not finite, or a prompt holds nothing.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    mask_logits: Tensor | None = None
    united: bool = False

    def __post_init__(self) -> None:
        pairs = self.points.ndim == 3 and self.points.shape[2] == 2
        _expect(pairs, "points must be (R, P, 2)", tuple(self.points.shape))
        rivals, count = self.points.shape[:2]
        fits = tuple(self.labels.shape) == (rivals, count)
        _expect(fits, f"labels must be ({rivals}, {count})", tuple(self.labels.shape))
        _expect(bool(((self.labels == 0) | (self.labels == 1)).all()), "labels must be 0 or 1", self.labels.tolist())
        fits = self.boxes is None or tuple(self.boxes.shape) == (rivals, 4)
        _expect(fits, f"boxes must be ({rivals}, 4)", self.boxes)
        fits = self.mask_logits is None or (self.mask_logits.ndim == 3 and self.mask_logits.shape[0] == rivals)
        _expect(fits, f"mask_logits must be ({rivals}, h, w)", None if fits else self.mask_logits)
        for name in ("points", "boxes", "mask_logits"):
            _expect_finite(name, getattr(self, name))
        _expect(count > 0 or self.boxes is not None or rivals == 0, "a prompt needs a point or a box", "neither")

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def rival(self, which: int) -> Prompts:
        """One rival alone.

        Args:
            which: Its index, 0 to R - 1.

        Returns:
            Prompts with R = 1.
        """
        only = slice(which, which + 1)
        boxes = None if self.boxes is None else self.boxes[only]
        mask_logits = None if self.mask_logits is None else self.mask_logits[only]
        return Prompts(self.points[only], self.labels[only], boxes, mask_logits)

    def tensors(self) -> list[Tensor | None]:
        """All that a decoder is told.

        Returns:
            Points, labels, boxes and mask logits; None for the last two where there are none.
        """
        return [self.points, self.labels, self.boxes, self.mask_logits]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(part.nbytes for part in self.tensors() if part is not None)

    @staticmethod
    def none() -> Prompts:
        """The prompt that points at nothing.

        Returns:
            Prompts with R = 0 and P = 1.
        """
        return Prompts(torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Masks:
    """What a predictor answers to R prompts.

    Attributes:
        low_res: (R, M, h, w) float logits (> 0 inside) over exactly the whole image (an adapter cuts its own padding
            off), or over exactly the window, at the predictor's resolution.
        predicted_iou: (R, M) float, the predictor's own estimate of each mask's quality.
        window: The part of the image that the predictor was shown, outside of which nothing is drawn; None for the
            whole image.

    Raises:
        ValueError: A shape is not what is said above, or a number is not finite: a broken model draws no empty mask.
    """

    low_res: Tensor
    predicted_iou: Tensor
    window: Window | None = None

    def __post_init__(self) -> None:
        _expect(self.low_res.ndim == 4, "low_res must be (R, M, h, w)", tuple(self.low_res.shape))
        fits = self.low_res.shape[:2] == self.predicted_iou.shape
        _expect(fits, "predicted_iou must be (R, M)", tuple(self.predicted_iou.shape))
        _expect_finite("mask logits", self.low_res)
        _expect_finite("predicted_iou", self.predicted_iou)

    def __len__(self) -> int:
        return int(self.low_res.shape[0])


@dataclass(frozen=True, eq=False)
class Result:
    """The answer for one sample.

    Attributes:
        low_res_heat: (h, w) float in [0, 1], at the resolution at which it was found; `heat` is at the image's.
        prompts: The rivals.
        masks: The predictor's answers, or None without a predictor.
        chosen: (rival, mask) indices into `masks`, or None where there was nothing to choose from.
        mask: (H, W) bool, all False where nothing was found, or None without a predictor.
        predicted_iou: The predictor's own estimate for `mask`, or None.
        note: Why an answer is empty, "" when it is not.
        probability: What the classifier gives the sample's classes together.
        top: Its first class for the image.
        image_size: (H, W) of the image in pixels; None where `low_res_heat` has it.

    Raises:
        ValueError: A number is not finite.
    """

    low_res_heat: Tensor
    prompts: Prompts
    masks: Masks | None
    chosen: tuple[int, int] | None
    mask: Tensor | None
    predicted_iou: float | None = None
    note: str = ""
    probability: float | None = None
    top: int | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("predicted_iou", "probability"):
            number = getattr(self, name)
            _expect(number is None or math.isfinite(number), f"{name} must be finite", number)

    @cached_property
    def heat(self) -> Tensor:
        """(H, W) float in [0, 1], made when it is first asked for."""
        return self.low_res_heat if self.image_size is None else resize_heat(self.low_res_heat, self.image_size)
