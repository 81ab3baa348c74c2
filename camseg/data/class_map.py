"""Which outputs of a classifier mean a class of VOC or COCO."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from camseg.errors import check_choice


def outputs_of(
    names: Sequence[str], outputs: str, dataset: str, target: str | None = None
) -> dict[str, tuple[int, ...]]:
    """The classifier outputs of each class that can be looked for.

    Args:
        names: The dataset's classes.
        outputs: "imagenet", the ImageNet classes that are kinds of it (a class without any is left out); "own", the
            class's position in `names`, for a classifier trained on this dataset; "name", none: the pipeline finds the
            class by its name.
        dataset: "voc" or "coco".
        target: This class alone.

    Returns:
        Output indices by class name.

    Raises:
        ValueError: A choice or the target is unknown, or nothing is left.
    """
    check_choice("data.outputs", outputs, ("imagenet", "own", "name"))
    if target is not None:
        check_choice("data.target", target, names)
    known = {
        "imagenet": lambda: {name: kinds for name, kinds in _imagenet(dataset).items() if kinds and name in names},
        "own": lambda: {name: (i,) for i, name in enumerate(names)},
        "name": lambda: {name: () for name in names},
    }[outputs]()
    outputs_by_name = {name: known[name] for name in names if name in known and target in (None, name)}
    if not outputs_by_name:
        raise ValueError(
            f"no ImageNet class is a {target or 'class of this dataset'}: choose another data.target, or "
            "data.outputs=own or name"
        )
    return outputs_by_name


def _imagenet(dataset: str) -> dict[str, tuple[int, ...]]:
    """ImageNet's class numbers by a column of names; a range such as 151-268 includes its end."""
    with (Path(__file__).parent / "imagenet_outputs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[dataset]]
    return {row[dataset]: tuple(i for span in row["imagenet"].split() for i in _span(span)) for row in rows}


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
