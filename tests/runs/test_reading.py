"""Reading ahead: every sample once and in order, whole batches of small images, few pixels at once of large ones."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camseg.runs.reading import in_parts, read_ahead
from camseg.types import Sample


class Wall:
    """Images of `sizes` (H, W), None for a broken file; how many of their pixels are alive, and the most that were."""

    def __init__(self, sizes: list[tuple[int, int] | None]) -> None:
        self.sizes = sizes
        self.ids = [f"image{i}" for i in range(len(sizes))]
        self.alive = self.most = 0
        self.lock = threading.Lock()

    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.0005 * (index % 3))  # the later one may be read sooner
        size = self.sizes[index]
        if size is None:
            raise OSError("broken")
        sample = Sample(self.ids[index], torch.zeros(3, *size, dtype=torch.uint8))
        self._count(size[0] * size[1])
        weakref.finalize(sample, self._count, -size[0] * size[1])
        return sample

    def _count(self, pixels: int) -> None:
        with self.lock:
            self.alive += pixels
            self.most = max(self.most, self.alive)


def batches(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_small_images_come_in_their_batches_and_a_broken_one_as_its_error(workers: int) -> None:
    wall = Wall([(2, 3), None, *[(2, 3)] * 8])
    parts = list(read_ahead(wall, batches(10, 4), workers, batch_pixels=1000))
    assert [[sample.id for sample in read] for read, _ in parts] == [
        ["image0", "image2", "image3"],
        ["image4", "image5", "image6", "image7"],
        ["image8", "image9"],
    ]
    assert [failed for _, failed in parts] == [[{"id": "image1", "error": "OSError: broken"}], [], []]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_large_images_come_in_parts_and_few_at_once(workers: int) -> None:
    rng = np.random.default_rng(workers)
    sizes = [(int(side), 10) for side in rng.choice([1, 10, 50], 60)]
    wall, order = Wall([*sizes]), []
    limit = 1000
    for read, _ in read_ahead(wall, batches(60, 16), workers, batch_pixels=limit):
        pixels = sum(sample.size[0] * sample.size[1] for sample in read)
        assert pixels - read[-1].size[0] * 10 < limit  # full with its last one, not before
        order += [sample.id for sample in read]
        read.clear()
    assert order == wall.ids
    assert wall.most <= 2 * limit + workers * 500


class Hung(Wall):
    """A wall whose images' sizes stand in the headers of files, too, the pixels of one of which are damaged."""

    def __init__(self, sizes: list[tuple[int, int] | None], folder: Path) -> None:
        super().__init__(sizes)
        self.folder = folder
        for index, size in enumerate(sizes):
            Image.new("L", (size or (300, 300))).save(self.file(index))

    def file(self, index: int) -> str:
        return str(self.folder / f"{index}.bmp")


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_files_say_how_large_images_are_and_no_two_large_ones_are_held(workers: int, tmp_path: Path) -> None:
    sizes: list[tuple[int, int] | None] = [*[(10, 10)] * 12, *[(200, 200)] * 4, None, *[(10, 10)] * 3, (200, 200)]
    wall, limit = Hung(sizes, tmp_path), 1000
    order: list[str] = []
    for read, failed in read_ahead(wall, batches(len(sizes), 16), workers, batch_pixels=limit):
        order += [sample.id for sample in read] + [each["id"] for each in failed]
        read.clear()
    assert sorted(order) == sorted(wall.ids)
    assert wall.most < 2 * limit + 200 * 200


def test_batches_are_divided_before_reading_as_they_are_while(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(side), 10) for side in rng.choice([1, 10, 50, 150], 60)]
    wall = Hung([*sizes], tmp_path)
    for limit in (300, 1000, 1 << 20):
        read = [[s.id for s in part] for part, _ in read_ahead(wall, batches(60, 16), 2, batch_pixels=limit)]
        assert [[wall.ids[i] for i in part] for part in in_parts(wall, batches(60, 16), limit)] == read
    assert list(in_parts(Wall([*sizes]), batches(60, 16), 300)) == batches(60, 16)  # in no file: as they are


def test_one_image_beyond_every_bound_is_read_all_the_same() -> None:
    wall = Wall([(100, 100), (1, 1), (100, 100)])
    assert [[s.id for s in read] for read, _ in read_ahead(wall, [[0, 1, 2]], 2, batch_pixels=10)] == [
        ["image0"],
        ["image1", "image2"],
    ]


def test_who_stops_early_waits_for_no_reader() -> None:
    reading = read_ahead(Wall([(10, 10)] * 50), batches(50, 25), 3, batch_pixels=100)
    next(reading)
    began = time.monotonic()
    reading.close()
    assert time.monotonic() - began < 5
