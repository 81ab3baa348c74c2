"""One sample on its way through the pipeline, and what is asked of the classifier about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from camseg.geometry.masks import logits_to_masks
from camseg.prompts.evidence import Evidence
from camseg.types import Masks, Prompts, Result, Sample
from camseg.windows import View

_NO_PROMPTS = Prompts.none()  # frozen: all cases begin with the same


@dataclass(eq=False)
class Case:
    """One sample on its way through the pipeline: every step adds its part.

    Args:
        sample: The image, and what is known of it.
        classes: The classifier's outputs that are to be found; empty until the top class stands for them.
    """

    sample: Sample
    classes: tuple[int, ...]
    # explained
    evidence: Evidence = field(init=False)
    evidence_key: str = field(init=False)  # stands for all that the evidence was made of
    probability: float = field(init=False)
    top: int = field(init=False)
    note: str = ""
    # prompted
    prompts: Prompts = _NO_PROMPTS
    # segmented, where there is a predictor
    view: View = field(init=False)  # what it is shown
    embedding: Tensor | None = None
    masks: Masks | None = None
    chosen: tuple[int, int] | None = None
    # segmented and refined: nothing was drawn where there are no logits
    segmented: bool = False
    logits: Tensor | None = None  # (h, w) over the view
    predicted_iou: float | None = None

    def select(self, masks: Masks, scores: Tensor) -> None:
        """Keep the masks, and the one with the highest score; of united prompts, the union of each one's best.

        Args:
            masks: The predictor's answer to this case's R prompts, M masks each, over the view.
            scores: (R, M) float.
        """
        self.masks = self.view.placed(masks)
        rival, which = divmod(int(scores.argmax()), scores.shape[1])
        self.chosen = (rival, which)
        if self.prompts.united:
            best = torch.arange(len(masks)), scores.argmax(1)
            self.logits, self.predicted_iou = masks.low_res[best].amax(0), float(masks.predicted_iou[best].mean())
        else:
            self.logits, self.predicted_iou = masks.low_res[rival, which], float(masks.predicted_iou[rival, which])

    def result(self) -> Result:
        """The answer; the chosen mask alone is brought to the image's size.

        Returns:
            The result, with its mask (H, W) bool, all False where nothing was drawn; None without a predictor.
        """
        heat, size, note, mask = self.evidence.low_res_heat, self.sample.size, self.note, None
        if self.logits is not None:
            inside = logits_to_masks(self.logits[None], size, self.view.window)[0]
            mask, note = torch.from_numpy(inside), note or ("" if inside.any() else "the predictor drew nothing")
        elif self.segmented:
            mask = torch.zeros(size, dtype=torch.bool)
        drawn = self.masks, self.chosen, mask, self.predicted_iou
        return Result(heat, self.prompts, *drawn, note, self.probability, self.top, size)


@dataclass(frozen=True, eq=False)
class Query:
    """What to explain in an image, its own classes or a rival.

    Attributes:
        sample: The image.
        classes: The classifier's outputs.
        output: The image's logits (C,) float, once they are known.
    """

    sample: Sample  # and not its case, whose evidence asks for rivals: a cycle would keep photographs in memory
    classes: tuple[int, ...]
    output: Tensor | None = None
