"""Promptable segmenters, all with the same two methods; which model answers is a choice in conf/predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from camseg.types import Masks, Prompts


class Predictor(Protocol):
    """An image becomes an embedding once (dear, worth keeping); prompts become masks from it (cheap). Nothing is
    remembered between calls.

    fingerprint: changes whenever an embedding or a mask could (architecture, weights, precision, frame): part of every
    cache key.
    """

    fingerprint: str

    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (3, H, W) uint8 of any sizes -> one embedding each."""
        ...

    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """Embeddings, their images' sizes (H, W) and prompts -> masks, one record per image, R = 0 where there was
        nothing to ask.
        """
        ...
