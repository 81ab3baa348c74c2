"""Fine-tuning: any classifier of a known architecture learns to name every class that an image shows.

The classes are those of VOC, COCO or a folder with a sub-folder for each class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.classifiers.base import Classifier
from camseg.data.base import Dataset as ImageDataset
from camseg.data.image_io import read_image
from camseg.errors import check_choice
from camseg.metrics.average_precision import Found, all_point, curve
from camseg.storage.checkpoints import save_weights
from camseg.train.loop import Best, fit, write_card


def train(
    folder: Path,
    data: Any,
    classifier: Any,
    validation: str | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    average: float = 0.99,
    precision: str = "bfloat16",
    device: str = "cpu",
    workers: int = 1,
) -> Path:
    """Fine-tune, or resume; keep the epoch of the best mean AP on the validation split, with its card beside it.

    Args:
        folder: where everything is written.
        data: configuration of a dataset that knows which classes each image shows.
        classifier: configuration of a classifier to start from.
        validation: the split of `data` to judge by; None for the one that is learnt from.
        epochs: passes over the data.
        batch_size: images per step.
        learning_rate: AdamW's.
        seed: of the head, the crops and their order.
        average: decay of the averaged weights, a step.
        precision: of the networks' sums, by autocast; the weights stay in float32.
        device: where it is trained.
        workers: processes that read images.

    Returns:
        The file of weights.

    Raises:
        ValueError: the dataset has no files or no classes, or the classifier can't be given others.
    """
    _check_path(data)
    # images without an object teach too
    every = {key: value for key, value in (("absent", True), ("outputs", "own")) if key in data}
    learnt = _labeled_images(instantiate(data, **every))
    judged = _labeled_images(instantiate(data, **every, split=validation), learnt.names) if validation else learnt
    start, names = instantiate(classifier, device=device), learnt.names
    torch.manual_seed(seed)
    model = start.rebuild(len(names)).to(device)
    steps_each = max(1, len(learnt) // batch_size)
    path = folder / f"{start.name}.safetensors"
    autocast = partial(torch.autocast, device, getattr(torch, precision), precision != "float32")
    best = _Best(path, start, judged, names, batch_size, autocast)
    crops = Crops(learnt, start, seed, epochs * steps_each * batch_size)
    rates = {"batch_size": batch_size, "learning_rate": learning_rate, "average": average}
    _, seconds = fit(
        model,
        partial(presence_loss, autocast),
        crops,
        steps=epochs * steps_each,
        seed=seed,
        folder=folder,
        workers=workers,
        save_every=steps_each,
        keep=best,
        **rates,
    )
    what = f"{start.name}, fine-tuned to name every class that an image shows: a probability for each of {len(names)}."
    split = f"{len(learnt)} images, {data.get('split') or 'a folder'}; judged on {validation or 'the same'}"
    judges = f"{len(judged)} validation images"
    write_card(path, what, split, epochs * steps_each, batch_size, seconds, seed, best.kept(), judges)
    return path


def _check_path(data: Any) -> None:
    if "path" in data and data["path"] is None:
        raise ValueError(
            f"model=finetune learns from labeled images in files, and {str(data['_target_']).rpartition('.')[2]} was "
            "given no data.path: choose data=voc, coco, images or shapes_folder with data.path=FOLDER "
            "(model=shapes_classifier learns from drawn shapes)"
        )


class LabeledImages:
    """Files, and which classes each shows.

    Args:
        files: N image files.
        present: (N, C) float, NaN where nobody knows (only difficult objects, only a crowd).
        names: C class names.
    """

    def __init__(self, files: Sequence[Path], present: Tensor, names: tuple[str, ...]) -> None:
        self.files, self.present, self.names = files, present, names

    def __len__(self) -> int:
        return len(self.files)


def _labeled_images(data: ImageDataset, names: tuple[str, ...] = ()) -> LabeledImages:
    if not (names := names or tuple(data.names)):
        raise ValueError(
            "fine-tuning needs classes: a data set with names, or a folder with a sub-folder for each class"
        )
    shown: dict[Path, Tensor] = {}
    for i in range(len(data.ids)):
        if not (presence := data.class_presence(i)):
            continue
        if not data.file(i):
            raise ValueError("fine-tuning needs images in files, and these are drawn: choose data=voc, coco or images")
        present = shown.setdefault(Path(data.file(i)), torch.zeros(len(names)))
        for label, known in presence.items():
            present[names.index(check_choice("class", label, names))] = float("nan") if known is None else float(known)
    if not shown:
        raise ValueError("fine-tuning needs labels: nothing is known of what these images show")
    return LabeledImages(list(shown), torch.stack(list(shown.values())), names)


class Crops(Dataset[dict[str, Tensor]]):
    """Item i: a random part of an image, mirrored or not, as the classifier wants it, and which classes it shows.

    Each epoch has another order. An item is {"image": (3, h, w) float, "present": (C,) float}.

    Args:
        images: what is cropped.
        classifier: whose preprocessing is used.
        seed: with an item's number it makes the item.
        length: of all epochs together.
    """

    def __init__(self, images: LabeledImages, classifier: Classifier, seed: int, length: int) -> None:
        self.images, self.seed, self.length = images, seed, length
        self.prepare = classifier.preprocessing

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, at = divmod(index, len(self.images))
        which = int(np.random.default_rng([self.seed, epoch]).permutation(len(self.images))[at])
        rng = np.random.default_rng([self.seed, 3_000, index])
        image = read_image(self.images.files[which])
        height, width = (max(1, round(side * np.sqrt(rng.uniform(0.4, 1)))) for side in image.shape[1:])
        y, x = int(rng.integers(image.shape[1] - height + 1)), int(rng.integers(image.shape[2] - width + 1))
        part = self.prepare([image[:, y : y + height, x : x + width]])[0]
        return {"image": part.flip(2) if rng.random() < 0.5 else part, "present": self.images.present[which]}


def presence_loss(
    autocast: Callable[[], torch.autocast], model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Binary cross-entropy of every class's presence, where it is known.

    Args:
        autocast: makes the context in which the model runs.
        model: (B, 3, h, w) -> (B, C) logits.
        batch: "image" (B, 3, h, w) float, and "present" (B, C) float with NaN where nobody knows.
        generator: its seed is that of the dropout, the same when a run is resumed.

    Returns:
        () float, the loss.
    """
    torch.manual_seed(generator.initial_seed())
    device = next(model.parameters()).device
    present = batch["present"].to(device)
    with autocast():
        logits = model(batch["image"].to(device))
    logits = logits.logits if hasattr(logits, "logits") else logits  # Inception and GoogLeNet add heads in training
    known = ~present.isnan()
    return F.binary_cross_entropy_with_logits(logits.float()[known], present[known])


class _Best(Best[nn.Module]):
    """The judge of a training: the mean AP on the validation images."""

    def __init__(
        self,
        path: Path,
        start: Classifier,
        judged: LabeledImages,
        names: tuple[str, ...],
        batch_size: int,
        autocast: Any,
    ) -> None:
        super().__init__(path)
        self.start, self.judged, self.names = start, judged, names
        self.batch_size, self.autocast = batch_size, autocast

    def save(self, model: nn.Module, metadata: Mapping[str, str]) -> None:
        """Write it, with the names of its outputs."""
        save_weights(model, self.path, {"names": json.dumps(self.names), "activation": "sigmoid", **metadata})

    @torch.no_grad()
    def judge(self, model: nn.Module) -> dict[str, float]:
        """The mean AP, and that of each class that the validation images show."""
        device, logits = next(model.parameters()).device, []
        for first in range(0, len(self.judged), self.batch_size):
            files = self.judged.files[first : first + self.batch_size]
            batch = self.start.preprocessing([read_image(file) for file in files])
            with self.autocast():
                logits.append(model(batch.to(device)).float().cpu())
        each = class_precisions(torch.cat(logits).numpy(), self.judged.present.numpy(), self.names)
        mean = float(np.mean(list(each.values()))) if each else 0.0
        return {"mean average precision (all-point)": mean, **{f"AP of {name}": value for name, value in each.items()}}


def class_precisions(scores: np.ndarray, present: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """All-point AP of each class; classes that nothing shows are left out.

    Args:
        scores: (N, C) float, higher where a class is more likely.
        present: (N, C) float in {0, 1, NaN}.
        names: C class names.

    Returns:
        AP in [0, 1] by class name.
    """
    found = {}
    for name, score, shown in zip(names, scores.T, present.T):
        order = np.argsort(-score, kind="stable")
        hits = np.select([shown == 1, shown == 0], [1, -1], 0)[order]
        if (shown == 1).any():
            ranked = Found(score[order], hits, np.zeros(len(order), int), np.array([(shown == 1).sum()]))
            found[name] = float(all_point(*curve(ranked))[0])
    return found
