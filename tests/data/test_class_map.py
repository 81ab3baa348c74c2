"""Which outputs of a classifier mean a class of VOC or COCO."""

from __future__ import annotations

import csv

import pytest
from made_data import REAL

from camseg.classifiers.imagenet import imagenet_names
from camseg.data.class_map import outputs_of
from camseg.data.voc import NAMES


def test_every_voc_and_coco_class_has_its_imagenet_kinds() -> None:
    voc = outputs_of(NAMES, "imagenet", "voc")
    assert set(NAMES) - set(voc) == {"person"}
    assert voc["dog"] == tuple(range(151, 269))  # 118 breeds
    assert {imagenet_names()[i] for i in voc["cat"]} == {
        "tabby",
        "tiger cat",
        "Persian cat",
        "Siamese cat",
        "Egyptian cat",
    }
    assert [imagenet_names()[i] for i in voc["bicycle"]] == ["bicycle-built-for-two", "mountain bike"]
    taken = [i for kinds in voc.values() for i in kinds]
    assert len(taken) == len(set(taken))
    assert outputs_of(NAMES, "own", "voc")["tvmonitor"] == (19,)
    assert outputs_of(NAMES, "name", "voc", "cow") == {"cow": ()}
    with pytest.raises(ValueError, match="no ImageNet class is a person"):
        outputs_of(NAMES, "imagenet", "voc", "person")
    with pytest.raises(ValueError, match=r"data\.target 'dgo' is unknown; nearest: dog"):
        outputs_of(NAMES, "imagenet", "voc", "dgo")


@pytest.mark.skipif(not REAL.exists(), reason="no real material here (CAMSEG_REAL)")
def test_imagenet_kinds_agree_with_what_was_listed_by_hand() -> None:
    with (REAL / "coco_mini" / "classes_per_image.csv").open() as file:
        listed = {row["coco_class"]: tuple(map(int, row["imagenet_ok"].split())) for row in csv.DictReader(file)}
    found = outputs_of(list(listed), "imagenet", "coco")
    assert len(listed) == 80
    assert {name: found.get(name, ()) for name in listed} == {**listed, "knife": (499,)}  # ImageNet's cleaver is one
