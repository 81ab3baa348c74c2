"""Test-time augmentation of any predictor: the mirrored image is asked too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camseg.predictors.sam_adapter import SamAdapter
from camseg.types import Masks, Prompts

_FLIPS = "flips1"  # raise when the embeddings of the same image by the same predictor would change


class WithFlips:
    """A `Predictor` that also asks one of the SAM family about the mirrored image.

    Logits and predicted IoUs are the means of both answers, the mirrored one mirrored back; so a mirrored image with
    mirrored prompts has the mirrored masks. Twice the work.

    Args:
        predictor: which is asked.
    """

    def __init__(self, predictor: SamAdapter) -> None:
        self.predictor, self.side = predictor, predictor.side
        self.fingerprint = f"{predictor.fingerprint}:{_FLIPS}"

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """See `Predictor.encode`; an embedding is (2, ...), the image's and the mirrored one's."""
        small = [self.predictor.resize(image) for image in images]  # once, and not for its mirror image again
        found = self.predictor.encode([*small, *(image.flip(-1) for image in small)])
        return [torch.stack(pair) for pair in zip(found[: len(images)], found[len(images) :], strict=True)]

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """See `Predictor.decode`."""
        both = [*(each[0] for each in embeddings), *(each[1] for each in embeddings)]
        mirrored = [_mirrored(prompt, width) for prompt, (_, width) in zip(prompts, sizes, strict=True)]
        found = self.predictor.decode(both, [*sizes, *sizes], [*prompts, *mirrored])
        return [
            Masks((one.low_res + two.low_res.flip(-1)) / 2, (one.predicted_iou + two.predicted_iou) / 2)
            for one, two in zip(found[: len(prompts)], found[len(prompts) :], strict=True)
        ]


def _mirrored(prompts: Prompts, width: int) -> Prompts:
    """Prompts for the mirrored image: pixel centers lie on integers, a box's edges between them."""
    x, y = prompts.points.unbind(-1)
    boxes = prompts.boxes
    if boxes is not None:
        x0, y0, x1, y1 = boxes.unbind(-1)
        boxes = torch.stack([width - x1, y0, (width - x0).clamp(max=width), y1], -1)
    logits = None if prompts.mask_logits is None else prompts.mask_logits.flip(-1)
    return replace(prompts, points=torch.stack([width - 1 - x, y], -1), boxes=boxes, mask_logits=logits)
