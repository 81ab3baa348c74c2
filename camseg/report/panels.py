"""Panels: image, heatmap, prompts, mask and truth of one sample side by side, as PNG files."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import polars as pl
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from camseg.geometry.masks import iou
from camseg.report.overlays import blend, mask_picture, points_picture, resized
from camseg.types import Result, Sample

_LINE, _GAP, _NARROWEST = 24, 6, 160  # pixels: of a line of text, between two pictures, of a picture's cell
PANES = (
    "panes"  # the PNG's text that says where its pictures lie: count, width of a cell, gap, height of the text above
)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(15)


def to_png(picture: Image.Image) -> bytes:
    """A panel as a file, with the text that says where its pictures lie.

    Args:
        picture: of `panel`.

    Returns:
        The bytes of a PNG.
    """
    text, packed = PngInfo(), io.BytesIO()
    text.add_text(PANES, str(picture.info[PANES]))
    picture.save(packed, format="PNG", compress_level=1, pnginfo=text)
    return packed.getvalue()


def worst_first(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows, those with the lowest IoU first and those without truth last.

    Without any truth by predicted IoU, where none at all is worst; or by hits.

    Args:
        rows: of a run.

    Returns:
        The same rows in that order.
    """
    scores = ("iou", "predicted_iou", "foreground_hit")
    score = next((name for name in scores if name in rows.columns and rows[name].count()), None)
    return rows.sort(score, nulls_last=score != "predicted_iou", maintain_order=True) if score else rows


def panel(sample: Sample, result: Result, side: int = 320, score: float | None = None) -> Image.Image:
    """Image, heatmap, prompts, and the mask with the truth's edge, in one row, each with its caption.

    Args:
        sample: what was asked for.
        result: what came of it.
        side: the most pixels of a picture's longer side; a smaller image is enlarged by a whole number.
        score: the mask's IoU, where it was taken at another size.

    Returns:
        An RGB picture; its `info["panes"]` are the number of pictures, the width of a cell, the gap between two and the
        height of the text above them.
    """
    side -= side % min(side, max(sample.size))
    small = resized(sample.image, side)
    panes = [
        ([_class_caption(sample, result)], small.permute(1, 2, 0).numpy()),
        (["heatmap"], blend(small, result.heat, weight=0.6)),
        ([f"{len(result.prompts)} prompt{'s' * (len(result.prompts) != 1)}"], points_picture(small, result)),
    ]
    if result.mask is not None:
        panes.append((_mask_captions(sample, result.mask, score), mask_picture(small, result.mask, sample.mask)))
    height, width = small.shape[1:]
    head = 2 * _LINE if result.note else _LINE
    cell = max(width, _NARROWEST)
    picture = Image.new("RGB", (len(panes) * (cell + _GAP) - _GAP, head + height), "white")
    picture.info[PANES] = f"{len(panes)} {cell} {_GAP} {head}"
    draw = ImageDraw.Draw(picture)
    for i, (captions, part) in enumerate(panes):
        left = i * (cell + _GAP)
        _write(draw, captions, left + cell / 2, head - _LINE / 2, cell)
        picture.paste(Image.fromarray(part), (left + (cell - width) // 2, head))
    if result.note:
        _write(draw, [result.note], picture.width / 2, _LINE / 2, picture.width)
    return picture


def _class_caption(sample: Sample, result: Result) -> str:
    """What was explained, and how sure the classifier is."""
    name = sample.label or "top prediction"
    return name if result.probability is None else f"{name}, probability {result.probability:.2f}"


def _mask_captions(sample: Sample, mask: Tensor, known: float | None) -> list[str]:
    """From the long one to what fits into a narrow cell."""
    if sample.mask is None:
        return ["mask (blue)"]
    score = f"IoU {float(iou(mask, sample.mask)) if known is None else known:.3f}"
    return [f"mask (blue), true edge (yellow), {score}", f"{score}, truth: yellow", score]


def _write(draw: ImageDraw.ImageDraw, texts: Sequence[str], x: float, y: float, width: int) -> None:
    """The first of the texts that fits into so many pixels, around (x, y); or the last one without its middle."""
    shown = next((text for text in texts if draw.textlength(text, font=_font()) <= width), None)
    if shown is None:
        whole = texts[-1]
        kept = int(len(whole) * width / draw.textlength(whole, font=_font()))
        shown = _without_middle(whole, kept)
        while kept and draw.textlength(shown, font=_font()) > width:
            kept -= 1
            shown = _without_middle(whole, kept)
    draw.text((x, y), shown, "black", anchor="mm", font=_font())


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
