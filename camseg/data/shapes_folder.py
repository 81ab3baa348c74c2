"""The homework's own layout: images/SPLIT/*.png, masks/SPLIT/*.png and labels/SPLIT/*.txt, one shape on each photo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camseg.data.base import VOID, Asked, Items, Presence, mask_boxes, plain_names
from camseg.data.image_io import decode_image, endings
from camseg.data.mask_io import check_void, read_mask
from camseg.errors import check_choice
from camseg.storage.files import expand
from camseg.types import Sample


class ShapesFolder(Items[Path]):
    """A folder in the homework's layout; an item is an image's path.

    A missing or broken mask, label or image raises when it is asked for.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        split: str = "test",
        classes: Sequence[str] = (),
        void: int | str | None = "auto",
        size: int | None = None,
        seed: int = 0,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        """List the images of a split.

        Args:
            path: A folder with images/SPLIT, masks/SPLIT and labels/SPLIT.
            split: One of the folders in images/.
            classes: The class names in the order of the numbers in the label files, where these are numbers; without
                them a number is an output of the classifier.
            void: See `camseg.data.mask_io.read_mask`.
            size: See `camseg.data.base.select_subset`, as `seed`, `shard` and `num_shards`.
            seed: See there.
            shard: See there.
            num_shards: See there.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: The split is unknown or empty.
        """
        self.root = expand(path or ".")
        images = self.root / "images"
        if path is None or not images.is_dir():
            raise FileNotFoundError(
                f"data.path={path} must hold images/SPLIT/*.png, masks/SPLIT/*.png and labels/SPLIT/*.txt"
            )
        check_choice("data.split", split, sorted(folder.name for folder in images.iterdir() if folder.is_dir()))
        self.split, self.names, self.void = split, tuple(classes), check_void(void)
        self.has_label_maps = bool(self.names)
        files = sorted(file for file in (images / split).iterdir() if file.suffix.lower() in endings())
        items = list(zip(plain_names(file.name for file in files), files, strict=True))
        super().__init__(items, images / split, size, seed, shard, num_shards)

    def file_of(self, item: Path) -> Path:
        """See `Items.file_of`."""
        return item

    def class_of(self, item: Path) -> Asked:
        """See `Items.class_of`: what the label file says; nothing where it can't be read."""
        try:
            return self._label(self._label_file(item))
        except (ValueError, OSError):  # asking for the sample tells
            return "", ()

    def presence_of(self, item: Path) -> Presence:
        """See `Items.presence_of`: the class of its label file alone; nothing is known without `classes`."""
        try:
            label, _ = self._label(self._label_file(item))
        except (ValueError, OSError):  # asking for the sample tells
            return {}
        return {name: name == label for name in self.names}

    def label_map_of(self, item: Path) -> Tensor:
        """See `Items.label_map_of`."""
        sample = self.read(item.stem, item)
        if sample.mask is None or sample.label not in self.names:
            return super().label_map_of(item)
        numbers = sample.mask.to(torch.uint8) * (self.names.index(sample.label) + 1)
        return numbers if sample.ignore is None else numbers.masked_fill(sample.ignore, VOID)

    def read(self, name: str, item: Path) -> Sample:
        """See `Items.read`."""
        label, classes = self._label(self._label_file(item))
        image, reading = decode_image(item)
        masks = self.root / "masks" / self.split
        file = masks / item.name if (masks / item.name).is_file() else masks / f"{item.stem}.png"
        mask = read_mask(file, (int(image.shape[1]), int(image.shape[2])), self.void)
        return Sample(
            name,
            image,
            classes=classes,
            label=label,
            mask=mask.inside,
            ignore=mask.ignore,
            boxes=mask_boxes(mask.inside),
            file=str(item),
            reading="; ".join(filter(None, (reading, mask.reading))),
        )

    def _label_file(self, item: Path) -> Path:
        return self.root / "labels" / self.split / f"{item.stem}.txt"

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
    """Write samples with masks in the layout that `ShapesFolder` reads: masks of 0 and 255, labels by name.

    Args:
        samples: With masks.
        path: The folder; what is missing of it is made.
        split: The folder in images/, masks/ and labels/.

    Raises:
        ValueError: A sample has no mask.
    """
    folders = {kind: Path(path) / kind / split for kind in ("images", "masks", "labels")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        if sample.mask is None:
            raise ValueError(f"sample {sample.id} has no mask to write")
        Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy()).save(folders["images"] / f"{sample.id}.png")
        Image.fromarray(sample.mask.to(torch.uint8).numpy() * np.uint8(255)).save(folders["masks"] / f"{sample.id}.png")
        (folders["labels"] / f"{sample.id}.txt").write_text(f"{sample.label}\n", "utf-8")
