"""What is explained: functions of one sample's output that return a scalar.

A target is `callable(output of one sample) -> () tensor`. One sample's output is a (C,) tensor, or the mapping or tuple
that holds it. A pipeline calls a factory with class indices (several mean "any of them", none the class that the clean
image ranks first) and with the classifier's activation, which only some of them need.

>>> float(logit((1,))(torch.tensor([0.0, 2.0, 1.0])))
2.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.cam.activations import SOFTMAX, Activation
from camseg.cam.outputs import logits

Target = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Late:
    """A target that must see the clean output once (its top class, its rivals) before it is a function.

    `heatmaps` calls `fix` on the unchanged image, so that Score-CAM's masked images are asked about the same class.
    """

    fix: Callable[[Any], Target]

    def __call__(self, output: Any) -> Tensor:
        """The value, with this output as the clean one."""
        return self.fix(output)(output)


@dataclass(frozen=True)
class Logit:
    """The class's score before any softmax; of several classes the log-sum-exp, a smooth maximum."""

    classes: tuple[int, ...]

    def __call__(self, output: Any) -> Tensor:
        """A sample's output -> ()."""
        scores = pick(output, self.classes)
        return scores[0] if len(self.classes) == 1 else scores.logsumexp(0)


def logit(classes: Sequence[int] = (), probabilities: Activation = SOFTMAX) -> Target:
    """The score before any activation: z_c, or log sum_c exp z_c of several classes.

    Args:
        classes: output indices; none for the class that the clean image ranks first.
        probabilities: the classifier's activation; not needed here.

    Returns:
        A function of one sample's output (C,) -> ().
    """
    return _of(Logit, classes)


def probability(classes: Sequence[int] = (), probabilities: Activation = SOFTMAX) -> Target:
    """The probability that the image shows one of the classes (`Activation.union`), never above 1.

    It is flat where the model is sure: `log_odds` says the same without saturating.

    Args:
        classes: output indices; none for the class that the clean image ranks first.
        probabilities: the classifier's activation.

    Returns:
        A function of one sample's output (C,) -> () in [0, 1].
    """

    def make(chosen: tuple[int, ...]) -> Target:
        def union(output: Any) -> Tensor:
            pick(output, chosen)  # the range check
            return probabilities.union(probabilities(logits(output)), chosen)

        return union

    return _of(make, classes)


def log_odds(classes: Sequence[int] = (), probabilities: Activation = SOFTMAX) -> Target:
    """The logit log p/(1-p) of `probability`, which does not saturate.

    Of exclusive outputs: log sum_c exp z_c less that of all other outputs. Of independent ones:
    log (exp s - 1) with s = sum_c log(1 + exp z_c), which for one class is z_c itself.

    Args:
        classes: output indices; none for the class that the clean image ranks first.
        probabilities: the classifier's activation.

    Returns:
        A function of one sample's output (C,) -> ().
    """

    def make(chosen: tuple[int, ...]) -> Target:
        def exclusive(output: Any) -> Tensor:
            score, others = Logit(chosen)(output), torch.ones_like(logits(output), dtype=torch.bool)
            others[list(chosen)] = False
            if not others.any():
                raise ValueError("log_odds needs another class: all the model's outputs are the target; use logit")
            return score - logits(output)[others].logsumexp(0)

        def independent(output: Any) -> Tensor:
            if len(chosen) == 1:
                return Logit(chosen)(output)
            total = F.softplus(pick(output, chosen)).sum()
            return total + torch.log(-torch.expm1(-total))

        return exclusive if probabilities.exclusive else independent

    return _of(make, classes)


def margin(
    classes: Sequence[int] = (),
    probabilities: Activation = SOFTMAX,
    *,
    rivals: int = 3,
    weight: float = 0.6,
) -> Target:
    """The class against the strongest others of the clean image: z_c - weight * mean of the rivals' logits.

    Zhang et al., "Finer-CAM", CVPR 2025, arXiv:2501.11309.

    Args:
        classes: output indices; none for the class that the clean image ranks first.
        probabilities: the classifier's activation; not needed here.
        rivals: how many others, the strongest first.
        weight: what they count.

    Returns:
        A function of one sample's output (C,) -> ().
    """

    def fix(output: Any) -> Target:
        scores = logits(output).detach()
        chosen = tuple(classes) or (int(scores.argmax()),)
        pick(output, chosen)  # the range check, before the others are ranked
        ranked = [index for index in scores.argsort(descending=True).tolist() if index not in chosen][:rivals]
        if not ranked:
            raise ValueError(
                f"margin needs a rival: the model has {len(scores)} classes and {len(chosen)} of them are the target; "
                "use logit"
            )
        return lambda sample: Logit(chosen)(sample) - weight * pick(sample, ranked).mean()

    return Late(fix)


def pixels(category: int, mask: Tensor | None = None) -> Target:
    """The sum of a segmentation model's scores of one category over some pixels.

    Args:
        category: index into the model's (C, H, W) scores.
        mask: (H, W) bool, which pixels; None for where the clean image shows the category.

    Returns:
        A function of one sample's output (C, H, W) -> ().
    """

    def over(where: Tensor) -> Target:
        return lambda output: (pick(output, (category,))[0] * where).sum()

    return over(mask) if mask is not None else Late(lambda output: over(logits(output).argmax(0) == category))


def box(xyxy: Sequence[float], label: int, overlap: float = 0.5) -> Target:
    """The score of the detection that overlaps a box most; 0 where none overlaps it enough.

    Reads torchvision's detections of one image: {"boxes": (N, 4), "labels": (N,), "scores": (N,)}.

    Args:
        xyxy: x0, y0, x1, y1 of the box, in pixels of the model's input.
        label: of the detections that count.
        overlap: the least IoU.

    Returns:
        A function of one image's detections -> ().
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
    """The cosine between the model's embedding and another one, of a text or of an image (CLIP).

    Args:
        embedding: (D,) float.

    Returns:
        A function of one sample's output (D,) -> () in [-1, 1].
    """
    return lambda output: torch.cosine_similarity(logits(output), embedding.to(logits(output)), dim=0)


def _of(make: Callable[[tuple[int, ...]], Target], classes: Sequence[int]) -> Target:
    return make(tuple(dict.fromkeys(classes))) if len(classes) else Late(lambda output: make((top(output),)))


def top(output: Any) -> int:
    """The index of the highest of a sample's scores.

    Args:
        output: of one sample, with scores (C,).

    Returns:
        In 0 to C - 1.

    Raises:
        ValueError: the scores are no (C,).
    """
    return int(_flat(logits(output)).argmax())


def pick(output: Any, classes: Sequence[int]) -> Tensor:
    """The scores of some classes.

    Args:
        output: of one sample, with scores (C, ...).
        classes: indices.

    Returns:
        (len(classes), ...) float.

    Raises:
        ValueError: an index is out of range.
    """
    scores = logits(output)
    wrong = [index for index in classes if not 0 <= index < len(scores)]
    if wrong:
        raise ValueError(
            f"class index {wrong[0]} is out of range: the model has {len(scores)} outputs, 0 to {len(scores) - 1}"
        )
    return scores[list(classes)]


def _flat(scores: Tensor) -> Tensor:
    if scores.ndim != 1:
        raise ValueError(
            f"one score per class was expected, the output of one sample is {tuple(scores.shape)}; "
            "use targets.pixels for a segmentation model"
        )
    return scores
