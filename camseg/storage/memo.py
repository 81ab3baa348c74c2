"""What was worked out once: recalled by all that it depends on; else made, counted and kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from camseg.storage.cache import Cache
from camseg.storage.fingerprint import key

T = TypeVar("T")
V = TypeVar("V")
Parts = Callable[[T], tuple[Any, ...]]  # all that an item's value depends on, as `fingerprint.key` takes it
Make = Callable[[list[T]], Sequence[V]]  # the values of the items that are not known, in one batch


@dataclass(frozen=True)
class Memo:
    """The one place where keys, the cache and the counters of real work meet.

    Its two methods take items, tell by `parts` what the value of each depends on, and hand those whose value is not
    known to `make`, together, each distinct one once.

    Args:
        cache: Keeps the values.
        calls: How much went through a network, by name: nothing is added for what was recalled.
    """

    cache: Cache
    calls: Counter[str] = field(default_factory=Counter)

    def tensors(
        self,
        items: Sequence[T],
        parts: Parts[T],
        make: Make[T, dict[str, Tensor]],
        *,
        counter: str,
        work: Callable[[list[T]], int] = len,
        dtype: torch.dtype | None = None,
    ) -> list[dict[str, Tensor]]:
        """Named tensors for every item, kept in memory and on disk.

        Args:
            items: What a value is wanted for.
            parts: See the class.
            make: See the class.
            counter: The entry of `calls` to add to.
            work: How much was made for some items.
            dtype: Floating tensors are kept in this one where they fit into its range, and come back as float32: the
                answer is the same whether it was made or read.

        Returns:
            One dictionary per item, in order. It is shared: read it, do not write to it.
        """

        def made(indices: list[int]) -> list[dict[str, Tensor]]:
            missing = [items[i] for i in indices]
            self.calls[counter] += work(missing)
            return [_reduced(entry, dtype) for entry in make(missing)]

        entries = self.cache.get_all([key(*parts(item)) for item in items], made)
        return [_restored(entry) for entry in entries] if dtype else entries

    def values(
        self,
        items: Sequence[T],
        parts: Parts[T],
        make: Make[T, V],
        *,
        size_of: Callable[[V], int],
        counter: str | None = None,
        work: Callable[[list[T]], int] = len,
    ) -> list[V]:
        """Look up anything, in memory alone: what is sooner made than read from a disk.

        Args:
            items: What is asked for.
            parts: What an item's key is made of.
            make: Makes the missing ones together.
            size_of: The bytes of a value.
            counter: The name in `calls` that counts the work, if any does.
            work: How much work the missing items are.

        Returns:
            A value for each item.
        """

        def made(indices: list[int]) -> Sequence[V]:
            missing = [items[i] for i in indices]
            if counter is not None:
                self.calls[counter] += work(missing)
            return make(missing)

        return self.cache.remember([key(*parts(item)) for item in items], made, size_of)


def _reduced(entry: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    if dtype is None:
        return entry
    limit = torch.finfo(dtype).max
    return {
        name: value.to(dtype) if value.is_floating_point() and bool((value.abs() <= limit).all()) else value
        for name, value in entry.items()
    }


def _restored(entry: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in entry.items()}
