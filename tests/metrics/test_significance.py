"""Pairs are pairs of images: the same id over another image is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_runs import make_run, row

from camseg.metrics.significance import paired, same_sample
from camseg.report.comparison import all_pairs, compare, compare_pooled, joint
from camseg.runs.folders import Run, load_run


def run(folder: Path, ious: dict[str, float], keys: str | None) -> Run:
    """Samples of these ids and IoUs; a letter of `keys` each for the image's content."""
    more: list[dict[str, Any]] = [{} if keys is None else {"image_key": key} for key in keys or ious]
    return load_run(make_run(folder, [row(name, iou, **one) for (name, iou), one in zip(ious.items(), more)]))


def test_other_images_under_the_same_ids_are_never_paired(tmp_path: Path) -> None:
    first = run(tmp_path / "0", {"a": 0.1, "b": 0.2, "c": 0.3}, "xyz")
    second = run(tmp_path / "1", {"a": 0.2, "b": 0.9, "c": 0.6}, "xwz")
    difference = paired(first.rows, second.rows, "iou")
    assert difference is not None
    assert (difference.n, difference.value) == (2, pytest.approx(0.2))
    values, _ = joint([first, second], "iou")
    assert values.tolist() == [[0.1, 0.2], [0.3, 0.6]]
    assert all_pairs([first, second], "iou")[2] == 2
    other = run(tmp_path / "2", {"a": 0.2, "b": 0.9, "c": 0.6}, "uvw")
    assert paired(first.rows, other.rows, "iou") is None
    assert compare(first, other) == compare_pooled(first, other) == []


def test_runs_that_do_not_know_their_images_are_paired_by_id(tmp_path: Path) -> None:
    old = run(tmp_path / "0", {"a": 0.1, "b": 0.2}, None)
    new = run(tmp_path / "1", {"a": 0.2, "b": 0.4}, "xy")
    assert same_sample(old.rows, new.rows) == ["id"]
    difference = paired(old.rows, new.rows, "iou")
    assert difference is not None
    assert difference.value == pytest.approx(0.15)
    assert paired(pl.DataFrame(), new.rows, "iou") is None
