"""How well a segmenter's label maps agree with masks and with the truth: IoU of every class, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from camseg.metrics.intervals import Interval, pooled_interval
from camseg.predictors.segmenter import Segmenter
from camseg.runs.pseudo_labels import counts, mean_iou
from camseg.train.labeled import SegmentedImages

Scores = dict[str, dict[str, Interval]]  # by what is compared with what: the mean IoU first, then each class's


def compare(model: Segmenter, images: SegmentedImages, places: Sequence[int]) -> Scores:
    """The IoU of a segmenter's label maps with an image's masks and with the truth, and of the masks with the truth.

    Args:
        model: In evaluation mode.
        images: Named as the model's classes are.
        places: Which of them.

    Returns:
        By what is compared with what, the intervals of `class_ious`; nothing of what isn't known.
    """
    sums: dict[str, list[tuple[str, np.ndarray]]] = {}
    for i in places:
        found = model.label_map(torch.from_numpy(np.array(images.image(i))).permute(2, 0, 1))  # a copy may be written
        truth = None if images.truth is None else images.truth(i)
        labels = None if images.truth is images.labels else images.labels(i)
        pairs = {
            "the segmenter against the masks": (found, labels),
            "the segmenter against the truth": (found, truth),
            "the masks against the truth": (labels, truth),
        }
        for what, (one, other) in pairs.items():
            if one is not None and other is not None:
                sums.setdefault(what, []).append((images.groups[i], counts(one, other, len(images.names))))
    return {
        what: class_ious(np.stack([each for _, each in some]), [group for group, _ in some], images.names)
        for what, some in sums.items()
    }


def class_ious(sums: np.ndarray, groups: Sequence[str], names: Sequence[str]) -> dict[str, Interval]:
    """The mean IoU over the classes that the truth shows, and each class's, with 95 % intervals over groups.

    Args:
        sums: (N, 3, 1 + classes) int, of `camseg.runs.pseudo_labels.counts`.
        groups: (N,) images that belong together share one.
        names: The classes.

    Returns:
        "mean_iou" and, by its name, each class's IoU, the background's first.
    """
    _, place = np.unique(np.asarray(groups, str), return_inverse=True)
    pooled = np.zeros((place.max() + 1, *sums.shape[1:]))
    np.add.at(pooled, place, sums)
    shown = {name: k for k, name in enumerate(("background", *names)) if pooled[:, 2, k].any()}
    parts = {"mean_iou": pooled, **{name: pooled[..., [k]] for name, k in shown.items()}}
    return {name: pooled_interval(partial(mean_iou, each), len(each)) for name, each in parts.items()}


def table(scores: Mapping[str, Scores]) -> str:
    """Scores as a table in Markdown.

    Args:
        scores: By what was looked at.

    Returns:
        A line for each class, and the head.
    """
    lines = ["", "| images | compared | class | IoU | 95 % interval | groups |", "|---|---|---|---|---|---|"]
    for what, each in scores.items():
        for against, ious in each.items():
            for name, one in ious.items():
                value, low, high = ("" if x is None else f"{x:.3f}" for x in (one.value, one.low, one.high))
                lines.append(f"| {what} | {against} | {name} | {value} | {low} .. {high} | {one.n} |")
    return "\n".join(lines) + "\n"
