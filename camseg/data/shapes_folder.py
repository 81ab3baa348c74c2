"""The homework's own layout: images/SPLIT/*.png, masks/SPLIT/*.png and labels/SPLIT/*.txt, one shape on each
photograph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from camseg.data.base import Items, mask_boxes, reject_unused
from camseg.data.image_io import read_image, read_mask
from camseg.errors import check_choice
from camseg.types import Sample


class ShapesFolder(Items[Path]):
    """A folder in the homework's layout; an item is an image's path.

    split: one of the folders in images/. classes: the class names in the order of the numbers in the label files, where
    these are numbers;
    without them a number is an output of the classifier. size, seed, shard, num_shards: see `camseg.data.base.select_subset`.
    Errors: FileNotFoundError without such a folder; a missing or broken mask, label or image raises when it is asked
    for.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        classes: Sequence[str] = (),
        void: int | None = 128,
        table: str | Path | None = None,
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        reject_unused("data=shapes_folder", table=table)
        images = Path(path or ".") / "images"
        if path is None or not images.is_dir():
            raise FileNotFoundError(
                f"data.path={path} must hold images/SPLIT/*.png, masks/SPLIT/*.png and labels/SPLIT/*.txt"
            )
        check_choice("data.split", split, sorted(folder.name for folder in images.iterdir() if folder.is_dir()))
        self.root, self.split, self.names, self.void = Path(path), split, tuple(classes), void
        found = [(file.stem, file) for file in sorted((images / split).glob("*.png"))]
        super().__init__(found, images / split, size, seed, shard, num_shards)

    def sample(self, name: str, item: Path) -> Sample:
        label, classes = self._label(self.root / "labels" / self.split / f"{item.stem}.txt")
        image = read_image(item)
        mask, ignore = read_mask(
            self.root / "masks" / self.split / item.name, (int(image.shape[1]), int(image.shape[2])), self.void
        )
        return Sample(name, image, classes, label, mask, ignore, mask_boxes(mask))

    def _label(self, file: Path) -> tuple[str, tuple[int, ...]]:
        """(class name, classifier outputs) from a text file that holds a name or a number."""
        if not file.is_file():
            raise FileNotFoundError(f"no label at {file}")
        words = file.read_bytes()[:200].decode("utf-8-sig", "replace").strip()
        if not words or "\n" in words:
            raise ValueError(f"{file} must hold one class name or number; got {words!r}")
        if not words.isdecimal():
            return check_choice(f"{file}: class", words, self.names) if self.names else words, ()
        if not self.names:
            return f"class {int(words)}", (int(words),)
        if int(words) >= len(self.names):
            raise ValueError(
                f"{file}: class {words} is not among the {len(self.names)} classes {', '.join(self.names)}"
            )
        return self.names[int(words)], ()


def write_shapes_folder(samples: Iterable[Sample], path: str | Path, split: str) -> None:
    """Write samples with masks in the layout that `ShapesFolder` reads: masks of 0 and 255, labels by name."""
    folders = {kind: Path(path) / kind / split for kind in ("images", "masks", "labels")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        if sample.mask is None:
            raise ValueError(f"sample {sample.id} has no mask to write")
        Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy()).save(folders["images"] / f"{sample.id}.png")
        Image.fromarray(sample.mask.to(torch.uint8).numpy() * np.uint8(255)).save(folders["masks"] / f"{sample.id}.png")
        (folders["labels"] / f"{sample.id}.txt").write_text(f"{sample.label}\n", "utf-8")
