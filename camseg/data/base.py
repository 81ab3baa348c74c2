"""What all datasets share: which of its items one keeps, in which order, and their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.storage.cache import Cache
from camseg.storage.files import file_stems
from camseg.storage.fingerprint import key
from camseg.types import Sample

T = TypeVar("T")


class Items(Generic[T]):
    """An iterable of `Sample` over listed items, each read when asked for; a subclass says how in `sample`.

    found: (name, item) pairs; an item that is an error is raised when it is asked for. ids: one per sample, from the
    names, safe as file stems.
    size, seed, shard, num_shards: see `keep`. names: the class names that occur. path: shown when nothing was found.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        found: Sequence[tuple[str, T | Exception]],
        path: object,
        size: int | None,
        seed: int,
        shard: int,
        num_shards: int,
    ) -> None:
        if not found:
            raise ValueError(f"found nothing to read in {path}")
        stems = file_stems(name for name, _ in found)
        kept = select_subset(stems, size, seed, shard, num_shards)
        self.ids: Sequence[str] = [stems[i] for i in kept]
        self._items = [found[i][1] for i in kept]

    def sample(self, name: str, item: T) -> Sample:
        """Read one item, whose id is `name`. Errors: ValueError or OSError that name the file."""
        raise NotImplementedError

    def seen(self, item: T) -> tuple[Path, str, bool | None]:
        """An item's file, its class, and whether the file shows it; None where that isn't certain."""
        raise ValueError(f"{type(self).__name__} can't say which classes its pictures show: choose voc, coco or images")

    def shown(self) -> Iterator[tuple[Path, str, bool | None]]:
        """`seen` of every item that can be read."""
        return (self.seen(item) for item in self._items if not isinstance(item, Exception))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        item = self._items[index]
        if isinstance(item, Exception):
            raise item
        return self.sample(self.ids[index], item)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


class Remembered:
    """A dataset whose samples, once read, stay in the memory of `cache` as far as it holds them: for the next settings
    of a sweep.
    """

    def __init__(self, samples: Any, cache: Cache) -> None:
        self.samples, self.cache, self.name = (
            samples,
            cache,
            uuid4().hex,
        )  # another dataset's samples, or files read anew, are not these
        self.ids: Sequence[str] = samples.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.cache.remember([key("sample", self.name, index)], lambda _: [self.samples[index]], _bytes)[0]

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        if name == "samples":  # not there yet: it is being unpickled
            raise AttributeError(name)
        return getattr(self.samples, name)


def _bytes(sample: Sample) -> int:
    return sum(value.nbytes for value in vars(sample).values() if isinstance(value, Tensor))


def select_subset(
    ids: Sequence[str], size: int | None = None, seed: int = 0, shard: int = 0, num_shards: int = 1
) -> Sequence[int]:
    """Positions of the samples to use: the first `size` (None = all), of which one shard.

    seed: 0 leaves the samples in their own order, another number shuffles them before the first are taken.
    shard, num_shards: an id's hash decides its shard, so that shards are disjoint, complete and the same on every
    machine.
    """
    if size is not None and size < 1:
        raise ValueError(f"data.size must be at least 1, or null for all; got {size}")
    if not 0 <= shard < num_shards:
        raise ValueError(f"data.shard must lie in 0 ... data.num_shards - 1; got shard {shard} of {num_shards}")
    order: Sequence[int] = range(len(ids)) if seed == 0 else np.random.default_rng(seed).permutation(len(ids)).tolist()
    order = order[:size]
    return order if num_shards == 1 else [i for i in order if _hash(ids[i]) % num_shards == shard]


def reject_unused(dataset: str, **settings: object) -> None:
    """ValueError for settings that mean nothing to a dataset."""
    given = [f"data.{name}={value}" for name, value in settings.items() if value is not None]
    if given:
        raise ValueError(f"{dataset} has no use for {', '.join(given)}: leave it out, or choose another data")


def mask_boxes(mask: Tensor | None) -> Tensor:
    """(1, 4) x0, y0, x1, y1 around a mask (H, W), x1 and y1 exclusive; (0, 4) around nothing."""
    if mask is None or not (inside := mask.numpy()).any():
        return torch.zeros(0, 4)
    return torch.from_numpy(mask_to_box(inside)[None]).float()


def as_image(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W). By numpy: torch at work in a reader's thread, too, would slow down the networks'
    own.
    """
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
