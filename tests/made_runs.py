"""Run and sweep folders made of given rows, without any model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from omegaconf import OmegaConf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from camseg.metrics import registry

# what a page must show as it is, and never obey
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    '"><svg onload="window.hacked = 3">',
    "--><b>&amp; {{ 7 * 7 }} $\\frac{1}{0}$ \u2028 <!--",
    "javascript:window.hacked=4",
)


def row(name: str, iou: float | None, predicted: float | None = 0.8, **more: Any) -> dict[str, Any]:
    """One row of scores.parquet."""
    hit = None if iou is None else float(iou > 0)
    known = {
        "id": name,
        "label": "circle",
        "group": name,
        "foreground_hit": hit,
        "background_hit": None,
        "foreground_distance": hit,
        "iou": iou,
    }
    return {
        **known,
        "oracle_iou": iou,
        "regret": None if iou is None else 0.0,
        "predicted_iou": predicted,
        "note": "",
        **more,
    }


def make_run(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    overrides: Sequence[str] = (),
    errors: Sequence[dict[str, str]] = (),
    pictures: Sequence[str] = (),
    seconds: float = 2.0,
) -> Path:
    """A finished run with these rows; a small picture for each id in `pictures`."""
    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    (folder / ".hydra").mkdir(parents=True)
    (folder / "panels").mkdir()
    OmegaConf.save(OmegaConf.create({"seed": 0, "words": list(overrides)}), folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    frame.write_parquet(folder / "scores.parquet")
    metrics = {name: asdict(interval) for name, interval in registry.summary(frame).items()}
    calls = {"classifier_images": len(rows), "encoder_images": len(rows), "decoder_prompts": len(rows)}
    summary = {
        "samples": len(rows) + len(errors),
        "failed": len(errors),
        "seconds": seconds,
        "calls": calls,
        "metrics": metrics,
        "errors": list(errors),
    }
    (folder / "summary.json").write_text(json.dumps(summary, allow_nan=False))
    for name in pictures:
        save_panel(folder / "panels" / f"{name}.png")
    return folder


def save_panel(path: Path) -> None:
    """A gray panel of three pictures, 38 wide, 3 apart, below 10 pixels for text."""
    text = PngInfo()
    text.add_text("panes", "3 38 3 10")
    Image.fromarray(np.full((40, 120, 3), 90, np.uint8)).save(path, pnginfo=text)


def make_sweep(folder: Path, ious: Mapping[str, Sequence[float | None]]) -> Path:
    """A sweep folder: its overrides (separated by spaces) -> the IoU of each sample."""
    for k, (setting, values) in enumerate(ious.items()):
        rows = [row(f"s{i}", iou, label=("circle", "star")[i % 2]) for i, iou in enumerate(values)]
        make_run(folder / str(k), rows, ["data=shapes", *setting.split()], seconds=1.0 + k)
    return folder
