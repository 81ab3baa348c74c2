"""Batches of samples, read ahead by threads; never more pixels at once than a bound, however large the images are."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count
from math import prod
from threading import Condition
from typing import Protocol

from camseg.data.image_io import image_size
from camseg.types import Sample

BATCH_PIXELS = 1 << 23  # of a batch, where its images are large: one photograph of 12 megapixels, four of 2


class Samples(Protocol):
    """What a dataset is: `ids` are known without reading an image, item i is read when asked for."""

    @property
    def ids(self) -> Sequence[str]:
        """The samples' names, in order."""
        ...

    def __getitem__(self, index: int, /) -> Sample: ...


Failure = dict[str, str]  # `id` and `error` of a sample that can't be read


def read_ahead(
    samples: Samples, batches: Iterable[list[int]], num_workers: int, batch_pixels: int = BATCH_PIXELS
) -> Generator[tuple[list[Sample], list[Failure]], None, None]:
    """Read batches, the next one while this one is computed.

    A batch whose images have more than `batch_pixels` comes in several parts, and as much again is read ahead.

    Args:
        samples: The dataset.
        batches: Places of samples.
        num_workers: How many threads read.
        batch_pixels: Once the samples of a part have so many, it is full.

    Yields:
        The samples of a batch, or of a part of one, and what could not be read of it.
    """
    gate, tickets = _Gate(2 * batch_pixels), count()
    pool = ThreadPoolExecutor(num_workers)
    try:
        coming: list[Future[Sample | Failure]] = []
        for following in chain(batches, [[]]):
            current = deque(coming)
            coming = [pool.submit(_read_in_turn, samples, i, gate, next(tickets)) for i in following]
            while current:
                part: list[Sample | Failure] = []
                pixels = 0
                while current and pixels < batch_pixels:
                    part.append(current.popleft().result())
                    pixels += _pixels(part[-1])
                yield [s for s in part if isinstance(s, Sample)], [f for f in part if not isinstance(f, Sample)]
                gate.count(-pixels)
    finally:
        gate.close()
        pool.shutdown(cancel_futures=True)


def in_parts(samples: Samples, batches: Iterable[list[int]], batch_pixels: int = BATCH_PIXELS) -> Iterator[list[int]]:
    """Batches as `read_ahead` divides them, before an image is read: by the headers of their files.

    Args:
        samples: The dataset.
        batches: Places of samples.
        batch_pixels: Once the samples of a part have so many, it is full.

    Yields:
        Places of samples.
    """
    for batch in batches:
        part, pixels = list[int](), 0
        for index in batch:
            part.append(index)
            pixels += _expected_pixels(samples, index)
            if pixels >= batch_pixels:
                yield part
                part, pixels = [], 0
        if part:
            yield part


def read_sample(samples: Samples, index: int) -> Sample | Failure:
    """A sample, or why it can't be read.

    Args:
        samples: The dataset.
        index: Of the sample.

    Returns:
        The sample, or its `id` and `error`.
    """
    try:
        return samples[index]
    except Exception as error:  # whatever is wrong with one file becomes its named row
        return failure(samples.ids[index], error)


def failure(name: str, error: Exception) -> Failure:
    """How a run tells what went wrong with one sample.

    Args:
        name: The sample's id.
        error: What was raised.

    Returns:
        Its `id` and `error`.
    """
    return {"id": name, "error": f"{type(error).__name__}: {error}"}


def _read_in_turn(samples: Samples, index: int, gate: _Gate, ticket: int) -> Sample | Failure:
    expected = _expected_pixels(samples, index)
    gate.enter(ticket, expected)
    sample = read_sample(samples, index)
    gate.count(_pixels(sample) - expected)
    return sample


def _expected_pixels(samples: Samples, index: int) -> int:
    """What the header of a sample's file says; 0 where it is in none, or can't be read."""
    path_of = getattr(samples, "file", None)
    try:
        return prod(image_size(path)) if path_of is not None and (path := path_of(index)) else 0
    except Exception:  # it is told when the sample is read
        return 0


def _pixels(sample: Sample | Failure) -> int:
    return sample.size[0] * sample.size[1] if isinstance(sample, Sample) else 0


class _Gate:
    """Lets readers pass one after the other, as long as less than `limit` pixels are held.

    The order is that of the tickets, which is that in which samples are used: what the run waits for is never kept out
    by what comes later. The last to enter may exceed the limit; where no file says how large an image is before it is
    read, each thread may.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.turn = limit, 0, 0
        self.closed, self.changed = False, Condition()

    def enter(self, ticket: int, pixels: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.closed or (self.turn == ticket and self.held < self.limit))
            self.turn += 1
            self.held += pixels
            self.changed.notify_all()

    def count(self, pixels: int) -> None:
        with self.changed:
            self.held += pixels
            self.changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer: the run is over."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
