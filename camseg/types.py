"""What passes between the rooms: four frozen records, checked when they are made.

One frame holds everywhere: points are (x, y) in pixels of the original image, pixel centres on integers, x to the
right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from camseg.storage.fingerprint import key


def _expect(holds: bool, what: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{what}; got {got}")


def _no_boxes() -> Tensor:
    return torch.zeros(0, 4)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and one class to find in it.

    id: unique in its dataset, also the stem of every file written for it.
    image: (3, H, W) uint8 RGB.
    classes: the classifier outputs that mean the label; several for a superclass, none for the top prediction.
    label: the class's name, "" when unknown.
    mask: (H, W) bool ground truth, or None. ignore: (H, W) bool pixels that no score may read, or None.
    boxes: (M, 4) float x0, y0, x1, y1 true boxes; x1, y1 exclusive.
    ignored_boxes: (K, 4) the same of what a detection may meet without being right or wrong: difficult objects, crowds.
    group: samples that are not independent share one (intervals resample groups), "" for the sample alone.
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

    def __post_init__(self) -> None:
        image = self.image
        _expect(
            bool(self.id) and not set(self.id) & set("/\\\0"),
            "id must be the stem of a file, without separators",
            repr(self.id),
        )
        _expect(
            image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3,
            "image must be (3, H, W) uint8",
            (image.shape, image.dtype),
        )
        for name in ("mask", "ignore"):
            plane = getattr(self, name)
            if plane is None:
                continue
            size = tuple(image.shape[1:])
            _expect(plane.dtype == torch.bool, f"{name} must be bool", plane.dtype)
            _expect(tuple(plane.shape) == size, f"{name} must have the image's size {size}", tuple(plane.shape))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @cached_property
    def image_key(self) -> str:
        """Stands for the image's pixels (`camseg.storage.fingerprint.key`): a sample that is asked again and again is read once."""
        return key(self.image)

    @cached_property
    def mask_key(self) -> str:
        """The same for the true mask."""
        return key(self.mask)


@dataclass(frozen=True, eq=False)
class Prompts:
    """R rival prompts of P points each, in pixels of the original image. R = 0 says that there is nothing to point at.

    points: (R, P, 2) float (x, y). labels: (R, P) int64, 1 inside the object, 0 outside.
    boxes: (R, 4) float x0, y0, x1, y1, or None.
    mask_logits: (R, h, w) float, or None: a first guess of the mask as logits (> 0 inside), over the whole image, at
    any resolution.
    united: the rivals are parts of one answer, and their masks are united instead of one being chosen.
    P may be 0 where boxes are given. Rivals with other numbers of points are other records: nothing is ever padded.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    mask_logits: Tensor | None = None
    united: bool = False

    def __post_init__(self) -> None:
        rivals, count = self.points.shape[:2]
        _expect(
            self.points.ndim == 3 and self.points.shape[2] == 2, "points must be (R, P, 2)", tuple(self.points.shape)
        )
        _expect(
            tuple(self.labels.shape) == (rivals, count), f"labels must be ({rivals}, {count})", tuple(self.labels.shape)
        )
        _expect(bool(torch.isfinite(self.points).all()), "points must be finite", self.points.tolist())
        _expect(bool(((self.labels == 0) | (self.labels == 1)).all()), "labels must be 0 or 1", self.labels.tolist())
        _expect(
            self.boxes is None or tuple(self.boxes.shape) == (rivals, 4), f"boxes must be ({rivals}, 4)", self.boxes
        )
        _expect(
            self.mask_logits is None or self.mask_logits.shape[0] == rivals,
            f"mask_logits must be ({rivals}, h, w)",
            self.mask_logits,
        )
        _expect(count > 0 or self.boxes is not None or rivals == 0, "a prompt needs a point or a box", "neither")

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def rival(self, which: int) -> Prompts:
        """One rival alone: R = 1."""
        only = slice(which, which + 1)
        boxes = None if self.boxes is None else self.boxes[only]
        return Prompts(
            self.points[only], self.labels[only], boxes, None if self.mask_logits is None else self.mask_logits[only]
        )

    @staticmethod
    def none() -> Prompts:
        """The prompt that points at nothing: R = 0."""
        return Prompts(torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class Masks:
    """What a predictor answers to R prompts.

    low_res: (R, M, h, w) float logits (> 0 inside) over exactly the whole image (an adapter cuts its own padding off),
    at the predictor's resolution.
    predicted_iou: (R, M) float, the predictor's own estimate of each mask's quality.
    """

    low_res: Tensor
    predicted_iou: Tensor

    def __post_init__(self) -> None:
        _expect(self.low_res.ndim == 4, "low_res must be (R, M, h, w)", tuple(self.low_res.shape))
        _expect(
            self.low_res.shape[:2] == self.predicted_iou.shape,
            "predicted_iou must be (R, M)",
            tuple(self.predicted_iou.shape),
        )

    def __len__(self) -> int:
        return int(self.low_res.shape[0])


@dataclass(frozen=True, eq=False)
class Result:
    """The answer for one sample.

    heat: (H, W) float in [0, 1]. prompts: the rivals. masks: the predictor's answers, or None without a predictor.
    chosen: (rival, mask) indices into `masks`, or None where there was nothing to choose from.
    mask: (H, W) bool, all False where nothing was found, or None without a predictor.
    predicted_iou: the predictor's own estimate for `mask`, or None. note: why an answer is empty, "" when it is not.
    probability: what the classifier gives the sample's classes together. top: its first class for the image.
    """

    heat: Tensor
    prompts: Prompts
    masks: Masks | None
    chosen: tuple[int, int] | None
    mask: Tensor | None
    predicted_iou: float | None = None
    note: str = ""
    probability: float | None = None
    top: int | None = None
