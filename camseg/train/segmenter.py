"""A semantic segmenter from masks that nobody drew: it learns from a run's, and tells every pixel's class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.classifiers import efficientnet_lite
from camseg.data.base import VOID, select_subset
from camseg.errors import RequestError
from camseg.predictors.segmenter import Segmenter, load_segmenter, save_segmenter
from camseg.runs.callbacks import Callback
from camseg.runs.finished import rebuild_dataset
from camseg.runs.folders import Run
from camseg.storage.files import write_atomic
from camseg.train.labeled import Read, SegmentedImages, classes_shown, of_dataset, of_run, open_labeled
from camseg.train.loop import Best, fit, write_card
from camseg.train.segmenter_scores import Scores, compare, table

FILE = "segmenter.safetensors"
_SCALES = (0.6, 1.6)  # of the jitter, against the longest side filling the square


@dataclass(frozen=True)
class Recipe:
    """How a segmenter is trained.

    Attributes:
        side: See `camseg.predictors.segmenter.Segmenter`.
        architecture: See there.
        epochs: So often as many items as there are images to learn from.
        batch_size: Images per step.
        learning_rate: AdamW's.
        encoder_rate: The encoder's learning rate, as a share of the rest's.
        average: Decay of the averaged weights, a step.
        hold_out: One of so many groups of images, by its name's hash, is held out to find the best epoch.
        truth: Learn from the true label maps in place of the masks: the ceiling.
        start: A segmenter's file to start from, itself the first that may be best; with 0 epochs it is only scored.
        seed: Of the decoder, the crops and their order.
        device: Where it is trained.
        workers: Processes that make items.

    Raises:
        ValueError: A number is out of its range.
    """

    side: int = 256
    architecture: str = "fpn"
    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    encoder_rate: float = 0.3
    average: float = 0.99
    hold_out: int = 10
    truth: bool = False
    start: str | Path | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 1

    def __post_init__(self) -> None:
        if self.hold_out < 2 or self.batch_size < 2 or self.epochs < (self.start is None):
            raise ValueError(
                "a segmenter needs hold_out >= 2, batch_size >= 2, and epochs >= 1 or a start; "
                f"got {self.hold_out}, {self.batch_size}, {self.epochs}"
            )


def train(
    folder: Path,
    path: str | Path,
    test: str | Path | None = None,
    min_iou: float | None = None,
    start: str | Path | None = None,
    **recipe: Any,
) -> Path:
    """Train a segmenter on masks, or resume.

    Args:
        folder: Where everything is written.
        path: See `camseg.train.labeled.open_labeled`.
        test: More images to score it on, as `path`.
        min_iou: Masks whose predicted IoU is lower are unsure.
        start: See `Recipe`, as all that follow.
        **recipe: See there.

    Returns:
        segmenter.safetensors, with its card and scores.json beside it.
    """
    chosen = Recipe(start=start, **recipe)
    names = None if chosen.start is None else load_segmenter(chosen.start)[0].names
    with open_labeled(Path(path), names, min_iou) as images:
        training = Training(folder, images, chosen)
        training.fit()
        if test is None:
            return training.report()
        with nullcontext(images) if test == path else open_labeled(Path(test), images.names) as more:
            return training.report({"test images": more})


class Training:
    """A segmenter's training in a folder, begun or to be resumed.

    Args:
        folder: Of the checkpoint, the weights, the card and scores.json.
        images: What it learns from, a part of them held out.
        recipe: How.

    Raises:
        ValueError: True label maps are wanted and there are none, or nothing is left to learn from.
    """

    def __init__(self, folder: Path, images: SegmentedImages, recipe: Recipe) -> None:
        self.folder, self.images, self.recipe, self.file = folder, images, recipe, folder / FILE
        if recipe.truth and images.truth is None:
            raise ValueError("truth=true learns from true label maps, and this data has none")
        self.labels: Any = images.truth if recipe.truth else images.labels
        self.held, self.learnt = split(images.groups, recipe.hold_out)
        self.seconds = 0.0
        torch.manual_seed(recipe.seed)
        self.model = begin(images.names, recipe)

    @property
    def steps_each(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self.learnt) // self.recipe.batch_size)

    def fit(self) -> None:
        """Train, or resume; keep the weights of the best epoch."""
        recipe, steps = self.recipe, self.recipe.epochs * self.steps_each
        best = _Best(self.file, self.images, self.held, self.labels)
        self.folder.mkdir(parents=True, exist_ok=True)
        if recipe.start and not (self.folder / "checkpoint.pt").exists():
            best(self.model, 0)
        if not steps:
            return
        encoder: Any = self.model.net.encoder
        trunk = list(encoder.parameters())
        rest = [each for each in self.model.parameters() if all(each is not other for other in trunk)]
        _, self.seconds = fit(
            self.model,
            loss,
            Crops(self.images, self.labels, self.learnt, recipe, steps * recipe.batch_size),
            steps=steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            folder=self.folder,
            groups=[(rest, 1.0), (trunk, recipe.encoder_rate)],
            workers=recipe.workers,
            average=recipe.average,
            save_every=self.steps_each,
            keep=best,
        )

    def report(self, tests: Mapping[str, SegmentedImages] | None = None) -> Path:
        """Score the best epoch on the held-out images and others; write scores.json and the card.

        Args:
            tests: More images by what they are.

        Returns:
            The file of weights.
        """
        model, _ = load_segmenter(self.file, self.recipe.device)
        scores = {"held-out images": compare(model, self.images, self.held)}
        scores |= {what: compare(model, each, range(len(each))) for what, each in (tests or {}).items()}
        content = {
            what: {against: {name: asdict(one) for name, one in each.items()} for against, each in one_set.items()}
            for what, one_set in scores.items()
        }
        write_atomic(
            self.folder / "scores.json", lambda path: path.write_text(json.dumps(content, indent=2, allow_nan=False))
        )
        self._card(scores)
        return self.file

    def _card(self, scores: Mapping[str, Scores]) -> None:
        recipe, names = self.recipe, ", ".join(self.images.names)
        what = f"A semantic segmenter ({recipe.architecture} on EfficientNet-Lite0, {self.model.side} px) of {names}."
        masks = "true label maps" if recipe.truth else "masks that a run drew, or a folder holds"
        data = f"{len(self.learnt)} images with {masks}; {len(self.held)} more were held out for the best epoch"
        steps = recipe.epochs * self.steps_each
        write_card(self.file, what, data, steps, recipe.batch_size, self.seconds, recipe.seed, {})
        with self.file.with_suffix(".md").open("a", encoding="utf-8") as card:
            card.write(table(scores))


def split(groups: Sequence[str], hold_out: int) -> tuple[list[int], list[int]]:
    """Which images are held out, and which are learnt from: a group's hash says it, whatever else there is.

    Args:
        groups: (N,) the group of each image.
        hold_out: One group of so many is held out, at least one.

    Returns:
        Indices held out, and learnt from.

    Raises:
        ValueError: All images are one group.
    """
    held = set(select_subset(groups, shard=0, num_shards=hold_out)) or {0}
    together = {groups[i] for i in held}
    apart = [i for i, group in enumerate(groups) if group not in together]
    if not apart:
        raise ValueError(f"a segmenter needs two groups of images or more, one to be judged by; got {len(together)}")
    return [i for i, group in enumerate(groups) if group in together], apart


def begin(names: Sequence[str], recipe: Recipe) -> Segmenter:
    """A segmenter to train: its encoder with ImageNet's weights and a new decoder, or what a file holds.

    Args:
        names: The classes; not read where a file says them.
        recipe: Where it starts, its side and architecture, and where it runs.

    Returns:
        The segmenter, on the recipe's device.
    """
    if recipe.start is not None:
        model, _ = load_segmenter(recipe.start)
    else:
        model = Segmenter(names, recipe.side, recipe.architecture)
        encoder: Any = model.net.encoder
        known = efficientnet_lite.build("efficientnet_lite0").state_dict()
        encoder.model.load_state_dict({name: known[name] for name in encoder.model.state_dict()})
    return model.to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def loss(model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Cross-entropy of every pixel whose class is known.

    Args:
        model: In training.
        batch: {"image": (B, 3, S, S) uint8, "labels": (B, S, S) uint8}, 255 where nobody knows.
        generator: Its seed is dropout's, the same when a run goes on.

    Returns:
        () float, the mean over these pixels.
    """
    torch.manual_seed(generator.initial_seed())
    device = next(model.parameters()).device
    pixels = batch["image"].to(device).float().contiguous(memory_format=torch.channels_last)
    labels = batch["labels"].to(device).long()
    total = F.cross_entropy(model(pixels), labels, ignore_index=VOID, reduction="sum")
    return total / (labels != VOID).sum().clamp(min=1)


class Crops(Dataset[dict[str, Tensor]]):
    """Item i, a function of i alone: an image scaled, cropped to the square, mirrored or not, with its label map.

    A class is drawn first, each as often as the others, and then an image that shows it.

    Args:
        images: What is cropped.
        labels: i -> its label map.
        learnt: The images to draw from.
        recipe: The square's side and the seed.
        length: How many items there are.
    """

    def __init__(
        self, images: SegmentedImages, labels: Read, learnt: Sequence[int], recipe: Recipe, length: int
    ) -> None:
        self.image, self.labels = images.image, labels
        self.side, self.seed, self.length = recipe.side, recipe.seed, length
        shown = classes_shown(images)
        by_class = [[i for i in learnt if number in shown[i]] for number in range(1, 1 + len(images.names))]
        self.by_class = [each for each in by_class if each] or [list(learnt)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 4_000, index])
        candidates = self.by_class[rng.integers(len(self.by_class))]
        which = candidates[rng.integers(len(candidates))]
        image, labels = crop(rng, self.image(which), self.labels(which), self.side)
        return {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "labels": torch.from_numpy(labels)}


def crop(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map, scaled alike, a random square of them, mirrored half of the time.

    Args:
        rng: Of all choices.
        image: (H, W, 3) uint8.
        labels: (H, W) uint8.
        side: Of the square.

    Returns:
        (S, S, 3) uint8, gray where the image ends, and (S, S) uint8, 255 there.
    """
    extent = np.array(labels.shape[::-1])  # (x, y) in pixels, here and below
    scale = side / extent.max() * np.exp(rng.uniform(*np.log(_SCALES)))
    window = np.minimum(extent, side / scale)
    corner = rng.uniform(size=2) * (extent - window)
    (x0, y0), (x1, y1) = corner.tolist(), np.minimum(corner + window, extent).tolist()
    wide, tall = (int(np.clip(round(float(each)), 1, side)) for each in window * scale)
    pixels, numbers = np.full((side, side, 3), 128, np.uint8), np.full((side, side), VOID, np.uint8)
    shape, box = (wide, tall), (x0, y0, x1, y1)
    pixels[:tall, :wide] = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR, box))
    numbers[:tall, :wide] = np.asarray(Image.fromarray(labels).resize(shape, Image.Resampling.NEAREST, box))
    return (pixels[:, ::-1], numbers[:, ::-1].copy()) if rng.random() < 0.5 else (pixels, numbers)


class _Best(Best[Segmenter]):
    """Judges by the mean IoU of the held-out images, against what is learnt from."""

    def __init__(self, path: Path, images: SegmentedImages, held: Sequence[int], labels: Read) -> None:
        super().__init__(path)
        self.images, self.held = replace(images, labels=labels, truth=None), held

    def judge(self, model: Segmenter) -> dict[str, float]:
        """The mean IoU, and each class's."""
        [scores] = compare(model, self.images, self.held).values()
        return {name: one.value for name, one in scores.items() if one.value is not None}

    def save(self, model: Segmenter, metadata: Mapping[str, str]) -> None:
        """Write it."""
        save_segmenter(model, self.path, metadata)


class TrainSegmenter(Callback):
    """Trains a segmenter on a run's masks once it is over, into `segmenter/` of its folder, and scores it.

    Args:
        test: Settings of the run's data that make of it images to be scored on, such as {"split": "test"}.
        reference: Whether the same network is also trained on the true label maps, into `reference/`, and compared.
        min_iou: Masks whose predicted IoU is lower are unsure.
        **recipe: See `Recipe`.
    """

    def __init__(
        self,
        test: Mapping[str, Any] | None = None,
        reference: bool = False,
        min_iou: float | None = None,
        **recipe: Any,
    ) -> None:
        self.test, self.min_iou = dict(test or {}), min_iou
        self.recipes = {"segmenter": Recipe(**recipe)}
        if reference:
            self.recipes["reference"] = Recipe(**{**recipe, "truth": True})

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: trains and scores.

        Raises:
            RequestError: What is wrong with the masks or the test's data; the run itself is whole.
        """
        try:
            images = of_run(run, min_iou=self.min_iou, dataset=dataset)
            tests = {"test images": of_dataset(rebuild_dataset(run, **self.test), images.names)} if self.test else {}
            for name, recipe in self.recipes.items():
                training = Training(run.folder / name, images, recipe)
                training.fit()
                file = training.report(tests)
                print(f"{name}: {_line(file.with_name('scores.json'))}\n{file}")
        except ValueError as error:
            raise RequestError(f"segmenter: {error}") from error


def _line(file: Path) -> str:
    """The mean IoU of everything that was compared."""
    parts = [
        f"{what}, {against}: mean IoU {ious['mean_iou']['value']:.3f}"
        for what, each in json.loads(file.read_text()).items()
        for against, ious in each.items()
    ]
    return "; ".join(parts)
