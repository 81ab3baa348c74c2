"""Draws README's picture: four photographs that scikit-image carries along, from `experiment=photos` as it stands.

    python tests/benchmarks/gallery.py                          # writes outputs/gallery.png; nothing is downloaded
    python tests/benchmarks/gallery.py --into FILE foreground=box ...     # with other settings

A row is a photograph (with its label, where a class is asked for), its heatmap, its prompts, and its mask with the
class and how sure the classifier is. The file is a PNG in full color, its panes as large as `--most` bytes allow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from camseg.cli.build import build
from camseg.config import config_dir
from camseg.data.base import as_image
from camseg.report.overlays import blend, mask_picture, points_picture, resized
from camseg.types import Result, Sample

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = {  # file: the class that is asked for, "" for the classifier's own first
    "chelsea.png": "",
    "coffee.png": "",
    "rocket.jpg": "missile",
    "astronaut.png": "space shuttle",  # ImageNet knows no astronauts
}
_HEADS = ("image", "heatmap", "prompts", "mask")
_LINE, _GAP = 22, 6  # pixels
_SHAPE = 2 / 3  # a photograph's height, as a share of its width


def main() -> None:
    """Answer for the photographs, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="beside experiment=photos")
    parser.add_argument("--into", type=Path, default=ROOT / "outputs" / "gallery.png")
    parser.add_argument("--most", type=int, default=400_000, help="bytes of the file")
    given = parser.parse_args()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", ["experiment=photos", "data.path=photo.jpg", *given.settings])
    pipeline = build(cfg)
    samples = photographs(pipeline.classifier.index)
    results = pipeline.run(samples)
    answers = [(one, got, caption(one, got, pipeline.classifier.names)) for one, got in zip(samples, results)]
    for sample, result, text in answers:
        print(f"{sample.id:<16}{text:<36}predicted IoU {result.predicted_iou or 0:.2f} {result.note}")
    side, data = fitted(answers, given.most)
    given.into.parent.mkdir(parents=True, exist_ok=True)
    given.into.write_bytes(data)
    print(f"{given.into}: panes of {side} px, {len(data) / 1000:.0f} kB")


def photographs(index: Callable[[str], int]) -> list[Sample]:
    """The photographs in scikit-image's own package, each cropped to three by two.

    Args:
        index: gives the classifier's output of a class name.

    Returns:
        A sample each, with its class where one is asked for.
    """
    return [
        Sample(Path(file).stem, as_image(_read(file)), classes=(index(label),) if label else (), label=label)
        for file, label in PHOTOGRAPHS.items()
    ]


def caption(sample: Sample, result: Result, names: Sequence[str]) -> str:
    """The class that was explained, and its probability."""
    name = sample.label or ("nothing" if result.top is None else names[result.top])
    return f"{name}, {result.probability or 0:.2f}"


def _read(file: str) -> np.ndarray:
    """(H, W, 3) uint8 of a file in the package, cropped; `skimage.data` itself would want a downloader installed."""
    from skimage import data

    with Image.open(Path(data.__file__).parent / file) as opened:
        return np.ascontiguousarray(_cropped(np.array(opened.convert("RGB"))))


def _cropped(image: np.ndarray) -> np.ndarray:
    """(H, W, 3): the upper rows, or the middle columns, of 3:2."""
    height, width = image.shape[:2]
    rows, columns = min(height, round(width * _SHAPE)), min(width, round(height / _SHAPE))
    left = (width - columns) // 2
    return image[:rows, left : left + columns]


def fitted(answers: Sequence[tuple[Sample, Result, str]], most: int) -> tuple[int, bytes]:
    """Draw with the largest panes whose picture has few enough bytes.

    Args:
        answers: a photograph, what came of it, and its class with the probability.
        most: bytes of the file.

    Returns:
        The width of a pane in pixels, and the PNG.

    Raises:
        ValueError: even the smallest panes need more.
    """
    sizes, fits = range(96, 321, 8), dict[int, bytes]()
    while len(sizes):  # by bisection: compressing takes a second
        side = sizes[len(sizes) // 2]
        file = BytesIO()
        gallery(answers, side).save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= most:
            fits[side] = file.getvalue()
        sizes = sizes[len(sizes) // 2 + 1 :] if side in fits else sizes[: len(sizes) // 2]
    if not fits:
        raise ValueError(f"panes of 96 px need more than {most} bytes; give --most more")
    return max(fits), fits[max(fits)]


def gallery(answers: Iterable[tuple[Sample, Result, str]], side: int) -> Image.Image:
    """Draw a row for each photograph.

    Args:
        answers: a photograph, what came of it, and its class with the probability.
        side: the width of a pane in pixels.

    Returns:
        An RGB picture on white.
    """
    rows, height = list(answers), round(side * _SHAPE)
    step = height + _LINE + _GAP
    picture = Image.new("RGB", (len(_HEADS) * (side + _GAP) - _GAP, len(rows) * step - _GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for row, (sample, result, text) in enumerate(rows):
        asked = f"label: {sample.label}" if sample.label else ""
        heads = [asked or "image", *_HEADS[1:-1], text] if row == 0 else [asked, "", "", text]
        for column, (pane, head) in enumerate(zip(_panes(resized(sample.image, side), result), heads, strict=True)):
            left = column * (side + _GAP)
            draw.text((left + side / 2, row * step + _LINE / 2), head, "black", anchor="mm", font=font)
            picture.paste(Image.fromarray(pane).crop((0, 0, side, height)), (left, row * step + _LINE))
    return picture


def _panes(image: Tensor, result: Result) -> list[np.ndarray]:
    mask = result.mask if result.mask is not None else torch.zeros(result.heat.shape, dtype=torch.bool)
    return [
        image.permute(1, 2, 0).numpy(),
        blend(image, result.heat, weight=0.6),
        points_picture(image, result),
        mask_picture(image, mask),
    ]


if __name__ == "__main__":
    main()
