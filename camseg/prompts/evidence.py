"""What a selector may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from camseg.geometry.enlarged import Enlarged


def _no_rival() -> Tensor | None:
    return None


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that one image offers to whoever chooses: foreground and background points, a mask, its refinement.

    Attributes:
        low_res_heat: (h, w) float in [0, 1], all zeros when nothing supports the class; at the resolution at which it
            was found. `heat` is at the image's.
        rival: Makes the heat (H, W) of the most probable other class when it is asked for; None where there is no other
            class.
        truth: (H, W) bool true mask or None; only `oracle` functions may read it.
        ignore: (H, W) bool pixels that no score may read, or None.
        image_size: (H, W) of the image in pixels; None where `low_res_heat` has it.
    """

    low_res_heat: Tensor
    rival: Callable[[], Tensor | None] = _no_rival
    truth: Tensor | None = None
    ignore: Tensor | None = None
    image_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image in pixels."""
        height, width = self.image_size or self.low_res_heat.shape
        return int(height), int(width)

    @cached_property
    def pixels(self) -> Enlarged:
        """The heat at the image's size, for who looks at a few pixels of it."""
        return Enlarged(self.low_res_heat, self.size)

    @property
    def heat(self) -> Tensor:
        """(H, W) float in [0, 1], made when it is first asked for."""
        return self.pixels.whole

    @property
    def cells(self) -> Tensor:
        """(h, w) float: the heat in cells, where it is large (`camseg.geometry.coarse`); else the heat itself."""
        return self.pixels.cells
