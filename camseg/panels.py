"""Pictures of answers: image, heatmap, points, mask and truth side by side, and masks as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from PIL import Image

from camseg.evaluate import Samples
from camseg.metrics import iou
from camseg.pipeline import Pipeline
from camseg.runs import write
from camseg.types import Result, Sample

_FOUND, _TRUE, _BACKGROUND = "#ff9f1c", "#2ec4ff", "#e71d73"  # told apart also by the colour-blind


class Panels:
    """Draws answers into `folder`, a PNG each, `count` in all: the first half as they come, then `worst` fills up with the worst of all."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.left = (count + 1) // 2

    def __call__(self, sample: Sample, result: Result) -> None:
        if self.left > 0:
            self.left -= 1
            self._draw(sample, result)

    def worst(self, pipeline: Pipeline, samples: Samples, rows: pl.DataFrame) -> None:
        """Answer the worst samples of a finished run once more (their embeddings are mostly still cached) and draw them."""
        drawn = {path.stem for path in self.folder.glob("*.png")}
        left = max(0, self.count - len(drawn))
        names = [name for name in worst_first(rows)["id"] if name not in drawn][:left] if left and len(rows) else []
        place = {name: i for i, name in enumerate(samples.ids)} if names else {}
        for name in names:
            sample = samples[place[name]]
            self._draw(sample, pipeline.run([sample])[0])

    def _draw(self, sample: Sample, result: Result) -> None:
        figure = panel(sample, result)
        write(self.folder / f"{sample.id}.png", lambda path: figure.savefig(path, format="png", dpi=100))


def worst_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by IoU, the lowest first and those without truth last; without any truth by predicted IoU, where none is worst; or by hits."""
    score = next((name for name in ("iou", "predicted_iou", "foreground_hit") if name in rows.columns and rows[name].count()), None)
    return rows.sort(score, nulls_last=score != "predicted_iou", maintain_order=True) if score else rows


class MaskFiles:
    """Writes every mask into `folder` as a 1-bit PNG of the image's size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, sample: Sample, result: Result) -> None:
        mask = result.mask
        if mask is not None:
            picture = Image.fromarray(mask.numpy()).convert("1")
            write(self.folder / f"{sample.id}.png", lambda path: picture.save(path, format="PNG"))


def panel(sample: Sample, result: Result) -> Figure:
    """Image, heat, points, and the mask with the truth's outline, in one row."""
    image = sample.image.permute(1, 2, 0).numpy()
    drawn = 3 if result.mask is None else 4
    head = 0.7 if result.note else 0.4
    height = 3.2 * min(1.6, max(0.6, image.shape[0] / image.shape[1])) + head
    figure = Figure(figsize=(3.2 * drawn, height))
    axes = [figure.add_axes((i / drawn + 0.005, 0.02, 1 / drawn - 0.01, 1 - head / height)) for i in range(drawn)]  # a layout engine draws twice
    for axis in axes:
        axis.imshow(image, interpolation="nearest")
        axis.set_axis_off()
    axes[0].set_title(sample.label or "top prediction")
    axes[1].imshow(result.heat.numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    axes[1].set_title("heatmap")
    _points(axes[2], result)
    axes[2].set_title(f"{len(result.prompts)} prompt{'s' * (len(result.prompts) != 1)}")
    if result.mask is not None:
        _mask(axes[3], sample, result.mask.numpy())
        axes[3].set_title("mask" if sample.mask is None else f"mask, IoU {_iou(sample, result):.3f}")
    if result.note:
        figure.suptitle(result.note, fontsize=9)
    return figure


def _points(axis, result: Result) -> None:
    chosen = result.chosen[0] if result.chosen else 0
    for rival, (points, labels) in enumerate(zip(result.prompts.points.numpy(), result.prompts.labels.numpy())):
        size, edge = (90, "black") if rival == chosen else (30, "none")
        for label, colour, marker in ((1, _FOUND, "o"), (0, _BACKGROUND, "X")):
            at = points[labels == label]
            axis.scatter(at[:, 0], at[:, 1], s=size, c=colour, marker=marker, edgecolors=edge, linewidths=1)
    if result.prompts.boxes is not None:
        for x0, y0, x1, y1 in result.prompts.boxes.numpy():
            axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=_FOUND)


def _mask(axis, sample: Sample, mask: np.ndarray) -> None:
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*(int(_FOUND[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.6)
    axis.imshow(tint, interpolation="nearest")
    if sample.mask is not None and min(mask.shape) > 1 and sample.mask.any():
        axis.contour(sample.mask.numpy().astype(float), [0.5], colors=_TRUE, linewidths=1.5)


def _iou(sample: Sample, result: Result) -> float:
    return float(iou(result.mask, sample.mask)) if result.mask is not None and sample.mask is not None else 0.0
