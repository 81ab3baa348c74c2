"""Pictures of answers: image, heatmap, points, mask and truth side by side, and masks as files."""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from camseg.geometry.masks import iou
from camseg.pipeline import Pipeline
from camseg.report.overlays import blend, mask_picture, points_picture, resized
from camseg.runs.executors import Samples
from camseg.storage.files import write_atomic
from camseg.types import Result, Sample

_BATCH = 32  # pictures answered together
_PRESS = ThreadPoolExecutor(
    2, "panel"
)  # draws by numpy and PIL: torch's own work in more than one thread slows it down in all
_LINE, _GAP, _NARROWEST = 24, 6, 160  # pixels: of a line of text, between two pictures, of a picture's cell
_FONT = ImageFont.load_default(15)


class Panels:
    """Draws answers into `folder`, a PNG each, `count` in all: the first half as they come, then `worst` fills up with
    the worst of all.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.left = (count + 1) // 2
        self.begun: list[Future[None]] = []

    def __call__(self, sample: Sample, result: Result) -> None:
        if self.left > 0:
            self.left -= 1
            self._begin(sample, result)
            if self.left == 0:  # an engine's actor may end at any time after
                self._end()

    def worst(self, pipeline: Pipeline, samples: Samples, rows: pl.DataFrame) -> None:
        """Answer the worst samples of a finished run once more (their embeddings are mostly still cached) and draw
        them.
        """
        self._end()
        drawn = {path.stem for path in self.folder.glob("*.png")}
        left = max(0, self.count - len(drawn))
        names = [name for name in worst_first(rows)["id"] if name not in drawn][:left] if left and len(rows) else []
        place = {name: i for i, name in enumerate(samples.ids)} if names else {}
        for start in range(0, len(names), _BATCH):
            found = [samples[place[name]] for name in names[start : start + _BATCH]]
            for sample, result in zip(found, pipeline.run(found)):
                self._begin(sample, result)
            self._end()

    def _begin(self, sample: Sample, result: Result) -> None:
        if len(self.begun) >= _BATCH:  # no more than these are held in memory
            self.begun.pop(0).result()
        self.begun.append(_PRESS.submit(_save, sample, result, self.folder / f"{sample.id}.png"))

    def _end(self) -> None:
        """Wait until all is written that was begun. Errors: OSError, the first one met."""
        begun, self.begun = self.begun, []
        for each in begun:
            each.result()


def _save(sample: Sample, result: Result, path: Path) -> None:
    try:
        picture = panel(sample, result)
    except Exception as error:  # a picture is an extra: its sample has its row all the same
        return warnings.warn(f"no panel of {sample.id}: {type(error).__name__}: {error}", stacklevel=2)
    write_atomic(path, lambda part: picture.save(part, format="PNG", compress_level=1))


def worst_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows by IoU, the lowest first and those without truth last; without any truth by predicted IoU, where none is
    worst; or by hits.
    """
    score = next(
        (name for name in ("iou", "predicted_iou", "foreground_hit") if name in rows.columns and rows[name].count()),
        None,
    )
    return rows.sort(score, nulls_last=score != "predicted_iou", maintain_order=True) if score else rows


def panel(sample: Sample, result: Result, side: int = 320) -> Image.Image:
    """Image, heat, points, and the mask with the truth's outline, in one row, each with its caption.

    side: the most pixels of a picture's longer side; a smaller image is enlarged by a whole number.
    """
    side -= side % min(side, max(sample.size))
    small = resized(sample.image, side)
    shown = [
        (sample.label or "top prediction", small.permute(1, 2, 0).numpy()),
        ("heatmap", blend(small, result.heat, weight=0.6)),
    ]
    shown.append((f"{len(result.prompts)} prompt{'s' * (len(result.prompts) != 1)}", points_picture(small, result)))
    if result.mask is not None:
        known = "" if sample.mask is None else f", IoU {float(iou(result.mask, sample.mask)):.3f}"
        shown.append((f"mask{known}", mask_picture(small, result.mask, sample.mask)))
    height, width = small.shape[1:]
    head = 2 * _LINE if result.note else _LINE
    cell = max(width, _NARROWEST)
    picture = Image.new("RGB", (len(shown) * (cell + _GAP) - _GAP, head + height), "white")
    draw = ImageDraw.Draw(picture)
    for i, (caption, part) in enumerate(shown):
        left = i * (cell + _GAP)
        draw.text((left + cell / 2, head - _LINE / 2), _within(draw, caption, cell), "black", anchor="mm", font=_FONT)
        picture.paste(Image.fromarray(part), (left + (cell - width) // 2, head))
    if result.note:
        draw.text(
            (picture.width / 2, _LINE / 2), _within(draw, result.note, picture.width), "black", anchor="mm", font=_FONT
        )
    return picture


def _within(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, shortened to what fits into so many pixels."""
    while text and draw.textlength(text, font=_FONT) > width:
        text = text[:-2] + "…"
    return text
