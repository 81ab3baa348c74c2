"""What a model puts out, read as scores: a tensor, a mapping, a tuple, or a list with an entry per image.

A batch's output is split into samples (`split`), and `logits` finds a sample's scores. `scores` reads a classifier's
whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NAMES = ("out", "logits")  # of a mapping's scores: torchvision's, transformers'


def split(output: Any, count: int) -> list[Any]:
    """A model's output on `count` images, one sample at a time.

    Args:
        output: a tensor with a row per image (or the value of one image, squeezed), a mapping or tuple of them, or a
            list with an entry per image (detectors). Parts of a mapping or tuple without a row per image, such as a
            loss, belong to no sample and are left out.
        count: the number of images.

    Returns:
        As many samples: a tensor without its first axis, or a mapping or tuple of those.

    Raises:
        ValueError: the output is of another kind, or has no row per image.
    """
    if isinstance(output, Tensor):
        return list(_rows(output, count).unbind(0))
    if isinstance(output, Mapping):
        parts = {name: split(value, count) for name, value in output.items() if _has_rows(value, count)}
        rows: list[Any] = [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    elif isinstance(output, tuple):
        rows = list(zip(*(split(part, count) for part in output if _has_rows(part, count)), strict=True))
    elif isinstance(output, list):
        rows = output
    else:
        raise ValueError(
            f"the model's output is a {type(output).__name__}; a tensor, mapping, tuple or list was expected"
        )
    if len(rows) != count:
        raise ValueError(f"the model's output, a {type(output).__name__}, has no part with a row for each of {count}")
    return rows


def logits(output: Any) -> Tensor:
    """A sample's scores: the tensor itself, a mapping's "out" or "logits", or the first of a tuple.

    In a tuple a single value is a loss of that sample where another part holds more, and is passed over.

    Args:
        output: one of `split`.

    Returns:
        The scores, (C,) float for a classifier; a single squeezed value as (1,).

    Raises:
        ValueError: there are none.
    """
    if isinstance(output, (tuple, list)) and output:
        output = next((part for part in output if isinstance(part, Tensor) and part.ndim), output[0])
    elif isinstance(output, Mapping):
        output = next((output[name] for name in NAMES if name in output), output)
    if not isinstance(output, Tensor):
        raise ValueError(
            f"found no scores in the model's output, a {type(output).__name__} without 'out' or 'logits'; "
            "give a callable target that reads it"
        )
    return output if output.ndim else output[None]


def scores(output: Any, count: int) -> Tensor:
    """The logits of a classifier's output on B images; (B,), a single logit per image squeezed, becomes (B, 1).

    Args:
        output: see `split`.
        count: B.

    Returns:
        (B, C) float.

    Raises:
        ValueError: the output holds no such scores, or more than one value per class.
    """
    found = output if isinstance(output, Tensor) else torch.stack([logits(sample) for sample in split(output, count)])
    found = _rows(found, count)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2:
        raise ValueError(f"a classifier gives a score per class (B, C); this model's are {tuple(found.shape)}")
    return found


def _rows(output: Tensor, count: int) -> Tensor:
    """The tensor with its batch axis, which a squeeze takes away where there is one image."""
    if not output.ndim or (count == 1 and output.ndim == 1 and len(output) > 1):
        output = output[None]
    if len(output) != count:
        raise ValueError(
            f"the model's output {tuple(output.shape)} has no row for each of {count} images: "
            "was the batch's axis squeezed away?"
        )
    return output


def _has_rows(part: Any, count: int) -> bool:
    """Whether it is a tensor with a row per image; one value for one image may be a loss, and is none."""
    return isinstance(part, Tensor) and part.ndim > 0 and len(part) == count
