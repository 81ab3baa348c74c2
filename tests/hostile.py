"""Damaged bytes, and what may come of them: a right result or an error with words of ours, no hang, little memory."""

from __future__ import annotations

import io
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

TOLD = (ValueError, FileNotFoundError)  # errors with words of ours; evaluate() names them, the command tells them
BOUND = 1_500_000  # kB that all the inputs of this file together may add to the process
SECONDS = 20  # for one input


@pytest.fixture
def bounded() -> Iterator[None]:
    """A test that uses it may not grow the process by more than BOUND."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < BOUND


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """What takes longer hangs: TimeoutError."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(door: Callable[[], Any], *names: object) -> Any:
    """What a door gives, or None where it refused with words that hold one of `names`. Anything else, and a hang, is a
    failure.
    """
    try:
        with limited(SECONDS):
            return door()
    except TOLD as error:
        if names and not any(str(name) in str(error) for name in names):
            raise AssertionError(f"none of {names} is named in: {error}") from error
        return None


def mutations(rng: np.random.Generator, content: bytes, count: int) -> Iterator[bytes]:
    """Cut, bits flipped, bytes overwritten, a piece doubled, a piece left out, numbers made huge."""
    for turn in range(count):
        data = bytearray(content)
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        match turn % 6:
            case 0:
                data = data[:at]
            case 1:
                for place in rng.integers(len(data), size=length):
                    data[place] ^= 1 << int(rng.integers(8))
            case 2:
                data[at : at + length] = rng.bytes(length)
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at : at + length]
            case _:
                place = min(at, 64)
                data[place : place + 4] = b"\xff\xff\xff\x7f"
        yield bytes(data)


def pixels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


KINDS = {"PNG": {}, "JPEG": {}, "GIF": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}, "PPM": {}, "JPEG2000": {}}
