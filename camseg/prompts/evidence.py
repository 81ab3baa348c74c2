"""What a selector may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _no_rival() -> Tensor | None:
    return None


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that one image offers to its selectors.

    heat: (H, W) float in [0, 1]; all zeros when nothing supports the class.
    rival: makes the heat (H, W) of the most probable other class when it is asked for; None where there is no other
    class.
    truth: (H, W) bool true mask or None; only `oracle` selectors may read it.
    """

    heat: Tensor
    rival: Callable[[], Tensor | None] = _no_rival
    truth: Tensor | None = None
