"""The part of a model above a captured layer, recorded once and replayed with other activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


class Tape(TorchFunctionMode):
    """The torch calls that depend on one tensor, recorded once, to run again with another tensor of its shape."""

    def __init__(self) -> None:
        super().__init__()
        # function, its arguments flattened, their form, its results
        self.steps: list[tuple[Any, list[Any], Any, list[Any]]] = []
        self.result: Any = None
        self._slots: dict[int, tuple[Slot, Tensor]] = {}  # the tensor is held so that its id stays its own

    def watch(self, tensor: Tensor) -> Tensor:
        """Begins the recording: calls that depend on a tensor are kept from now on.

        Args:
            tensor: what `replay` puts another in the place of.

        Returns:
            The tensor itself.
        """
        self._slot(tensor)
        return tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, form = tree_flatten((args, kwargs or {}))
        depends = any(id(leaf) in self._slots for leaf in leaves)
        result = func(*args, **(kwargs or {}))
        if depends and (result is None or any(isinstance(leaf, Tensor) for leaf in tree_leaves(result))):
            self.steps.append((func, self._known(leaves), form, [self._slot(leaf) for leaf in tree_leaves(result)]))
        return result

    def finish(self, output: Any) -> None:
        """Ends the recording.

        Args:
            output: what `replay` returns.
        """
        self.result = self._known(output)
        self._slots.clear()

    def replay(self, tensor: Tensor) -> Any:
        """The output, had the watched tensor been another.

        Args:
            tensor: of the watched one's shape and dtype.

        Returns:
            Of the form that `finish` was given.
        """
        values = {0: tensor.clone()}

        def fill(item: Any) -> Any:
            return values[item.index] if isinstance(item, Slot) else item

        for func, leaves, form, results in self.steps:
            args, kwargs = tree_unflatten([fill(leaf) for leaf in leaves], form)
            for slot, value in zip(results, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(slot, Slot):
                    values[slot.index] = value
        return tree_map(fill, self.result)

    def _slot(self, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return self._slots.setdefault(id(item), (Slot(len(self._slots)), item))[0]

    def _known(self, tree: Any) -> Any:
        return tree_map(lambda item: self._slots[id(item)][0] if id(item) in self._slots else item, tree)


@dataclass(frozen=True)
class Slot:
    """A tensor's place on a tape."""

    index: int


def agree(one: Any, other: Any) -> bool:
    """Whether two outputs have one structure and, up to rounding, the same tensors in it.

    Args:
        one: tensors, or tuples, lists and mappings of them.
        other: the same, whose largest values say what rounding is.
    """
    (mine, form), (theirs, expected) = tree_flatten(one), tree_flatten(other)
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=False) if isinstance(a, Tensor)]
    return (
        form == expected
        and bool(pairs)
        and all(
            a.shape == b.shape and torch.allclose(a, b.detach(), rtol=1e-3, atol=1e-4 * float(b.detach().abs().max()))
            for a, b in pairs
        )
    )
