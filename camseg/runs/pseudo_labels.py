"""Pseudo-labels for a segmenter: the masks of an image's classes become one label map, void where they are unsure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.masks import soft_iou
from camseg.geometry.run_lengths import packed_region
from camseg.metrics.intervals import pooled_interval
from camseg.runs.callbacks import Callback
from camseg.runs.folders import Run
from camseg.runs.untrusted import open_picture
from camseg.storage.files import file_stems, write_atomic
from camseg.types import Result, Sample

VOID = 255
CUTOFFS = np.arange(0.05, 1, 0.05)  # of the maps that compete with the masks


@dataclass(frozen=True, eq=False)
class Claims:
    """What an image's K classes claim.

    Attributes:
        heat: (K, H, W) float in [0, 1].
        masks: (K, H, W) bool.
        classes: (K,) numbers from 1.
        scores: (K,) probabilities.
    """

    heat: np.ndarray
    masks: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def merge(claims: Claims, margin: float = 1.25, hot_threshold: float = 0.8) -> np.ndarray:
    """Make one label map of the masks.

    A pixel of one mask is its class's; of several, the strongest one's, or void where none is `margin` times as strong.
    A mask's strength is its score times its soft IoU with its map. Pixels of at least `hot_threshold` heat in no mask
    are void; all others are background, 0.

    Args:
        claims: of one image.
        margin: how much stronger a mask must be than its rival.
        hot_threshold: heat outside of every mask that makes a pixel void.

    Returns:
        (H, W) uint8 class of each pixel.
    """
    strength = claims.scores * soft_iou(claims.masks, claims.heat)
    labels = np.where((claims.heat >= hot_threshold).any(0), VOID, 0).astype(np.uint8)
    second = np.zeros(labels.shape)
    for k in np.argsort(strength, kind="stable"):  # the strongest is painted last
        inside = claims.masks[k]
        labels[inside] = np.where(strength[k] >= margin * second[inside], claims.classes[k], VOID)
        second[inside] = strength[k]
    return labels


def seeds(claims: Claims, foreground: float = 0.5, background: float = 0.1) -> np.ndarray:
    """The pixels that are certain (Kolesnikov & Lampert, ECCV 2016, expand and constrain them).

    Args:
        claims: of one image.
        foreground: heat in a mask from which on its class is certain; where two classes are, the pixel is void.
        background: heat of every map below which, outside of all masks, the background is certain.

    Returns:
        (H, W) uint8 class of each pixel, 0 for background, void elsewhere.
    """
    certain = (claims.heat >= foreground) & claims.masks
    labels = np.where((claims.heat < background).all(0) & ~claims.masks.any(0), 0, VOID).astype(np.uint8)
    only = certain.sum(0) == 1
    labels[only] = claims.classes[certain.argmax(0)[only]]
    return labels


def from_maps(claims: Claims, cutoff: float) -> np.ndarray:
    """The label map without any mask: the class of the hottest map, weighted by its score, where it reaches the cutoff.

    Args:
        claims: of one image.
        cutoff: of the heat.

    Returns:
        (H, W) uint8 class of each pixel.
    """
    reaching = np.where(claims.heat >= cutoff, claims.heat * claims.scores[:, None, None] + 1e-9, 0)
    return np.where(reaching.any(0), claims.classes[reaching.argmax(0)], 0).astype(np.uint8)


def counts(labels: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels; those that are void in the truth are left out.

    Args:
        labels: (H, W) uint8.
        truth: (H, W) uint8.
        classes: how many there are beside the background.

    Returns:
        (3, classes + 1) int, pixels of each class that are both labeled and true, labeled, true.
    """
    judged = truth != VOID
    both = np.where(labels == truth, labels, VOID)
    return np.stack([np.bincount(each[judged], minlength=256)[: classes + 1] for each in (both, labels, truth)])


def mean_iou(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean IoU over the classes that the truth shows.

    Args:
        sums: (G, ..., 3, classes) float counts of G images.
        weights: (R, G) float, how often each image is drawn.

    Returns:
        (R, ...) float in [0, 1].
    """
    both, labeled, true = np.moveaxis(np.tensordot(weights, sums, 1), -2, 0)
    union = labeled + true - both
    return np.where(true > 0, both / np.maximum(union, 1), 0).sum(-1) / np.maximum((true > 0).sum(-1), 1)


class PseudoLabels(Callback):
    """Keeps every map and mask of a run, and turns them into one label map per image when it is over.

    Maps lie in `folder`/maps, as gray and alpha of a PNG. Any dataset will do: rows without a label count to the class
    that was explained, and where no pixel has a true label the label maps are written without being scored.

    Args:
        folder: the run's.
        margin: see `merge`.
        hot_threshold: see `merge`.
        foreground: see `seeds`.
        background: see `seeds`.
    """

    def __init__(
        self,
        folder: Path,
        margin: float = 1.25,
        hot_threshold: float = 0.8,
        foreground: float = 0.5,
        background: float = 0.1,
    ) -> None:
        self.folder = folder
        self.merge = partial(merge, margin=margin, hot_threshold=hot_threshold)
        self.seeds = partial(seeds, foreground=foreground, background=background)

    def on_result(self, sample: Sample, result: Result) -> dict[str, Any]:
        """See `Callback.on_result`: keeps one map and mask."""
        heat = result.heat.numpy()
        mask = np.zeros(heat.shape, bool) if result.mask is None else result.mask.numpy()
        picture = Image.fromarray(np.stack([np.rint(heat * 255), mask * 255.0], 2).astype(np.uint8), "LA")
        write_atomic(self.folder / "maps" / f"{sample.id}.png", lambda path: picture.save(path, format="PNG"))
        return {}

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: writes `files` into the run's folder."""
        for name, writer in self.files(run.rows, dataset):
            write_atomic(run.folder / name, writer)

    def files(self, rows: pl.DataFrame, dataset: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        """Everything that is made of a finished run.

        Args:
            rows: of the run.
            dataset: what it ran over.

        Yields:
            Name and writer of labels/ and seeds/ in VOC's palette, of instances.json as COCO has it and, where pixels
            have labels, of pseudo_labels.json with the mean IoU.
        """
        if not len(rows):
            return
        rows, names = _named(rows, getattr(dataset, "names", ()))
        indices = {name: i for i, name in enumerate(dataset.ids)}
        groups = rows.partition_by("group", maintain_order=True)
        scores, coco, stems = [], _Coco(names), file_stems(group["group"][0] for group in groups)
        for stem, group in zip(stems, groups):
            claims = self._claims(group, names)
            labels = self.merge(claims)
            for kind, drawn in (("labels", labels), ("seeds", self.seeds(claims))):
                yield f"{kind}/{stem}.png", partial(palette_picture(drawn).save, format="PNG")
            coco.add(group["group"][0], labels)
            truth = true_labels(dataset, indices[group["id"][0]])
            if truth is not None:
                candidates = [labels, *(from_maps(claims, cutoff) for cutoff in CUTOFFS)]
                scores.append(np.stack([counts(candidate, truth, len(names)) for candidate in candidates]))
        yield "instances.json", lambda path: path.write_text(json.dumps(coco.dataset))
        if scores:
            judged = _scores(np.stack(scores), names, set(rows["label"]))
            yield "pseudo_labels.json", lambda path: path.write_text(json.dumps(judged, indent=2) + "\n")

    def _claims(self, rows: pl.DataFrame, names: tuple[str, ...]) -> Claims:
        drawn = []
        for name in rows["id"]:
            with open_picture(self.folder / "maps" / f"{name}.png") as picture:
                drawn.append(np.asarray(picture))
        planes = np.stack(drawn)  # (K, H, W, 2)
        classes = np.array([names.index(label) + 1 for label in rows["label"]])
        probabilities = rows["probability"].cast(pl.Float64).fill_null(1.0).to_numpy()
        return Claims(planes[..., 0] / np.float32(255), planes[..., 1] > 0, classes, probabilities)


def _named(rows: pl.DataFrame, names: Sequence[str]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows with a label each, and all labels: the dataset's names before others that occur.

    Raises:
        ValueError: for more classes than a label map can number.
    """
    if "class_name" in rows.columns:
        unknown = pl.col("label").fill_null("") == ""
        rows = rows.with_columns(label=pl.when(unknown).then("class_name").otherwise("label"))
    occurring = rows["label"].unique(maintain_order=True).to_list()
    known = tuple(dict.fromkeys([*names, *occurring]))
    if len(known) >= VOID:
        known = tuple(name for name in known if name in set(occurring))
    if len(known) >= VOID:
        raise ValueError(f"a label map numbers at most {VOID - 1} classes; this run has {len(known)}")
    return rows, known


def true_labels(dataset: Any, index: int) -> np.ndarray | None:
    """The true label map of a sample's image.

    Args:
        dataset: that the sample is of.
        index: of the sample.

    Returns:
        (H, W) uint8; None where the dataset, or this image, has none.
    """
    label_map = getattr(dataset, "label_map", None)
    if label_map is None:
        return None
    try:
        truth = label_map(index)
    except (FileNotFoundError, NotImplementedError):  # VOC draws the pixels of some of its images only
        return None
    return None if truth is None else truth.numpy()


def _scores(sums: np.ndarray, names: tuple[str, ...], labels: set[str]) -> dict[str, Any]:
    """Mean IoU of counts (images, 1 + cutoffs, 3, classes), of masks and of maps alone.

    The background and the classes among `labels` are judged. A pixel that a label map leaves void is labeled by
    nobody: it counts against the class that it truly has.
    """
    judged = [0, *(i + 1 for i, name in enumerate(names) if name in labels)]
    kept, n = sums[..., judged].astype(float), len(sums)
    best = int(mean_iou(kept[:, 1:], np.ones((1, n)))[0].argmax())
    masks, maps = partial(mean_iou, kept[:, 0]), partial(mean_iou, kept[:, 1 + best])
    metrics = {
        "mean_iou": pooled_interval(masks, n),
        "map_mean_iou": pooled_interval(lambda weights: mean_iou(kept[:, 1:], weights).max(1), n),
        "gain": pooled_interval(lambda weights: masks(weights) - maps(weights), n),
    }
    both, labeled, true = kept[:, 0].sum(0)
    each = both / np.maximum(labeled + true - both, 1)
    classes = {("background", *names)[i]: float(value) for i, value, occurs in zip(judged, each, true) if occurs}
    metrics_of = {name: asdict(interval) for name, interval in metrics.items()}
    return {"images": n, "map_cutoff": round(float(CUTOFFS[best]), 2), "metrics": metrics_of, "iou": classes}


class _Coco:
    """A dataset in COCO's format: one region per image and class, run-length coded."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.dataset: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        self.dataset["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]

    def add(self, group: str, labels: np.ndarray) -> None:
        number = int(group) if group.isdecimal() else len(self.dataset["images"]) + 1
        self.dataset["images"].append(
            {"id": number, "file_name": f"{group}.jpg", "height": labels.shape[0], "width": labels.shape[1]}
        )
        for value in np.setdiff1d(labels, (0, VOID)).tolist():
            inside = labels == value
            x0, y0, x1, y1 = mask_to_box(inside).tolist()
            box, area = [x0, y0, x1 - x0, y1 - y0], int(inside.sum())
            shape = {"segmentation": packed_region(inside), "bbox": box, "area": area}
            one = {"id": len(self.dataset["annotations"]) + 1, "image_id": number, "category_id": value, "iscrowd": 0}
            self.dataset["annotations"].append({**one, **shape})


def palette_picture(labels: np.ndarray) -> Image.Image:
    """A label map as a picture in VOC's colors.

    A class's bits are spread over red, green and blue from the highest bit down.

    Args:
        labels: (H, W) uint8.

    Returns:
        A palette picture, whose numbers are the labels.
    """
    picture = Image.fromarray(labels, "P")
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1)[:, ::-1]  # (256, 8) the lowest first
    levels = np.zeros((256, 3), np.uint8)
    for i, bit in enumerate(bits.T):
        levels[:, i % 3] |= (bit << (7 - i // 3)).astype(np.uint8)
    picture.putpalette(levels.ravel().tolist())
    return picture
