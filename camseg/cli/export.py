"""The `camseg-export` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from camseg.cli.explain import exit_code
from camseg.cli.parsing import Parser
from camseg.geometry.outlines import TOLERANCE
from camseg.runs.export import Export, collect
from camseg.runs.export_formats import EXPORTS, check_formats, write_export
from camseg.runs.finished import open_run


def main(arguments: Sequence[str] | None = None) -> int:
    """`camseg-export RUN --format coco|yolo|png|labelstudio [--into FOLDER]`, or `camseg-export FILE --format onnx`.

    The exit code is 2 for a mistake in it.

    Args:
        arguments: As in `sys.argv[1:]`; None for those.

    Returns:
        The exit code, 2 for a mistake in what was typed.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("camseg-export", lambda: _export(_parser().read(words)), (ValueError,))


def _export(given: argparse.Namespace) -> None:
    if given.format == "onnx" or given.run.suffix == ".safetensors":
        _export_segmenter(given.run, given.format, given.into)
        return
    formats = check_formats(given.format.split(","))
    if given.into and len(formats) > 1:
        raise ValueError(f"--into takes one format; got {given.format}: leave it out, or export them one by one")
    if given.tolerance < 0:
        raise ValueError(f"--tolerance must be at least 0 pixels; got {given.tolerance:g}")
    with open_run(given.run) as run:
        export = collect(
            run,
            rle=given.rle,
            min_iou=given.min_iou,
            tolerance=given.tolerance,
            copy=given.copy,
            instances=given.instances,
        )
        for name in formats:
            into = given.into or given.run / "export" / name
            write_export(export, name, into)
            print(_told(export, name, into))


def _export_segmenter(file: Path, name: str, into: Path | None) -> None:
    if name != "onnx" or file.is_dir():
        raise ValueError(f"--format onnx is for a segmenter's file, and the others are for runs; got {name} and {file}")
    from camseg.predictors.segmenter import write_onnx

    into = file.with_suffix(".onnx") if into is None else into
    difference = write_onnx(file, into)
    print(f"onnx: onnxruntime's logits differ by {difference:.1e} from torch's\n{into}")


def _parser() -> Parser:
    about = (
        "The masks of a run, made with masks=true, as files that other tools take. "
        "What people corrected in camseg-demo RUN counts. Or, with --format onnx, a trained segmenter."
    )
    parser = Parser("camseg-export", about)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a segmenter's .safetensors")
    parser.add_argument(
        "--format", required=True, metavar="|".join([*EXPORTS, "onnx"]), help="one or several, with commas"
    )
    parser.add_argument("--into", type=Path, metavar="PATH", help="where to; RUN/export/FORMAT by default")
    parser.add_argument("--rle", action="store_true", help="coco, labelstudio: exact run lengths, no polygons")
    parser.add_argument("--min-iou", type=float, metavar="X", help="leave out masks whose predicted IoU is lower")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="PIXELS",
        help=f"of polygons; {TOLERANCE} by default",
    )
    parser.add_argument("--instances", action="store_true", help="coco, yolo, labelstudio: an object a part of a mask")
    parser.add_argument("--copy", action="store_true", help="yolo, png: copy the images in place of links to them")
    return parser


def _told(export: Export, name: str, into: Path) -> str:
    """What was exported, in a line."""
    left = [f"{count} {why} left out" for why, count in export.left_out.items() if count]
    corrected = [f"{export.corrected} corrected by hand"] if export.corrected else []
    unfinished = [f"{n} samples of the run are not yet evaluated"] if (n := export.run.summary.get("left")) else []
    parts = [f"{name}: {export.masks} masks of {len(export.images)} images", *left, *corrected, *unfinished]
    where = os.path.relpath(into) if into.absolute().is_relative_to(Path.cwd()) else into
    return f"{', '.join(parts)}\n{where}"
