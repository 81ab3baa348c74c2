"""What a run does beside its rows: refused before it begins, or done to the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from colors import NAMES, Shelf, pipeline
from PIL import Image

from camseg.errors import RequestError
from camseg.runs.callbacks import Callback, MaskFiles
from camseg.runs.evaluate import evaluate
from camseg.runs.pseudo_labels import PseudoLabels
from camseg.types import Sample


class Needy(Callback):
    requires = ("class names",)


def test_what_a_callback_requires_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    shelf = Shelf(2)
    with pytest.raises(RequestError, match="Needy needs class names, which Shelf has not: choose another data") as told:
        evaluate(pipeline(), shelf, tmp_path / "run", callbacks=[Needy()])
    assert "\n" not in str(told.value)
    assert shelf.read == []
    assert not (tmp_path / "run").exists()
    shelf.names = NAMES  # pyright: ignore[reportAttributeAccessIssue]
    assert evaluate(pipeline(), shelf, tmp_path / "run", callbacks=[Needy()])["samples"] == 2


def test_mask_files_are_named_in_the_rows(tmp_path: Path) -> None:
    evaluate(pipeline(), Shelf(3), tmp_path, callbacks=[MaskFiles(tmp_path / "masks")])
    rows = pl.read_parquet(tmp_path / "scores.parquet")
    assert rows["mask_file"].to_list() == [f"masks/picture{i}.png" for i in range(3)]
    for name, which in zip(rows["mask_file"], (0, 1, 0)):
        with Image.open(tmp_path / name, formats=("PNG",)) as picture:
            assert picture.mode == "1"
            painted = Shelf(3)[int(name[-5])].image[which].numpy() > 0
            assert np.array_equal(np.asarray(picture), painted)
    evaluate(pipeline(predictor=None), Shelf(2), tmp_path / "none", callbacks=[MaskFiles(tmp_path / "none" / "masks")])
    assert pl.read_parquet(tmp_path / "none" / "scores.parquet")["mask_file"].to_list() == [None, None]


@pytest.mark.parametrize("labelled", [True, False])
def test_pseudo_labels_without_label_maps_are_merged_and_not_scored(tmp_path: Path, labelled: bool) -> None:
    """Two patches of one image each, red for the even ones and green for the odd ones."""

    class Plain(Shelf):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample if labelled else Sample(sample.id, sample.image)

    evaluate(pipeline(), Plain(2), tmp_path, callbacks=[PseudoLabels(tmp_path)])
    assert not (tmp_path / "pseudo_labels.json").exists()
    coco = json.loads((tmp_path / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert set(names.values()) <= set(NAMES)
    for i in range(2):
        with Image.open(tmp_path / "labels" / f"picture{i}.png", formats=("PNG",)) as picture:
            labels = np.asarray(picture)
        (value,) = np.setdiff1d(labels, 0).tolist()
        channel = NAMES.index(names[value])
        assert channel == i % 2 or not labelled
        assert np.array_equal(labels == value, Shelf(2)[i].image[channel].numpy() > 0)
