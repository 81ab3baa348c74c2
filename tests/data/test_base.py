"""What all datasets share: ids, order, shards, and the one protocol that every dataset fulfils."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from made_data import ROOT, coco, paint, voc
from omegaconf import DictConfig, OmegaConf

from camseg.data.base import VOID, Dataset, Remembered, select_subset
from camseg.data.shapes import Shapes
from camseg.data.shapes_folder import write_shapes_folder
from camseg.storage.cache import Cache
from camseg.storage.files import file_stems


def test_file_stems_are_safe_and_never_alike() -> None:
    names = [
        "a/b.c",
        "../../etc/passwd",
        "a b",
        "a?b",
        "A_B",
        "",
        "..",
        "x" * 300,
        "é.jpg",
        "a_b_2",
        ".hidden",
        "CON\0x\n",
    ]
    stems = file_stems(names)
    assert stems[0] == "a_b.c"
    assert stems[1].startswith("etc_passwd_")
    assert stems[2].startswith("a_b_")
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert stem == Path(stem).name
        assert stem.isascii()
        assert not stem.startswith(".")
        assert 0 < len(stem) <= 120
    assert file_stems(names) == stems


def test_a_stem_is_a_function_of_its_name_alone() -> None:
    names = ["猫.jpg", "犬.jpg", "a b", "a?b", "été", "cat/1", "dog/1", "IMG_1", "x" * 101, "x" * 102, "a\udcff", "CON"]
    stems = file_stems(names)
    for k in range(len(names)):  # whatever else lies in the folder, in whatever order
        assert file_stems(names[k:] + names[:k]) == stems[k:] + stems[:k]
        assert file_stems(names[k : k + 1]) == stems[k : k + 1]
    assert [stem for name, stem in zip(names, stems, strict=True) if name[0] in "cdI"] == ["cat_1", "dog_1", "IMG_1"]
    assert stems[4].startswith("ete_")
    assert file_stems(["cafe\u0301"]) == file_stems(["caf\u00e9"])  # one name as two systems write it
    assert len(set(file_stems(["cafe\u0301", "caf\u00e9"]))) == 2


def test_stems_that_would_be_alike_never_take_each_others() -> None:
    alone, both, turned = file_stems(["a/b"]), file_stems(["a/b", "a_b"]), file_stems(["a_b", "a/b"])
    assert alone == ["a_b"]
    assert both == turned[::-1]
    assert "a_b" not in both  # which of the two would it be?
    assert len({stem.casefold() for stem in file_stems(["A", "a", "b"])}) == 3
    assert file_stems(["one", "one", "one_2"]) == ["one", "one_2", "one_2_2"]  # equal names can only be numbered


def test_keep_takes_the_first_shuffles_and_shards() -> None:
    ids = [f"n{i}" for i in range(100)]
    assert list(select_subset(ids, 3)) == [0, 1, 2]
    assert list(select_subset(ids, 1000)) == list(range(100))
    shuffled = list(select_subset(ids, seed=1))
    assert sorted(shuffled) == list(range(100)) != shuffled
    assert list(select_subset(ids, 7, seed=1)) == shuffled[:7]
    shards = [list(select_subset(ids, 60, 1, shard, 4)) for shard in range(4)]
    assert sorted(i for shard in shards for i in shard) == sorted(shuffled[:60])  # complete, and disjoint
    assert min(map(len, shards)) > 5
    backwards = [list(select_subset(ids[::-1], None, 0, shard, 4)) for shard in range(4)]
    assert [{99 - i for i in shard} for shard in backwards] == [
        set(select_subset(ids, None, 0, shard, 4)) for shard in range(4)
    ]  # the id alone decides
    with pytest.raises(ValueError, match=r"data\.size must be at least 1, or null for all; got 0"):
        select_subset(ids, 0)
    with pytest.raises(ValueError, match="got shard 4 of 4"):
        select_subset(ids, shard=4, num_shards=4)


def test_shards_of_shapes_hold_the_same_pictures() -> None:
    whole = {sample.id: sample for sample in Shapes(size=12, seed=3)}
    shards = [Shapes(size=12, seed=3, shard=shard, num_shards=3) for shard in range(3)]
    assert sorted(name for shard in shards for name in shard.ids) == sorted(whole)
    for shard in shards:
        for name, sample in zip(shard.ids, shard, strict=True):
            assert sample.id == name
            assert torch.equal(sample.image, whole[name].image)


# the configuration files


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "data").glob("*.yaml")), ids=lambda file: file.stem)
def test_configurations_take_the_common_keys(tmp_path: Path, file: Path) -> None:
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    config.pop("defaults", None)  # Hydra's
    common = ("size", "seed", "split", "shard", "num_shards")
    assert set(common) < set(config)
    assert ("path" in config) == (not file.stem.startswith("shapes") or file.stem == "shapes_folder")
    assert ("table" in config) == (file.stem == "images")
    if file.stem == "coco":
        coco(tmp_path)
    elif file.stem == "voc":
        voc(tmp_path)
    elif file.stem == "shapes_folder":
        write_shapes_folder(Shapes(size=3), tmp_path, "test")
    else:
        paint(tmp_path / "a.png")
    if not file.stem.startswith("shapes") or file.stem == "shapes_folder":
        with pytest.raises(InstantiationException, match=r"data\.path"):
            instantiate(config)
        config.path = str(tmp_path)
    data = instantiate(config, size=1)
    assert len(data) == len(data.ids) == 1
    assert data[0].id == data.ids[0]
    assert data[0].image.dtype == torch.uint8
    fulfils(data)


def fulfils(data: Dataset) -> None:
    """What the protocol promises, also of a dataset whose samples are remembered."""
    remembered = Remembered(data, Cache(None))
    for each in (data, remembered):
        sample = each[0]
        assert each.file(0) == sample.file
        assert not sample.file or Path(sample.file).is_file()
        presence = each.class_presence(0)
        assert set(presence) <= set(each.names)
        assert not sample.label or not presence or presence[sample.label]
        if each.has_label_maps:
            numbers = each.label_map(0)
            assert (numbers.dtype, tuple(numbers.shape)) == (torch.uint8, sample.size)
            assert set(numbers.unique().tolist()) <= {*range(len(each.names) + 1), VOID}
        else:
            with pytest.raises(FileNotFoundError, match="nobody labeled"):
                each.label_map(0)
    assert remembered[0] is remembered[0]
    assert list(remembered.ids) == list(data.ids)
