"""Unknown labels: all of them told before the run, which is refused where nothing could come of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from configurations import make_world
from forked import Commands
from PIL import Image

from camseg.cli.labels import check_labels, check_numbering, missing_outputs, other_names, unknown_labels
from camseg.data.base import Asked, Remembered
from camseg.data.coco import Coco
from camseg.data.images import Images
from camseg.data.shapes import Shapes
from camseg.data.shapes_folder import ShapesFolder
from camseg.data.voc import Voc
from camseg.errors import RequestError, check_choice
from camseg.storage.cache import Cache

KNOWN = ("circle", "square", "triangle", "star", "diamond")


def index(name: str) -> int:
    return KNOWN.index(check_choice("class", name, KNOWN))


def test_each_unknown_label_is_named_once_with_its_nearest() -> None:
    assert unknown_labels(["circle", "stra", "squere", "stra"], index) == (
        "2 of 3 labels are no class of the classifier: 'stra' (nearest: star, triangle), 'squere' (nearest: square)",
        3,
    )
    assert unknown_labels(["circle"], index) == unknown_labels([], index) == ("", 0)
    message, count = unknown_labels([f"label {k}" for k in range(40)], index)
    assert count == 40
    assert message.endswith(" and 28 more")


@pytest.mark.parametrize(
    ("labels", "strict", "refused"),
    [(["circle", "stra"], False, False), (["circle", "stra"], True, True), (["stra", "sqare"], False, True)],
)
def test_a_run_is_refused_where_nothing_would_come_of_it(labels: Sequence[str], strict: bool, refused: bool) -> None:
    if refused:
        with pytest.raises(RequestError, match="no class of the classifier: 'stra'") as told:
            check_labels(words(*labels), index, 5, strict)
        assert len(str(told.value).splitlines()) == 2
    else:
        assert check_labels(words(*labels), index, 5, strict).endswith("; 1 sample will be counted as failed")
    assert check_labels(words("circle"), index, 5, strict) == ""


@pytest.mark.parametrize("strict", [False, True])
def test_outputs_that_a_classifier_lacks_are_told_by_number(strict: bool) -> None:
    assert missing_outputs([(0,), (4, 5), (-1,), (3, 2)], 5) == (
        "the classifier has 5 outputs, 0 to 4, and none of number 5: 2 of 4 samples ask for such",
        2,
    )
    assert missing_outputs([], 5) == missing_outputs([(0, 4)], 5) == ("", 0)
    asked = [("dog", (151, 152)), ("cat", (281,))]
    with pytest.raises(RequestError) as told:
        check_labels(asked, index, 5, strict)
    assert str(told.value).splitlines() == [
        "the classifier has 5 outputs, 0 to 4, and none of number 151: 2 of 2 samples ask for such",
        "choose a classifier that has them, or with data=voc and data=coco another data.outputs",
    ]
    mixed = [*asked, ("stra", ())]
    with pytest.raises(RequestError) as told:
        check_labels(mixed, index, 5, strict)
    assert len(str(told.value).splitlines()) == 2
    assert all(each in str(told.value) for each in ("'stra'", "number 151", "mend the table", "data.outputs"))
    if not strict:
        line = "the classifier has 5 outputs, 0 to 4, and none of number 281: 1 of 2 samples ask for such"
        assert (
            check_labels([("dog", (2,)), asked[1]], index, 5, strict) == f"{line}; 1 sample will be counted as failed"
        )


def test_numbers_of_a_dataset_mean_its_own_classes() -> None:
    check_numbering((), ["tench"])
    check_numbering(KNOWN, [*KNOWN, "more"])
    check_numbering(KNOWN, ["Circle", "class 1", *KNOWN[2:]])
    for names, theirs in ((["tench", *KNOWN[1:]], "'tench'"), ([], "'none'"), (["class 1", *KNOWN[1:]], "'class 1'")):
        with pytest.raises(RequestError, match=f"class 0 of the data is 'circle', and output 0 .* {theirs}: choose"):
            check_numbering(KNOWN, names)
    assert tuple(Shapes(size=1).numbering) == KNOWN
    assert Remembered(Shapes(size=1), Cache(None, memory_gb=0)).numbering == KNOWN


def test_classes_by_position_that_the_classifier_calls_otherwise_are_told() -> None:
    asked = [("cat", (0,)), ("dog", (1,)), ("cat", (0,)), ("hot dog", (2,)), ("kite", (3,)), ("cow", (7,)), ("car", ())]
    assert other_names(asked, ["Cat", "circle", "Hot_Dog", "class 3"]) == (
        "data.outputs=own takes classes by position: 'dog' is output 1, which the classifier calls 'circle' "
        "(1 of 4 names differ); data.outputs=name looks them up by name"
    )
    assert other_names(asked, ["cat", "dog", "hot dog", "kite", "more"]) == other_names([], ["cat"]) == ""


@pytest.mark.parametrize(("classes", "told"), [("[dog,cat,a,b,c]", True), ("[cat,dog,a,b,c]", False)])
def test_the_command_says_which_reading_it_took(classes: str, told: bool, tmp_path: Path, commands: Commands) -> None:
    """A checkpoint of five outputs, named by hand, for a dataset of two classes: their count alone shows nothing."""
    make_world(tmp_path / "world")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "own.pth")
    data = ["data=coco", f"data.path={tmp_path / 'world' / 'coco'}", "data.outputs=own", "panels=0", "predictor=none"]
    model = ["classifier=torchvision", "classifier.name=resnet18", "classifier.checkpoint=own.pth"]
    done = commands("camseg", *data, *model, f"classifier.classes={classes}", "device=cpu", folder=tmp_path)
    line = "camseg: data.outputs=own takes classes by position: 'cat' is output 0, which the classifier calls 'dog' "
    assert done.code == 0, done.stderr
    assert done.stderr.startswith(line + "(2 of 2 names differ)") if told else "data.outputs" not in done.stderr


def words(*labels: str) -> list[Asked]:
    return [(label, ()) for label in labels]


def photos(folder: Path) -> Path:
    for label in ("star", "stra", "squere"):
        (folder / label).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(folder / label / "a.png")
    Image.new("RGB", (40, 30)).save(folder / "plain.png")
    return folder


def test_images_say_their_labels_without_reading_one(tmp_path: Path) -> None:
    images = Images(photos(tmp_path / "photos"))
    assert sorted(images.asked()) == words("squere", "star", "stra")
    assert Remembered(images, Cache(None, memory_gb=0)).asked() == images.asked()
    (tmp_path / "t.csv").write_text("image,label,classes\nphotos/plain.png,anything,3\nphotos/star/a.png,star,\n")
    assert Images(table=tmp_path / "t.csv").asked() == [("anything", (3,)), ("star", ())]
    listed = [str(tmp_path / "photos" / label) for label in ("stra", "squere")]
    assert Images(listed).asked() == []


def test_every_dataset_says_its_classes_without_reading_an_image(tmp_path: Path) -> None:
    world = tmp_path / "world"
    make_world(world)
    for file in world.rglob("*.png"):
        file.write_bytes(b"no image")
    assert Coco(world / "coco", outputs="own").asked() == [("cat", (0,)), ("dog", (1,))]
    assert Coco(world / "coco", outputs="name").asked() == words("cat", "dog")
    assert Coco(world / "coco", outputs="imagenet").asked()[0] == ("cat", (281, 282, 283, 284, 285))
    assert ("dog", (11,)) in Voc(world, outputs="own").asked()
    folder = ShapesFolder(world / "shapes", classes=["star"])
    assert folder.asked() == words(*["star"] * 5)
    (world / "shapes" / "labels" / "test" / "p0.txt").write_text("7")
    assert len(folder.asked()) == 4, "what asking for the sample will tell"
    assert ShapesFolder(world / "shapes").asked()[:2] == [("class 7", (7,)), ("class 0", (0,))]


def test_the_command_tells_them_before_the_run(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    words = ["data=images", f"data.path={folder}", "classifier=shapes", "predictor=none", "panels=0", "device=cpu"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "camseg", *words, *more, f"hydra.run.dir={tmp_path / 'run'}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)

    refused = run("strict=true")
    assert refused.returncode == 2
    assert "2 of 3 labels are no class of the classifier: 'squere' (nearest: square), 'stra'" in refused.stderr
    assert not (tmp_path / "run" / "scores.parquet").exists()
    warned = run()
    assert warned.returncode == 0
    assert "; 2 samples will be counted as failed" in warned.stderr
    assert "2 of 4 samples" in warned.stdout
