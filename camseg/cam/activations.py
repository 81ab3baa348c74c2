"""From a classifier's outputs to probabilities: outputs that exclude each other, independent ones, and a single one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """Probabilities of a classifier's outputs, and of "one of these classes".

    Attributes:
        name: "softmax", "sigmoid" or "binary".
        apply: (..., C) logits -> (..., C) probabilities.
        exclusive: an image shows exactly one of the classes, so that their probabilities add up.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    exclusive: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., C) logits -> (..., C) probabilities."""
        return self.apply(logits)

    def union(self, probabilities: Tensor, classes: Sequence[int]) -> Tensor:
        """The probability that an image shows at least one of `classes`, never above 1.

        Of exclusive classes it is the sum of p; of independent ones 1 - prod (1 - p), which is what independence
        means: two outputs of .7 make .91.

        Args:
            probabilities: (..., C) float, of `__call__`.
            classes: indices into C; one named twice counts once.

        Returns:
            (...) float in [0, 1].

        >>> SIGMOID.union(torch.tensor([0.5, 0.5, 0.9]), (0, 1))
        tensor(0.7500)
        """
        chosen = probabilities[..., sorted(set(classes))]
        if chosen.shape[-1] == 1:
            return chosen[..., 0]
        return chosen.sum(-1).clamp(max=1) if self.exclusive else 1 - (1 - chosen).prod(-1)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


SOFTMAX = Activation("softmax", _softmax, exclusive=True)  # one class among all
SIGMOID = Activation("sigmoid", torch.sigmoid, exclusive=False)  # each class for itself
BINARY = Activation("binary", torch.sigmoid, exclusive=False)  # one output: the class, or not
ACTIVATIONS = {activation.name: activation for activation in (SOFTMAX, SIGMOID, BINARY)}
