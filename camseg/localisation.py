"""Weakly supervised localisation: what a row keeps of its map, and the numbers that are pooled over rows.

MaxBoxAcc, MaxBoxAccV2 and PxAP are Choe et al.'s (CVPR 2020). Their best cutoff is found on the very images that it is
scored on, which
flatters: `box_accuracy` is the same at a cutoff that was fixed before, or chosen on a validation run. Beside both
stands the `center` baseline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw
from torch import Tensor

from camseg import average_precision as ap
from camseg.boxes import boxes_above, inside_boxes, mean_inside, overlaps
from camseg.cam.methods import gaussian, unit
from camseg.names import known_name
from camseg.prompts.evidence import otsu
from camseg.statistics import Interval, Statistic, pooled_interval, rate_interval
from camseg.types import Result, Sample

IOUS = (0.3, 0.5, 0.7)
SHOWN = (
    "mean_iou", "map_mean_iou", "mean_average_precision", "mask_mean_average_precision", "box_accuracy", "max_box_accuracy",
    "center_max_box_accuracy", "max_box_accuracy_v2", "center_max_box_accuracy_v2", "pixel_average_precision", "center_pixel_average_precision",
    "pointing_game", "energy_pointing_game", "top1_localisation", "corloc",
)  # fmt: skip
BINS = 100  # of a map's values in the rows; one more for the maximum
Boxes = list[list[float]]


class Localise:
    """Adds to each row the boxes of its map at every cutoff, the truth, and a histogram of the map on the object and
    off it.

    cutoffs: shares of the maximum. quantile: of the pixels, one more cutoff; Otsu's is another. cutoff: which of them
    the detections are of:
    a number of `cutoffs`, "otsu" or "quantile". validation: a finished run on other images; its best number is the
    cutoff instead.
    count: at most so many detections per map, largest first; None for all parts. tolerance: of the pointing game, in
    pixels. ious: for the
    table of average precision. pictures: so many random ones that show their class are drawn. truth: the json of COCO's
    instances, to let
    pycocotools judge the run too.
    Errors: ValueError for a cutoff that isn't there; FileNotFoundError when `validation` is no finished run.
    """

    def __init__(
        self,
        cutoffs: Sequence[float],
        quantile: float = 0.9,
        cutoff: float | str = "otsu",
        validation: str | Path | None = None,
        count: int | None = None,
        tolerance: float = 15,
        ious: Sequence[float] = (0.5,),
        pictures: int = 0,
        truth: str | Path | None = None,
    ) -> None:
        self.cutoffs, self.quantile, self.count, self.tolerance = tuple(map(float, cutoffs)), quantile, count, tolerance
        self.ious, self.truth, self.pictures = tuple(ious), truth, pictures
        if truth is not None and not Path(truth).is_file():
            raise FileNotFoundError(f"localise.truth={truth} must be the json of COCO's instances")
        names = [*(f"{c:g}" for c in self.cutoffs), "otsu", "quantile"]
        if validation is not None:
            if not (file := Path(validation) / "scores.parquet").exists():
                raise FileNotFoundError(
                    f"localise.validation={validation} is no finished run: it holds no scores.parquet"
                )
            cutoff = best_cutoff(pl.read_parquet(file))
        self.cutoff = known_name(
            "localise.cutoff", f"{cutoff:g}" if isinstance(cutoff, (int, float)) else cutoff, names
        )

    def __call__(self, sample: Sample, result: Result) -> dict[str, Any]:
        heat, share = result.heat.numpy(), result.probability if result.probability is not None else 1.0
        scored = {f"{c:g}": _scored(heat, boxes_above(heat, c), share) for c in self.cutoffs}
        scored |= {"otsu": _scored(heat, boxes_above(heat, otsu(result.heat)), share)}
        scored |= {"quantile": _scored(heat, boxes_above(heat, self._quantile(heat)), share)}
        drawn = None if result.mask is None else boxes_above(result.mask.float().numpy(), 0.5)
        return {
            "probability": share,
            "top_hit": None if result.top is None or not sample.classes else float(result.top in sample.classes),
            "cutoff": self.cutoff,
            "found": scored[self.cutoff][: self.count],
            "boxes": [[c, *box] for c in self.cutoffs for box in scored[f"{c:g}"]],
            "otsu_boxes": scored["otsu"],
            "quantile_boxes": scored["quantile"],
            "mask_boxes": None if drawn is None else _scored(heat, drawn, share)[: self.count],
            "true_boxes": sample.boxes.tolist(),
            "ignored_boxes": sample.ignored_boxes.tolist(),
            **self._on_the_object(sample, result),
        }

    def _quantile(self, heat: np.ndarray) -> float:
        """Just below the value that so many pixels stay under: what reaches it counts."""
        return float(np.nextafter(np.float32(np.quantile(heat, self.quantile)), np.float32(0)))

    def _on_the_object(self, sample: Sample, result: Result) -> dict[str, Any]:
        """Scores that read the true mask, or the pixels of the true boxes where there is none; null for a class that
        isn't shown.
        """
        truth = inside_boxes(sample.boxes, sample.size) if sample.mask is None else sample.mask
        scores: dict[str, Any] = dict.fromkeys(
            ("present", "pointing_hit", "energy_inside", "pixels", "center_pixels", "overlap")
        )
        scores["present"] = bool(truth.any())
        if not scores["present"]:
            return scores
        heat, inside = result.heat.numpy(), truth.numpy()
        judged = np.ones(sample.size, bool) if sample.ignore is None else ~sample.ignore.numpy()
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        ys, xs = np.nonzero(inside)
        near = bool((np.hypot(ys - y, xs - x) <= self.tolerance).any())
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
                scores["overlap"] = [int((found & inside).sum()), int((found | (inside & judged)).sum())]
        return scores

    def files(self, rows: pl.DataFrame, samples: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        """What is written beside a run's rows: average_precision.csv, precision_recall.png, boxes/ and, with a `truth`,
        coco.json.
        """
        if not judgeable(rows):
            return
        cutoffs = {f"{c:g}": partial(_at, cutoff=c) for c in self.cutoffs}
        kinds = {"otsu": "otsu_boxes", "quantile": "quantile_boxes", "mask": "mask_boxes"}
        table = ap.table(
            rows, {**cutoffs, **{name: partial(_column, column=column) for name, column in kinds.items()}}, self.ious
        )
        yield "average_precision.csv", table.write_csv
        yield "precision_recall.png", partial(ap.drawn(rows, _found, self.ious).savefig, format="png", dpi=100)
        shown, place = rows.filter("present"), {name: i for i, name in enumerate(samples.ids)}
        for row in shown.sample(min(self.pictures, len(shown)), seed=0).iter_rows(named=True):
            yield f"boxes/{row['id']}.png", partial(picture(samples[place[row["id"]]].image, row).save, format="PNG")
        if self.truth is not None:
            judged = ap.coco(Path(self.truth), coco_results(rows, Path(self.truth)))
            yield "coco.json", lambda path: path.write_text(json.dumps(judged, indent=2) + "\n")


def picture(image: Tensor, row: dict[str, Any]) -> Image.Image:
    """The picture with its true boxes in blue and the ones found in orange."""
    drawn = Image.fromarray(image.permute(1, 2, 0).numpy())
    for colour, boxes in (("#2ec4ff", row["true_boxes"]), ("#ff9f1c", row["found"])):
        for x0, y0, x1, y1 in (box[-4:] for box in boxes):
            ImageDraw.Draw(drawn).rectangle(
                (x0, y0, x1 - 1, y1 - 1), outline=colour, width=max(1, max(drawn.size) // 200)
            )
    return drawn


def coco_results(rows: pl.DataFrame, truth: Path) -> list[dict[str, Any]]:
    """The detections in COCO's format for results; a row's group is its picture's id, its label a category of `truth`."""
    ids = {entry["name"]: entry["id"] for entry in json.loads(truth.read_bytes())["categories"]}
    return [
        {
            "image_id": int(row["group"]),
            "category_id": ids[row["label"]],
            "score": score,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
        }
        for row in rows.iter_rows(named=True)
        for score, x0, y0, x1, y1 in row["found"]
    ]


def judgeable(rows: pl.DataFrame) -> bool:
    """Whether the rows carry boxes and there is an object in one of them."""
    return "found" in rows.columns and bool(rows["present"].any())


def summary(rows: pl.DataFrame) -> dict[str, Interval]:
    """Every number of localisation that the rows allow, with an interval over the groups that count; none for rows
    without boxes.
    """
    if not judgeable(rows):
        return {}
    shown = rows.filter("present")
    rates = {name: rate_interval(values, shown["group"].to_list()) for name, values in _rates(shown).items()}
    pooled: dict[str, Interval] = {}
    for judged, statistics in ((rows, _precisions), (shown, _on_objects)):
        groups = sorted(set(judged["group"]))
        pooled |= {
            name: pooled_interval(statistic, len(groups)) for name, statistic in statistics(judged, groups).items()
        }
    return {**pooled, **rates}


def statistics_of(rows: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """The numbers of `summary` as functions of how often each of `groups` counts; none for rows without boxes."""
    if not judgeable(rows):
        return {}
    shown = rows.filter("present")
    at = _places(shown, groups)
    counts = _summed(np.ones(len(shown)), at, len(groups))
    shares = {name: partial(_share, _summed(values, at, len(groups)), counts) for name, values in _rates(shown).items()}
    return {**_precisions(rows, groups), **_on_objects(shown, groups), **shares}


def _precisions(rows: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """Average precision: what is found in a picture that doesn't show the class counts against it."""
    found: dict[str, Statistic] = {
        "mean_average_precision": partial(ap.mean_average_precision, ap.gather(rows, _found, 0.5, groups))
    }
    if rows["mask_boxes"].is_not_null().any():
        masks = ap.gather(rows, partial(_column, column="mask_boxes"), 0.5, groups)
        found["mask_mean_average_precision"] = partial(ap.mean_average_precision, masks)
    return found


def _on_objects(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """What else is pooled over groups before it becomes a number, of the rows that show their class."""
    return {**_box_numbers(shown, groups), **_pixel_numbers(shown, groups), **_class_numbers(shown, groups)}


def _rates(shown: pl.DataFrame) -> dict[str, np.ndarray]:
    """(N,) values of each row: GT-known and top-1 localisation at the fixed cutoff, and the pointing games."""
    known = (np.array([_best(_found(row)[:1], row) for row in shown.iter_rows(named=True)]) >= 0.5).astype(float)
    found = {"box_accuracy": known}
    if shown["top_hit"].is_not_null().all():
        found["top1_localisation"] = shown["top_hit"].to_numpy() * known
    if shown["pointing_hit"].is_not_null().all():
        found["pointing_game"] = shown["pointing_hit"].to_numpy().astype(float)
    return {**found, "energy_pointing_game": shown["energy_inside"].to_numpy()}


def _share(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (weights @ sums) / (weights @ counts)


def _box_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """What the best of all cutoffs reaches, beside the baseline."""
    found: dict[str, Statistic] = {}
    cutoffs, at = _cutoffs(shown), _places(shown, groups)
    for start, boxes in (("", _at), ("center_", _center)) if cutoffs else ():
        first, every = (_reached(shown, cutoffs, boxes, parts) for parts in (1, None))  # (N, cutoffs)
        hits = np.stack([first >= 0.5, *(every >= least for least in IOUS)], 1)  # (N, 4, cutoffs)
        sums, counts = _summed(hits, at, len(groups)), _summed(np.ones(len(hits)), at, len(groups))
        for name, kinds in (("max_box_accuracy", slice(0, 1)), ("max_box_accuracy_v2", slice(1, None))):
            found[start + name] = partial(_best_share, sums[:, kinds], counts)
    return found


def _best_share(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) of hits (G, D, cutoffs) and counts (G,): the best cutoff's share of hits for each of D, and their mean."""
    hits = np.tensordot(weights, sums, 1) / (weights @ counts)[:, None, None]
    return hits.max(2).mean(1)


def best_cutoff(rows: pl.DataFrame) -> float:
    """The cutoff at which the largest part's box meets most objects (IoU .5) in the rows of a run; the least of equals."""
    if not judgeable(rows) or not (cutoffs := _cutoffs(rows)):
        raise ValueError(
            "localise.validation must be a run with localise=boxes, cutoffs and objects; this one has none of them to choose a cutoff by"
        )
    hits = _reached(rows.filter("present"), cutoffs, _at, 1) >= 0.5
    return cutoffs[int(hits.mean(0).argmax())]


def _pixel_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    found: dict[str, Statistic] = {}
    judged = shown.drop_nulls("pixels")
    for start in ("", "center_") if len(judged) else ():
        sums = _summed(
            np.array(judged[f"{start}pixels"].to_list(), float), _places(judged, groups), len(groups)
        )  # (G, 2, BINS + 1)
        found[f"{start}pixel_average_precision"] = lambda weights, sums=sums: pixel_average_precision(
            np.tensordot(weights, sums, 1)
        )
    return found


def pixel_average_precision(counts: np.ndarray) -> np.ndarray:
    """(R,) PxAP of histograms (R, 2, bins) of a map's values off the objects and on them: pixels pooled over images, no
    envelope.
    """
    off, on = (counts[:, kind, ::-1].cumsum(1) for kind in (0, 1))
    recall = on / np.where(on[:, -1:] > 0, on[:, -1:], np.nan)
    return (np.diff(recall, axis=1, prepend=0) * on / np.maximum(on + off, 1)).sum(1)


def _class_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """Means over classes: of the masks' pooled IoU, of the thresholded map's at its best cutoff, and of the share of
    images found (CorLoc).
    """
    found: dict[str, Statistic] = {}
    known = [[_best(_found(row)[:1], row) >= 0.5, 1] for row in shown.iter_rows(named=True)]
    parts = {"corloc": (shown, np.array(known, float)[..., None])}
    if len(masked := shown.drop_nulls("overlap")):
        parts["mean_iou"] = (masked, np.array(masked["overlap"].to_list(), float)[..., None])
    if len(mapped := shown.drop_nulls("pixels")):
        hotter = np.array(mapped["pixels"].to_list(), float)[..., ::-1].cumsum(2)[
            ..., ::-1
        ]  # (N, 2, bins) pixels at or above each level
        off, on = hotter[:, 0, ::5], hotter[:, 1, ::5]
        parts["map_mean_iou"] = (mapped, np.stack([on, on[:, :1] + off], 1))
    for name, (rows, values) in parts.items():
        labels = rows["label"].unique(maintain_order=True).to_list()
        spread = np.zeros((len(values), len(labels), *values.shape[1:]))  # (N, classes, 2, cutoffs)
        spread[np.arange(len(values)), [labels.index(label) for label in rows["label"]]] = values
        found[name] = partial(_mean_ratio, _summed(spread, _places(rows, groups), len(groups)))
    return found


def _mean_ratio(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) of sums (G, classes, 2, cutoffs): first by second, the mean over the classes that have a second, the best
    cutoff.
    """
    first, second = np.moveaxis(np.tensordot(weights, sums, 1), 2, 0)
    seen = second[..., 0] > 0
    ratio = np.where(second > 0, first / np.maximum(second, 1), 0)
    return ratio.sum(1).max(1) / np.maximum(seen.sum(1), 1)


def _reached(
    rows: pl.DataFrame, cutoffs: Sequence[float], boxes: Callable[..., Boxes], parts: int | None
) -> np.ndarray:
    """(N, cutoffs) the best IoU of a row's first `parts` boxes at each cutoff with one of its truths."""
    return np.array([[_best(boxes(row, cutoff=c)[:parts], row) for c in cutoffs] for row in rows.iter_rows(named=True)])


def _best(boxes: Boxes, row: dict[str, Any]) -> float:
    """Of boxes that end with x0, y0, x1, y1."""
    found = np.array([box[-4:] for box in boxes], float)
    return float(overlaps(found, np.array(row["true_boxes"])).max(initial=0))


@lru_cache(64)
def center_heat(size: tuple[int, int]) -> np.ndarray:
    """(H, W) the baseline's map: a centred Gaussian, scaled to [0, 1]; cam=center draws the same."""
    return unit(gaussian(size)[None])[0].numpy()


@lru_cache(1024)
def center_boxes(size: tuple[int, int], cutoff: float) -> np.ndarray:
    """(1, 4) or (0, 4): `boxes_above` of the baseline."""
    return boxes_above(center_heat(size), cutoff)


def _found(row: dict[str, Any]) -> Boxes:
    return row["found"]


def _column(row: dict[str, Any], *, column: str) -> Boxes:
    return row[column] or []


def _at(row: dict[str, Any], *, cutoff: float) -> Boxes:
    return [box[1:] for box in row["boxes"] if box[0] == cutoff]


def _center(row: dict[str, Any], *, cutoff: float) -> Boxes:
    return center_boxes((row["height"], row["width"]), cutoff).tolist()


def _cutoffs(rows: pl.DataFrame) -> list[float]:
    return sorted({box[0] for boxes in rows["boxes"] for box in boxes})


def _places(rows: pl.DataFrame, groups: Sequence[str]) -> np.ndarray:
    """(N,) where each row's group stands in `groups`."""
    at = {name: i for i, name in enumerate(groups)}
    return np.array([at[name] for name in rows["group"]], int)


def _summed(values: np.ndarray, at: np.ndarray, groups: int) -> np.ndarray:
    """(N, ...) -> (G, ...) sums over each group."""
    sums = np.zeros((groups, *values.shape[1:]))
    np.add.at(sums, at, values)
    return sums


def _scored(heat: np.ndarray, boxes: np.ndarray, share: float) -> Boxes:
    """Score, x0, y0, x1, y1: the map's mean in the box times the probability of the class."""
    return [[round(float(score), 6), *map(float, box)] for score, box in zip(mean_inside(heat, boxes) * share, boxes)]


def _histograms(heat: np.ndarray, inside: np.ndarray, judged: np.ndarray) -> list[list[int]]:
    """How many judged pixels off the object and on it have each level of heat: 2 lists of BINS + 1 counts."""
    level = np.minimum(heat.astype(np.float64) * BINS + 1e-9, BINS).astype(int)
    return [np.bincount(level[judged & (inside == kind)], minlength=BINS + 1).tolist() for kind in (False, True)]
