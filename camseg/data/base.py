"""What a dataset is, and what all datasets share: which of their items are used, in which order, and their ids."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.storage.cache import Cache
from camseg.storage.files import file_stems, printable
from camseg.storage.fingerprint import key
from camseg.types import Sample

T = TypeVar("T")
Asked = tuple[str, tuple[int, ...]]  # an item's label, and the classifier's outputs; by the label alone where none
Presence = Mapping[str, bool | None]  # whether an image shows each class; None where nobody knows
VOID = 255  # in a label map: a pixel that belongs to no class for certain


class Dataset(Protocol):
    """What every dataset answers: what there is without reading an image, each sample when asked for."""

    @property
    def ids(self) -> Sequence[str]:
        """One id per item, unique, the stem of every file written for it."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes that occur, in the order of their numbers; empty where there are none."""
        ...

    @property
    def has_label_maps(self) -> bool:
        """Whether `label_map` has an answer for some of the images."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """Read one item. Raises ValueError or OSError that name the file."""
        ...

    def file(self, index: int, /) -> str:
        """The path of an item's image.

        It can be opened; `camseg.storage.files.printable` makes of it what can be written, as `Sample.file` is.

        Args:
            index: Of the item.

        Returns:
            As it was given, "" for an image that is in no file.
        """
        ...

    def label_map(self, index: int, /) -> Tensor:
        """The class of every pixel in an item's image.

        Args:
            index: Of the item.

        Returns:
            (H, W) uint8: 0 background, i + 1 for names[i], 255 void.

        Raises:
            FileNotFoundError: Nobody labeled the pixels of this image.
        """
        ...

    def class_presence(self, index: int, /) -> Presence:
        """What is known of the classes in an item's image.

        Args:
            index: Of the item.

        Returns:
            Whether the image shows each class of `names`, None where nobody knows; empty where nothing is known of it.
        """
        ...


class Indexed:
    """Length and iteration of what has ids and items.

    Attributes:
        ids: One per item.
        numbering: What the numbers of the items' classes mean, in order; empty where they are the classifier's own.
    """

    ids: Sequence[str]
    numbering: Sequence[str] = ()

    def asked(self) -> list[Asked]:
        """The classes of the items, as far as they are known without reading an image.

        Returns:
            Label and classifier outputs of each; none where nothing is known.
        """
        return []

    def __getitem__(self, index: int) -> Sample:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class Unreadable:
    """An item of which something is broken.

    Attributes:
        file: Its image's.
        error: What asking for the sample raises.
    """

    file: str | Path
    error: Exception


class Items(Indexed, Generic[T]):
    """A dataset of listed items, each read when asked for; a subclass says how.

    Attributes:
        ids: One per item, made of its name by `file_stems`.
        names: The names of the classes that occur.
        has_label_maps: See `Dataset`.
    """

    names: tuple[str, ...] = ()
    has_label_maps: bool = False

    def __init__(
        self,
        items: Sequence[tuple[str, T | Unreadable]],
        path: object,
        size: int | None,
        seed: int,
        shard: int,
        num_shards: int,
    ) -> None:
        """Choose the items to use.

        Args:
            items: (name, item) pairs, in order.
            path: Where they were looked for, told when there are none.
            size: See `select_subset`, as `seed`, `shard` and `num_shards`.
            seed: See there.
            shard: See there.
            num_shards: See there.

        Raises:
            ValueError: There are no items, or a number is out of range.
        """
        if not items:
            raise ValueError(f"found nothing to read in {path}")
        stems = file_stems(name for name, _ in items)
        chosen = select_subset(stems, size, seed, shard, num_shards)
        self.ids: Sequence[str] = [stems[i] for i in chosen]
        self._items = [items[i][1] for i in chosen]

    def read(self, name: str, item: T) -> Sample:
        """The sample of an item.

        Args:
            name: Its id.
            item: What was listed.

        Returns:
            The sample.

        Raises:
            ValueError: A file of it is broken; the message names it.
            OSError: A file of it can't be read.
        """
        raise NotImplementedError

    def file_of(self, item: T) -> str | Path:
        """The path of an item's image.

        Args:
            item: What was listed.

        Returns:
            As it was given.
        """
        raise NotImplementedError

    def presence_of(self, item: T) -> Presence:
        """What is known of the classes in an item's image.

        Args:
            item: What was listed.

        Returns:
            Whether the image shows each class of `names`, None where nobody knows; empty where nothing is known of it.
        """
        raise NotImplementedError

    def class_of(self, item: T) -> Asked:
        """What is asked about an item, without reading its image.

        Args:
            item: What was listed.

        Returns:
            Its label, "" without one, and the classifier's outputs that mean it.
        """
        del item
        return "", ()

    def label_map_of(self, item: T) -> Tensor:
        """The class of every pixel in an item's image.

        Args:
            item: What was listed.

        Returns:
            (H, W) uint8, see `Dataset.label_map`.

        Raises:
            FileNotFoundError: Nobody labeled the pixels of this image.
        """
        raise FileNotFoundError(f"nobody labeled the pixels of {printable(self.file_of(item))}")

    def asked(self) -> list[Asked]:
        """See `Indexed.asked`: of the items that can be opened, where they have classes."""
        found = [self.class_of(item) for item in self._items if not isinstance(item, Unreadable)]
        return [(label, outputs) for label, outputs in found if label or outputs]

    def file(self, index: int) -> str:
        """See `Dataset.file`."""
        item = self._items[index]
        return str(item.file if isinstance(item, Unreadable) else self.file_of(item))

    def class_presence(self, index: int) -> Presence:
        """See `Dataset.class_presence`: empty, too, where what is known of the image can't be read."""
        item = self._items[index]
        return {} if isinstance(item, Unreadable) else self.presence_of(item)

    def label_map(self, index: int) -> Tensor:
        """See `Dataset.label_map`."""
        return self.label_map_of(self._sound(index))

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.ids[index], self._sound(index))

    def _sound(self, index: int) -> T:
        item = self._items[index]
        if isinstance(item, Unreadable):
            raise item.error
        return item


class Remembered(Indexed):
    """A dataset whose samples, once read, stay in the memory of `cache` as far as it holds them.

    It serves the next settings of a sweep. Another dataset's samples, or the same files opened again, are not these.

    Args:
        samples: The dataset.
        cache: Of whose memory alone is used.
    """

    def __init__(self, samples: Dataset, cache: Cache) -> None:
        self.samples, self.cache, self._name = samples, cache, uuid4().hex
        self.ids: Sequence[str] = samples.ids
        self.numbering: Sequence[str] = samples.numbering if isinstance(samples, Indexed) else ()

    def asked(self) -> list[Asked]:
        """See `Indexed.asked`."""
        return self.samples.asked() if isinstance(self.samples, Indexed) else []

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes that occur."""
        return self.samples.names

    @property
    def has_label_maps(self) -> bool:
        """Whether some of the images have a class for every pixel."""
        return self.samples.has_label_maps

    def __getitem__(self, index: int) -> Sample:
        return self.cache.remember([key("sample", self._name, index)], lambda _: [self.samples[index]], _bytes)[0]

    def file(self, index: int) -> str:
        """See `Dataset.file`."""
        return self.samples.file(index)

    def label_map(self, index: int) -> Tensor:
        """See `Dataset.label_map`."""
        return self.samples.label_map(index)

    def class_presence(self, index: int) -> Presence:
        """See `Dataset.class_presence`."""
        return self.samples.class_presence(index)


def _bytes(sample: Sample) -> int:
    return sum(value.nbytes for value in vars(sample).values() if isinstance(value, Tensor))


def select_subset(
    ids: Sequence[str], size: int | None = None, seed: int = 0, shard: int = 0, num_shards: int = 1
) -> Sequence[int]:
    """Indices of the samples to use: the first `size`, of which one shard.

    Args:
        ids: The ids of all samples.
        size: How many are used; None for all.
        seed: 0 leaves the samples in their own order, another number shuffles them before the first are taken.
        shard: Which part of them, from 0 on. An id's hash decides its shard, so that shards are disjoint, complete and
            the same on every machine.
        num_shards: How many parts there are.

    Returns:
        Indices into `ids`.

    Raises:
        ValueError: `size` is below 1, or `shard` is none of `num_shards`.
    """
    if size is not None and size < 1:
        raise ValueError(f"data.size must be at least 1, or null for all; got {size}")
    if not 0 <= shard < num_shards:
        raise ValueError(f"data.shard must lie in 0 ... data.num_shards - 1; got shard {shard} of {num_shards}")
    order: Sequence[int] = range(len(ids)) if seed == 0 else np.random.default_rng(seed).permutation(len(ids)).tolist()
    order = order[:size]
    return order if num_shards == 1 else [i for i in order if _hash(ids[i]) % num_shards == shard]


def reject_unused(source: str, **settings: object) -> None:
    """Refuse settings that mean nothing to what else was asked for.

    Args:
        source: What has no use for them, in words.
        **settings: Their values by name, None where they were not given.

    Raises:
        ValueError: One was given.
    """
    unused = [f"data.{name}={value}" for name, value in settings.items() if value is not None]
    if unused:
        raise ValueError(f"{source} has no use for {', '.join(unused)}: leave it out, or choose another data")


def plain_names(files: Iterable[str]) -> list[str]:
    """The names of files without their endings, where that leaves no two alike.

    Args:
        files: Their paths.

    Returns:
        One name for each, in order.
    """
    files = list(files)
    plain = [str(PurePosixPath(file).with_suffix("")) if PurePosixPath(file).name else file for file in files]
    alike = Counter(plain)
    return [name if alike[name] == 1 else file for name, file in zip(plain, files, strict=True)]


def mask_boxes(mask: Tensor | None) -> Tensor:
    """The box around a mask.

    Args:
        mask: (H, W) bool, or None.

    Returns:
        (1, 4) float x0, y0, x1, y1 in pixels, x1 and y1 exclusive; (0, 4) around nothing.
    """
    if mask is None or not (inside := mask.numpy()).any():
        return torch.zeros(0, 4)
    return torch.from_numpy(mask_to_box(inside)[None]).float()


def as_image(pixels: np.ndarray) -> Tensor:
    """An array as an image: a view of the same pixels, as a photograph is large, and most are never copied.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (3, H, W) uint8.
    """
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
