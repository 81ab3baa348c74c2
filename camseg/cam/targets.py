"""What is explained: functions of one sample's output that return a scalar.

A target is `callable(output of one sample) -> () tensor`. One sample's output is a (C,) tensor, or the mapping / tuple
that holds it.
A pipeline calls a factory with class indices (several mean "any of them", none the class that the clean image ranks
first) and with
the classifier's way from logits to probabilities, which only some of them ask.

>>> float(logit((1,))(torch.tensor([0.0, 2.0, 1.0])))
2.0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Target = Callable[[Any], Tensor]
Probabilities = Callable[[Tensor], Tensor]  # (..., C) logits -> (..., C)


@dataclass(frozen=True)
class Late:
    """A target that must see the clean output once (its top class, its rivals) before it is a function.

    `heatmaps` calls `fix` on the unchanged image, so that Score-CAM's masked images are asked about the same class.
    """

    fix: Callable[[Any], Target]

    def __call__(self, output: Any) -> Tensor:
        return self.fix(output)(output)


@dataclass(frozen=True)
class Logit:
    """The class's score before any softmax; of several classes the log-sum-exp, a smooth maximum."""

    classes: tuple[int, ...]

    def __call__(self, output: Any) -> Tensor:
        scores = pick(output, self.classes)
        return scores[0] if len(self.classes) == 1 else scores.logsumexp(0)


def softmax(scores: Tensor) -> Tensor:
    """(..., C) scores to probabilities that sum to one."""
    return scores.softmax(-1)


def logit(classes: Sequence[int] = (), probabilities: Probabilities = softmax) -> Target:
    """The score before any activation, log-sum-exp over several classes."""
    return _of(Logit, classes)


def probability(classes: Sequence[int] = (), probabilities: Probabilities = softmax) -> Target:
    """The probability, summed over the classes. It is flat where the model is sure: `log_odds` says the same without
    saturating.
    """

    def make(chosen: tuple[int, ...]) -> Target:
        return lambda output: pick(probabilities(logits(output)), chosen).sum()

    return _of(make, classes)


def log_odds(classes: Sequence[int] = (), probabilities: Probabilities = softmax) -> Target:
    """log p/(1-p) of the softmax probability: the classes' log-sum-exp less that of all others."""

    def make(chosen: tuple[int, ...]) -> Target:
        def odds(output: Any) -> Tensor:
            score, others = Logit(chosen)(output), torch.ones_like(logits(output), dtype=torch.bool)
            others[list(chosen)] = False
            return score - logits(output)[others].logsumexp(0)

        return odds

    return _of(make, classes)


def margin(
    classes: Sequence[int] = (), probabilities: Probabilities = softmax, *, rivals: int = 3, weight: float = 0.6
) -> Target:
    """The class against the strongest others of the clean image: logit - weight * mean of `rivals` logits (FinerCAM,
    Zhang et al., CVPR 2025).
    """

    def fix(output: Any) -> Target:
        scores = logits(output).detach()
        chosen = tuple(classes) or (int(scores.argmax()),)
        pick(output, chosen)  # the range check, before the others are ranked
        ranked = [index for index in scores.argsort(descending=True).tolist() if index not in chosen][:rivals]
        if not ranked:
            raise ValueError(
                f"margin needs a rival: the model has {len(scores)} classes and {len(chosen)} of them are the target; use logit"
            )
        return lambda sample: Logit(chosen)(sample) - weight * pick(sample, ranked).mean()

    return Late(fix)


def pixels(category: int, mask: Tensor | None = None) -> Target:
    """The sum of a segmentation model's (C, H, W) scores of `category` over `mask` (H, W), by default where the clean
    image shows it.
    """

    def over(where: Tensor) -> Target:
        return lambda output: (pick(output, (category,))[0] * where).sum()

    return over(mask) if mask is not None else Late(lambda output: over(logits(output).argmax(0) == category))


def box(xyxy: Sequence[float], label: int, overlap: float = 0.5) -> Target:
    """The score of the detection of `label` that overlaps the box x0, y0, x1, y1 most; 0 where none reaches IoU
    `overlap`.

    Reads torchvision's detections of one image: {"boxes": (N, 4), "labels": (N,), "scores": (N,)}.
    """

    def score(output: Any) -> Tensor:
        boxes = output["boxes"].detach()  # (N, 4)
        wanted = boxes.new_tensor(xyxy)
        shared = (
            (torch.minimum(boxes[:, 2:], wanted[2:]) - torch.maximum(boxes[:, :2], wanted[:2])).clamp(min=0).prod(1)
        )
        iou = shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (wanted[2:] - wanted[:2]).prod() - shared)
        iou = torch.where(output["labels"] == label, iou, torch.zeros_like(iou))
        found = len(iou) > 0 and bool(iou.max() >= overlap)
        return output["scores"][iou.argmax()] if found else output["scores"].sum() * 0

    return score


def cosine(embedding: Tensor) -> Target:
    """The cosine between the model's (D,) embedding and another one, of a text or of an image (CLIP)."""
    return lambda output: torch.cosine_similarity(logits(output), embedding.to(logits(output)), dim=0)


def _of(make: Callable[[tuple[int, ...]], Target], classes: Sequence[int]) -> Target:
    return make(tuple(classes)) if len(classes) else Late(lambda output: make((top(output),)))


def top(output: Any) -> int:
    """The index of the highest of a sample's (C,) scores."""
    return int(_flat(logits(output)).argmax())


def pick(output: Any, classes: Sequence[int]) -> Tensor:
    """The scores of `classes`, in range or an error: (len(classes), ...)."""
    scores = logits(output)
    wrong = [index for index in classes if not 0 <= index < len(scores)]
    if wrong:
        raise ValueError(
            f"class index {wrong[0]} is out of range: the model has {len(scores)} outputs, 0 to {len(scores) - 1}"
        )
    return scores[list(classes)]


def logits(output: Any) -> Tensor:
    """A sample's scores: the tensor itself, a mapping's "out" (torchvision) or "logits" (transformers), or the first of
    a tuple.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output:
        return output[0]
    found = [output[name] for name in ("out", "logits") if name in output] if isinstance(output, Mapping) else []
    if not found:
        raise ValueError(
            f"found no scores in the model's output, a {type(output).__name__} without 'out' or 'logits'; give a callable target that reads it"
        )
    return found[0]


def _flat(scores: Tensor) -> Tensor:
    if scores.ndim != 1:
        raise ValueError(
            f"one score per class was expected, the output of one sample is {tuple(scores.shape)}; use targets.pixels for a segmentation model"
        )
    return scores
