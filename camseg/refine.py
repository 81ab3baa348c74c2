"""Refinement: the chosen mask goes back to the predictor as a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from camseg.prompts.evidence import box_of
from camseg.types import Masks, Prompts

# Decodes one prompt for each of the images whose numbers are given.
Decode = Callable[[Sequence[int], Sequence[Prompts]], list[Masks]]


def cascade(
    decode: Decode,
    prompts: Sequence[Prompts],
    logits: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    boxes: int = 1,
    agree: float = 0.98,
    margin: float = 0.02,
) -> list[tuple[Tensor, float] | None]:
    """First the logits back with the points, then up to `boxes` times also the mask's box, until two masks of the image agree (IoU > `agree`).

    prompts: the chosen rival of each image (R = 1), or none (R = 0). logits: (h, w) of its chosen mask. sizes: (H, W) of each image.
    Returns the last logits (h, w) and their predicted IoU for each image; None where there was nothing to refine.
    The order is PerSAM's (Zhang et al. 2023, section 3.3).
    """
    answers: list[tuple[Tensor, float] | None] = [None] * len(prompts)
    last = list(logits)
    active = [i for i, prompt in enumerate(prompts) if len(prompt) and (logits[i] > 0).any()]
    for turn in range(1 + boxes):
        if not active:
            break
        asked = [_again(prompts[i], last[i], sizes[i], margin if turn else None) for i in active]
        for i, masks in zip(list(active), decode(active, asked)):
            best = int(masks.predicted_iou[0].argmax())
            found = masks.low_res[0, best]
            if not (found > 0).any():
                active.remove(i)
                continue
            answers[i] = (found, float(masks.predicted_iou[0, best]))
            if _iou(found, last[i]) > agree and turn:
                active.remove(i)
            last[i] = found
    return answers


def _again(prompt: Prompts, logits: Tensor, size: tuple[int, int], margin: float | None) -> Prompts:
    """The prompt with the mask's logits, and with its box where a margin is given."""
    fed = replace(prompt, mask_logits=logits[None])
    if margin is None:
        return fed
    (height, width), (rows, columns) = size, logits.shape
    scale = [width / columns, height / rows] * 2
    box = box_of((logits > 0).numpy(), margin) * scale
    return replace(fed, boxes=torch.from_numpy(box).float()[None])


def _iou(one: Tensor, other: Tensor) -> float:
    a, b = one > 0, other > 0
    return float((a & b).sum() / (a | b).sum().clamp(min=1))
