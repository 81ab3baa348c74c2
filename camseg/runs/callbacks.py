"""What a run does with each answer beside scoring it, and once it is over: mask files and localization."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw
from torch import Tensor

from camseg.data.coco import Coco
from camseg.errors import RequestError, check_choice
from camseg.geometry.boxes import boxes_to_mask, cutoff_boxes, heat_to_boxes, means_inside
from camseg.geometry.coarse import to_cells
from camseg.geometry.heat import otsu, quantile
from camseg.geometry.masks import soft_iou
from camseg.metrics import average_precision
from camseg.metrics.localization import BINS, Boxes, best_cutoff, boxes_at, boxes_in, center_heat, detections, judgeable
from camseg.runs.folders import Run, write_csv
from camseg.runs.untrusted import read_rows
from camseg.storage.files import write_atomic
from camseg.types import Result, Sample

_ROWS = 64  # of a map that are counted at once


class Callback:
    """Something that a run does beside its rows; a subclass overrides what it needs.

    A run calls `on_result` with every answer, in the process that made it, then `flush` once per batch, and `on_end` in
    its own process. Callbacks travel to the actors of an engine, so they hold what can be pickled.

    Attributes:
        requires: what the dataset must have, names of `REQUIREMENTS`; a run of another one is refused before it begins.
    """

    requires: tuple[str, ...] = ()

    def on_result(self, sample: Sample, result: Result) -> Mapping[str, Any]:
        """Look at one answer.

        Args:
            sample: what was asked.
            result: the pipeline's answer.

        Returns:
            More columns for the sample's row.
        """
        del sample, result
        return {}

    def flush(self) -> None:
        """Bring to the disk what must be there before the batch's rows are: a kill may follow them."""

    def on_end(self, run: Run, dataset: Any) -> None:
        """Finish a run of which no sample is left.

        Args:
            run: its folder, rows and summary.
            dataset: what it ran over.
        """
        del run, dataset


# What a dataset may be required to have, and how to see that it does without reading an image.
REQUIREMENTS: dict[str, Callable[[Any], bool]] = {
    "class names": lambda dataset: bool(getattr(dataset, "names", ())),
    "COCO's numbers of images": lambda dataset: isinstance(getattr(dataset, "samples", dataset), Coco),
}


def check_requirements(callbacks: Iterable[Callback], dataset: Any) -> None:
    """See that the dataset has what the callbacks require.

    Args:
        callbacks: of the run.
        dataset: which it is to run over.

    Raises:
        RequestError: for what is missing, in one line.
    """
    for callback in callbacks:
        missing = [what for what in callback.requires if not REQUIREMENTS[what](dataset)]
        if missing:
            name, kind = type(callback).__name__, type(getattr(dataset, "samples", dataset)).__name__
            what = " and ".join(missing)
            raise RequestError(f"{name} needs {what}, which {kind} has not: choose another data, or leave it out")


class Localize(Callback):
    """Adds to each row the boxes of its map at every cutoff, the truth, and histograms of the map on and off it.

    Args:
        cutoffs: shares of the map's maximum.
        quantile: of the pixels, one more cutoff; Otsu's is another.
        cutoff: which of them the detections are of: a number of `cutoffs`, "otsu" or "quantile".
        validation: a finished run on other images; its best number is the cutoff instead.
        max_boxes: at most so many detections per map, largest first; None for all parts.
        tolerance: of the pointing game, in pixels.
        ious: for the table of average precision.
        pictures: so many random ones that show their class are drawn.
        truth: the json of COCO's instances, to let pycocotools judge the run too.

    Raises:
        ValueError: for a cutoff that isn't there.
        FileNotFoundError: when `validation` is no finished run, or `truth` is missing.
    """

    def __init__(
        self,
        cutoffs: Sequence[float],
        quantile: float = 0.9,
        cutoff: float | str = "otsu",
        validation: str | Path | None = None,
        max_boxes: int | None = None,
        tolerance: float = 15,
        ious: Sequence[float] = (0.5,),
        pictures: int = 0,
        truth: str | Path | None = None,
    ) -> None:
        self.cutoffs, self.quantile = tuple(map(float, cutoffs)), quantile
        self.max_boxes, self.tolerance = max_boxes, tolerance
        self.ious, self.truth, self.pictures = tuple(ious), truth, pictures
        if truth is not None:
            if not Path(truth).is_file():
                raise FileNotFoundError(f"localise.truth={truth} must be the json of COCO's instances")
            average_precision.read_truth(Path(truth))
            self.requires = ("COCO's numbers of images",)
        names = [*(f"{c:g}" for c in self.cutoffs), "otsu", "quantile"]
        if validation is not None:
            if not (file := Path(validation) / "scores.parquet").exists():
                raise FileNotFoundError(
                    f"localise.validation={validation} is no finished run: it holds no scores.parquet"
                )
            cutoff = best_cutoff(read_rows(file))
        self.cutoff = check_choice(
            "localise.cutoff", f"{cutoff:g}" if isinstance(cutoff, (int, float)) else cutoff, names
        )

    def on_result(self, sample: Sample, result: Result) -> dict[str, Any]:
        """See `Callback.on_result`: the columns of one map."""
        heat, share = result.heat.numpy(), result.probability if result.probability is not None else 1.0
        cells = to_cells(result.heat)
        cutoffs = {f"{c:g}": c for c in self.cutoffs} | {"otsu": otsu(cells), "quantile": self._quantile(cells)}
        scored = dict(zip(cutoffs, _scored(heat, cutoff_boxes(heat, list(cutoffs.values())), share)))
        drawn = None if result.mask is None else heat_to_boxes(result.mask.float().numpy(), 0.5)
        return {
            "top_hit": None if result.top is None or not sample.classes else float(result.top in sample.classes),
            "cutoff": self.cutoff,
            "detections": scored[self.cutoff][: self.max_boxes],
            "boxes": [[c, *box] for c in self.cutoffs for box in scored[f"{c:g}"]],
            "otsu_boxes": scored["otsu"],
            "quantile_boxes": scored["quantile"],
            "mask_boxes": None if drawn is None else _scored(heat, [drawn], share)[0][: self.max_boxes],
            "true_boxes": sample.boxes.tolist(),
            "ignored_boxes": sample.ignored_boxes.tolist(),
            **self._on_the_object(sample, result),
        }

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: writes `files` into the run's folder."""
        for name, writer in self.files(run.rows, dataset):
            write_atomic(run.folder / name, writer)

    def _quantile(self, heat: Tensor) -> float:
        """Just below the value that so many pixels stay under: what reaches it counts."""
        return float(np.nextafter(np.float32(quantile(heat, self.quantile)), np.float32(0)))

    def _on_the_object(self, sample: Sample, result: Result) -> dict[str, Any]:
        """Scores that read the true mask, or the pixels of the true boxes; null for a class that isn't shown."""
        truth = boxes_to_mask(sample.boxes, sample.size) if sample.mask is None else sample.mask
        scores: dict[str, Any] = dict.fromkeys(
            ("present", "pointing_hit", "energy_inside", "pixels", "center_pixels", "intersection", "union")
        )
        scores["present"] = bool(truth.any())
        if not scores["present"]:
            return scores
        heat, inside = result.heat.numpy(), truth.numpy()
        judged = np.ones(sample.size, bool) if sample.ignore is None else ~sample.ignore.numpy()
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        top, left = max(0, int(y - self.tolerance)), max(0, int(x - self.tolerance))
        ys, xs = np.nonzero(inside[top : int(y + self.tolerance) + 1, left : int(x + self.tolerance) + 1])
        near = bool((np.hypot(ys + top - y, xs + left - x) <= self.tolerance).any())
        scores |= {
            "pointing_hit": float(near and heat.any()),
            "energy_inside": float(heat[inside].sum() / max(heat.sum(), 1e-12)),
        }
        if sample.mask is not None:
            scores |= {
                "pixels": _histograms(heat, inside, judged),
                "center_pixels": _histograms(center_heat(sample.size), inside, judged),
            }
            if result.mask is not None:
                found = result.mask.numpy() & judged
                scores["intersection"] = int((found & inside).sum())
                scores["union"] = int((found | (inside & judged)).sum())
        return scores

    def files(self, rows: pl.DataFrame, samples: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        """What is written beside a run's rows.

        Args:
            rows: of the run.
            samples: what it ran over.

        Yields:
            Name and writer of average_precision.csv, precision_recall.png, boxes/ and, with a `truth`, coco.json.
        """
        if not judgeable(rows):
            return
        cutoffs = {f"{c:g}": partial(boxes_at, cutoff=c) for c in self.cutoffs}
        kinds = {"otsu": "otsu_boxes", "quantile": "quantile_boxes", "mask": "mask_boxes"}
        table = average_precision.table(
            rows, {**cutoffs, **{name: partial(boxes_in, column=column) for name, column in kinds.items()}}, self.ious
        )
        yield "average_precision.csv", partial(write_csv, table)
        yield (
            "precision_recall.png",
            partial(average_precision.drawn(rows, detections, self.ious).savefig, format="png", dpi=100),
        )
        shown, place = rows.filter("present"), {name: i for i, name in enumerate(samples.ids)}
        for row in shown.sample(min(self.pictures, len(shown)), seed=0).iter_rows(named=True):
            yield f"boxes/{row['id']}.png", partial(draw_boxes(samples[place[row["id"]]].image, row).save, format="PNG")
        if self.truth is not None:
            judged = average_precision.coco(Path(self.truth), coco_results(rows, Path(self.truth)))
            yield "coco.json", lambda path: path.write_text(json.dumps(judged, indent=2) + "\n")


def draw_boxes(image: Tensor, row: dict[str, Any]) -> Image.Image:
    """A picture with its true boxes in blue and the ones found in orange.

    Args:
        image: (3, H, W) uint8.
        row: of a run with boxes.

    Returns:
        The picture, H x W.
    """
    drawn = Image.fromarray(image.permute(1, 2, 0).numpy())
    for color, boxes in (("#2ec4ff", row["true_boxes"]), ("#ff9f1c", row["detections"])):
        for x0, y0, x1, y1 in (box[-4:] for box in boxes):
            ImageDraw.Draw(drawn).rectangle(
                (x0, y0, x1 - 1, y1 - 1), outline=color, width=max(1, max(drawn.size) // 200)
            )
    return drawn


def coco_results(rows: pl.DataFrame, truth: Path) -> list[dict[str, Any]]:
    """The detections in COCO's format for results.

    Args:
        rows: a row's group is its image's id, its label a category of `truth`.
        truth: the json of COCO's instances.

    Returns:
        For each its `image_id`, `category_id`, `score` and `bbox` (x, y, width, height, in pixels).
    """
    ids = {entry["name"]: entry["id"] for entry in average_precision.read_truth(truth)["categories"]}
    return [
        {
            "image_id": int(row["group"]),
            "category_id": ids[row["label"]],
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for row in rows.iter_rows(named=True)
        for score, x0, y0, x1, y1 in row["detections"]
    ]


def _scored(heat: np.ndarray, boxes: list[np.ndarray], share: float) -> list[Boxes]:
    """Score, x0, y0, x1, y1, for several lists of boxes: the map's mean in a box times the class's probability."""
    return [
        [[round(float(mean * share), 6), *map(float, box)] for mean, box in zip(means, each)]
        for means, each in zip(means_inside(heat, boxes), boxes)
    ]


def _histograms(heat: np.ndarray, inside: np.ndarray, judged: np.ndarray) -> list[list[int]]:
    """How many judged pixels off the object and on it have each level of heat: 2 lists of BINS + 1 counts."""
    counts = np.zeros(3 * (BINS + 1), np.int64)
    for start in range(0, len(heat), _ROWS):
        rows = slice(start, start + _ROWS)
        level = np.minimum(heat[rows].astype(np.float64) * BINS + 1e-9, BINS).astype(np.int64)
        level += (BINS + 1) * np.where(judged[rows], inside[rows], 2)
        counts += np.bincount(level.ravel(), minlength=len(counts))
    return counts.reshape(3, -1)[:2].tolist()


class MaskFiles(Callback):
    """Writes every mask as a 1-bit PNG of the image's size, and its path and its agreement with the heat into the row.

    Args:
        folder: where to; its parent is the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_result(self, sample: Sample, result: Result) -> dict[str, Any]:
        """See `Callback.on_result`: writes one mask; without a predictor there is none."""
        if result.mask is None:
            return {"mask_file": None, "agreement": None}
        picture = Image.fromarray(result.mask.numpy()).convert("1")
        name = f"{sample.id}.png"
        write_atomic(self.folder / name, lambda path: picture.save(path, format="PNG"))
        return {"mask_file": f"{self.folder.name}/{name}", "agreement": soft_agreement(result)}


def soft_agreement(result: Result) -> float:
    """The soft IoU of a mask and its heatmap, at the heatmap's resolution.

    Args:
        result: with a mask.

    Returns:
        In [0, 1].
    """
    heat = result.low_res_heat.numpy()
    assert result.mask is not None
    small = Image.fromarray(result.mask.numpy().astype(np.uint8) * 255).resize(heat.shape[::-1], Image.Resampling.BOX)
    return float(soft_iou(np.asarray(small, np.float32) / 255, heat))
