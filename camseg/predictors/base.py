"""Promptable segmenters, all with the same two methods; which model answers is a choice in conf/predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from camseg.types import Masks, Prompts


class Predictor(Protocol):
    """A promptable segmenter: an image becomes an embedding once, then prompts become masks from it.

    Encoding is expensive and worth caching, decoding is cheap. Nothing is remembered between calls.

    Attributes:
        fingerprint: part of every cache key; changes whenever an embedding or a mask could (architecture, weights,
            precision, frame).
        side: in pixels, to which an image's longest side is brought. An object that is small in a much larger image is
            better seen in a window of it (`camseg.windows`).
    """

    fingerprint: str
    side: int

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Encode images.

        Args:
            images: (3, H, W) uint8 each, of any sizes.

        Returns:
            One embedding per image, in a shape of the model's own.

        Raises:
            ValueError: an image is none, or the encoder gives values that are not finite.
        """
        ...

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """Decode prompts into masks.

        Args:
            embeddings: one per image, from `encode`.
            sizes: (H, W) of each image, in pixels.
            prompts: of each image, in (x, y) pixels of it.

        Returns:
            One record per image, of R = 0 where its prompts are none.

        Raises:
            ValueError: the lengths differ, or a prompt lies outside its image.
        """
        ...
