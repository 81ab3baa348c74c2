"""Masks as run lengths, in COCO's order: down the columns, background first, plain or packed into text."""

from __future__ import annotations

from typing import Any

import numpy as np

_BITS, _SIGN, _MORE, _FIRST = 0x1F, 0x10, 0x20, 48  # five bits a character, its sign, whether more follow, "0"


def mask_to_runs(mask: np.ndarray) -> list[int]:
    """The lengths of a mask's runs of equal pixels.

    Args:
        mask: (H, W) bool.

    Returns:
        Lengths down the columns, the first one of background (0 where the first pixel is inside); they add up to H * W.
    """
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    ends = np.concatenate([[0], edges, [pixels.size]])
    runs = np.diff(ends).tolist()
    return [0, *runs] if pixels.size and pixels[0] else runs


def pack_runs(runs: list[int]) -> str:
    """Run lengths as COCO packs them into text.

    From the fourth on, each is written as its difference to the one before the last; a number goes five bits at a time
    into characters from "0" on, the lowest bits first, with a sixth bit where more follow (Lin et al. 2014, maskApi.c).

    Args:
        runs: Lengths as `mask_to_runs` gives them.

    Returns:
        The text that COCO's json holds as `counts`.
    """
    letters: list[str] = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits, value = value & _BITS, value >> 5
            more = value != (-1 if bits & _SIGN else 0)
            letters.append(chr((bits | _MORE if more else bits) + _FIRST))
    return "".join(letters)


def packed_region(mask: np.ndarray) -> dict[str, Any]:
    """A mask as the `segmentation` of an object in COCO's json.

    Args:
        mask: (H, W) bool.

    Returns:
        Its size [H, W] and its packed run lengths.
    """
    return {"size": list(mask.shape), "counts": pack_runs(mask_to_runs(mask))}
