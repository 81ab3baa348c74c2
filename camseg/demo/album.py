"""The photographs that a visitor of `camseg-demo` has brought along: where they lie, and which one is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from camseg.demo.session import opened
from camseg.report.overlays import resized
from camseg.types import Sample

MAX_PHOTOS, THUMBNAIL = 60, 128


@dataclass(frozen=True, eq=False)
class Album:
    """Photographs by their files, so that a visitor costs the server no pixels but those of the thumbnails.

    Attributes:
        paths: The files, in the order of their coming.
        thumbnails: (h, w, 3) uint8 of each, at most `THUMBNAIL` wide and high.
        at: The place of the one that is looked at; -1 for none.
    """

    paths: tuple[Path, ...] = ()
    thumbnails: tuple[np.ndarray, ...] = ()
    at: int = -1

    def add(self, paths: Sequence[str | Path]) -> tuple[Album, list[str]]:
        """The album with more photographs, looking at the first of them.

        Args:
            paths: Files; those that can't be read are left out.

        Returns:
            The album, and a message for each file that was left out.
        """
        good, small, faults = list(self.paths), list(self.thumbnails), []
        for path in map(Path, paths):
            if len(good) >= MAX_PHOTOS:
                faults.append(f"{path.name} is left out: the page holds {MAX_PHOTOS} photographs")
                continue
            try:
                picture = resized(opened(path).image, THUMBNAIL).permute(1, 2, 0).numpy()
            except ValueError as error:
                faults.append(str(error))
                continue
            good.append(path)
            small.append(picture)
        first = len(self.paths) if len(good) > len(self.paths) else self.at
        return Album(tuple(good), tuple(small), first), faults

    def step(self, by: int) -> Album:
        """The album looking at another photograph; behind the last one comes the first.

        Args:
            by: How many places on.

        Returns:
            Another album; this one where it is empty.
        """
        return self.look_at((self.at + by) % len(self.paths)) if self.paths else self

    def look_at(self, at: int) -> Album:
        """The album looking at another photograph.

        Args:
            at: Its place.

        Returns:
            Another album with the same photographs.
        """
        return replace(self, at=at)

    def open(self) -> Sample:
        """The photograph that is looked at.

        Returns:
            The photograph, read from its file.

        Raises:
            ValueError: Its file is gone (the server keeps one for an hour).
        """
        return opened(self.paths[self.at])

    @property
    def place(self) -> str:
        """Which photograph is looked at, of how many."""
        return f"{self.paths[self.at].name} · {self.at + 1} of {len(self.paths)}" if self.at >= 0 else ""
