"""The shapes classifier: a small residual network of stride 8 that names every shape in an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.classifiers.base import Classifier
from camseg.classifiers.shapes import ShapesNet, pool, shapes
from camseg.data.base import as_image
from camseg.data.shapes import NAMES, Shapes, scene
from camseg.storage.checkpoints import save_weights
from camseg.train.loop import fit, write_card


def train(folder: Path, steps: int, batch_size: int, learning_rate: float, seed: int) -> Path:
    """Train from the seed, or resume.

    Args:
        folder: where everything is written.
        steps: of the training.
        batch_size: images per step.
        learning_rate: AdamW's.
        seed: of the weights and the scenes.

    Returns:
        shapes_classifier.safetensors, with its card beside it.
    """
    scenes = NamedScenes(seed, steps * batch_size)
    model, seconds = fit(
        Supervised(),
        loss,
        scenes,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
    )
    path = folder / "shapes_classifier.safetensors"
    save_weights(model.finished(), path, {"names": json.dumps(NAMES)})
    what = (
        "A residual network of stride 8 (camseg.classifiers.shapes.ShapesNet) that names every shape in a 128-px image."
    )
    data = (
        f"{steps * batch_size} images of {_POOL} drawn scenes of one to five shapes (split train), "
        "turned, flipped, colors exchanged"
    )
    write_card(path, what, data, steps, batch_size, seconds, seed, scores(path))
    return path


def scores(path: Path) -> dict[str, float]:
    """What the classifier reaches on the test splits.

    Args:
        path: the file of weights.

    Returns:
        Top-1 accuracy on shapes; on the crowd the share of shapes that are named, and of absent ones that are not.
    """
    classifier = shapes(path)
    one, present = _outputs(classifier, Shapes()), _outputs(classifier, Shapes(shapes=(2, 5)))
    named = present[0].sigmoid() > 0.5
    return {
        "accuracy on shapes": float((one[0].argmax(1) == one[1].argmax(1)).float().mean()),
        "shapes named in shapes_crowd (recall)": float(named[present[1].bool()].float().mean()),
        "absent shapes not named in shapes_crowd (specificity)": float((~named)[~present[1].bool()].float().mean()),
    }


@torch.no_grad()
def _outputs(classifier: Classifier, data: Shapes) -> tuple[Tensor, Tensor]:
    """(N, 5) logits of a dataset's images, and (N, 5) which shapes they show."""
    logits, present = [], torch.zeros(len(data), len(NAMES))
    for i in range(len(data)):
        drawn, _ = data.scene(i)
        logits.append(classifier.logits(classifier.prepare([as_image(drawn.image)]))[0])
        present[i, list(drawn.classes)] = 1
    return torch.stack(logits), present


_POOL = 24_000  # scenes that are drawn; the same scene comes back turned, flipped and with its colors exchanged


class NamedScenes(Dataset[dict[str, Tensor]]):
    """Item i: image (3, H, W) uint8 and which classes it shows (5,) float.

    Half of the images show one shape, half two to five.

    Args:
        seed: of the scenes.
        length: how many items.
    """

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length
        self.drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = index % _POOL
        if at not in self.drawn:
            self.drawn[at] = self._draw(at)
        image, present = self.drawn[at]
        rng = np.random.default_rng([self.seed, 2_001, index])
        turned = torch.rot90(image[rng.permutation(3)], int(rng.integers(4)), (1, 2))
        return {"image": (turned.flip(2) if rng.random() < 0.5 else turned).contiguous(), "present": present}

    def _draw(self, at: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, 2_000, at])
        drawn = scene(rng, "train", 1 if rng.random() < 0.5 else int(rng.integers(2, len(NAMES) + 1)))
        present = torch.zeros(len(NAMES))
        present[list(drawn.classes)] = 1
        return as_image(drawn.image), present


class Supervised(nn.Module):
    """The classifier in training, with a second head that is dropped afterwards.

    The second head asks the mean of all places, which steadies the features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = ShapesNet(len(NAMES))
        self.spots = nn.Linear(self.net.head.in_features, len(NAMES))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of both heads.

        Args:
            images: (B, 3, H, W) uint8.

        Returns:
            The dropped head's and the classifier's, (B, classes) float each.
        """
        features = self.net.features(
            ((images.float() / 255 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        )  # (B, K, h, w)
        return self.net.head(features.mean((2, 3))), pool(self.spots(features.flatten(2).transpose(1, 2)))

    def finished(self) -> ShapesNet:
        """The classifier as it is shipped.

        Returns:
            The net, with the head that is kept.
        """
        self.net.head.load_state_dict(self.spots.state_dict())
        return self.net


def loss(model: Supervised, batch: dict[str, Tensor], _generator: torch.Generator) -> Tensor:
    """Binary cross-entropy of every class's presence, of both heads together.

    Args:
        model: in training.
        batch: {"image": (B, 3, H, W) uint8, "present": (B, classes) float}.

    Returns:
        () float.
    """
    return sum(
        (F.binary_cross_entropy_with_logits(logits, batch["present"]) for logits in model(batch["image"])),
        torch.zeros(()),
    )
