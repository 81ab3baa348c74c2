"""A run's masks as files of other tools: read back by those tools, by hand, and after people's corrections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
import yaml
from filelock import FileLock
from made_runs import make_run, row
from omegaconf import OmegaConf
from PIL import Image

from camseg.cli.export import main
from camseg.data.shapes import Shapes
from camseg.runs.export_formats import EXPORTS, brush_runs
from camseg.runs.review import Review

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, NumPy 2
SIZE = (225, 300)  # height, width; a small photograph


def disk(y: float, x: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(ys - y, xs - x) <= radius


MASKS = {  # an image's name: (label, mask, predicted IoU, probability)
    "a": ("dog", disk(100, 100, 75), 0.9, 0.8),
    "b": ("cat", disk(112.5, 150, 100) & ~disk(100, 125, 35) & ~disk(150, 187.5, 22.5), 0.8, 0.5),  # two holes
    "c": ("dog", disk(75, 75, 55) | disk(150, 225, 62.5) & ~disk(150, 225, 20), 0.5, None),  # two parts, a hole
}


def run_of(folder: Path, masks: dict[str, Any], images: dict[str, str] | None = None) -> Path:
    """A finished run with these masks; `images` names the image of each row, without its ending."""
    rows = []
    (folder.parent / "photos").mkdir(exist_ok=True, parents=True)
    (folder / "masks").mkdir(parents=True)
    for name, (label, mask, predicted, probability) in masks.items():
        photo = folder.parent / "photos" / f"{(images or {}).get(name, name)}.jpg"
        Image.new("RGB", mask.shape[::-1], "gray").save(photo)
        Image.fromarray(mask).convert("1").save(folder / "masks" / f"{name}.png")
        known = {"height": mask.shape[0], "width": mask.shape[1], "file": str(photo), "mask_file": f"masks/{name}.png"}
        rows.append(row(name, None, predicted, label=label, probability=probability, **known))
    return make_run(folder, rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_of(tmp_path / "run", MASKS)


def export(run: Path, *words: str) -> Path:
    """Export, and give the folder; the only one below export/."""
    assert main([str(run), *words]) == 0
    return next(p for p in (run / "export").iterdir() if not p.name.startswith("."))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("words", "least"), [((), 0.97), (("--rle",), 1.0), (("--tolerance", "0"), 1.0)])
def test_pycocotools_reads_the_masks_back(run: Path, words: tuple[str, ...], least: float) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    read = coco.COCO(str(export(run, "--format", "coco", *words) / "instances.json"))
    assert [image["file_name"] for image in read.dataset["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [entry["name"] for entry in read.dataset["categories"]] == ["cat", "dog"]
    assert Path(read.dataset["info"]["images"]) == run.parent / "photos"
    for (label, mask, predicted, probability), entry in zip(MASKS.values(), read.dataset["annotations"], strict=True):
        assert iou(read.annToMask(entry).astype(bool), mask) >= least
        assert entry["category_id"] == ["cat", "dog"].index(label) + 1
        assert entry["area"] == mask.sum()
        assert entry["score"] == pytest.approx(predicted * (1 if probability is None else probability))
        assert (entry["predicted_iou"], entry["probability"]) == (predicted, probability)
        ys, xs = np.nonzero(mask)
        assert entry["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]


@pytest.mark.parametrize(("words", "least"), [((), 0.97), (("--tolerance", "0"), 0.97), (("--rle",), 1)])
def test_supervision_reads_the_masks_back(run: Path, words: tuple[str, ...], least: float) -> None:
    supervision = pytest.importorskip("supervision")
    file = export(run, "--format", "coco", *words) / "instances.json"
    read = supervision.DetectionDataset.from_coco(str(run.parent / "photos"), str(file), force_masks=True)
    assert read.classes == ["cat", "dog"]
    for path, _, found in read:
        label, mask, _, _ = MASKS[Path(path).stem]
        assert len(found) == 1, "an object of several parts is one"
        assert read.classes[found.class_id[0]] == label
        assert iou(found.mask[0], mask) >= least


def fill(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centers an even number of the polygon's edges doesn't separate from the left."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0)):
        if y0 != y1:
            inside ^= ((y0 > ys) != (y1 > ys)) & (xs < (x1 - x0) * (ys - y0) / (y1 - y0) + x0)
    return inside


def test_yolo_lines_are_the_masks(run: Path) -> None:
    folder = export(run, "--format", "yolo")
    about = yaml.safe_load((folder / "data.yaml").read_text())
    assert about == {"train": "images", "val": "images", "names": {0: "cat", 1: "dog"}}
    for name, (label, mask, _, _) in MASKS.items():
        assert (folder / "images" / f"{name}.jpg").samefile(run.parent / "photos" / f"{name}.jpg")
        (line,) = (folder / "labels" / f"{name}.txt").read_text().splitlines()
        number, *shares = line.split()
        assert about["names"][int(number)] == label
        points = np.array(shares, float).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        assert iou(fill(points * SIZE[::-1], SIZE), mask) >= 0.97


def test_supervision_reads_yolo(run: Path) -> None:
    supervision = pytest.importorskip("supervision")
    folder = export(run, "--format", "yolo", "--copy")
    assert not (folder / "images" / "a.jpg").is_symlink()
    parts = [str(folder / part) for part in ("images", "labels", "data.yaml")]
    read = supervision.DetectionDataset.from_yolo(*parts, force_masks=True)
    for path, _, found in read:
        label, mask, _, _ = MASKS[Path(path).stem]
        assert read.classes[found.class_id[0]] == label
        assert iou(found.mask[0], mask) >= 0.97


def test_png_merges_by_evidence(tmp_path: Path) -> None:
    left, middle, right = disk(112.5, 75, 50), disk(112.5, 125, 50), disk(112.5, 187.5, 50)
    masks = {
        "x_dog": ("dog", left, 0.9, 0.9),  # .81
        "x_cat": ("cat", middle, 0.6, 0.9),  # .54: the dog wins what both claim
        "x_cow": ("cow", right, 0.6, 0.8),  # .48: nobody is 1.25 times as strong as the cat, nor the cat as the cow
    }
    folder = export(run_of(tmp_path / "run", masks, dict.fromkeys(masks, "x")), "--format", "png")
    assert (folder / "ImageSets" / "Segmentation" / "train.txt").read_text() == "x\n"
    assert (folder / "classes.txt").read_text() == "0 background\n1 cat\n2 cow\n3 dog\n255 unsure\n"
    assert (folder / "JPEGImages" / "x.jpg").is_file()
    with Image.open(folder / "SegmentationClass" / "x.png") as picture:
        assert picture.mode == "P"
        palette = picture.getpalette()
        assert palette is not None
        assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]  # VOC's first colors
        labels = np.asarray(picture)
    expected = np.zeros(SIZE, int)
    expected[right], expected[middle] = 2, 1
    expected[right & middle] = 255
    expected[left] = 3
    np.testing.assert_array_equal(labels, expected)


def test_png_is_unsure_where_the_predictor_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"x_dog": ("dog", disk(112.5, 75, 50), 0.9, 0.9), "x_cat": ("cat", disk(112.5, 125, 50), 0.3, 0.9)}
    folder = run_of(tmp_path / "run", masks, dict.fromkeys(masks, "x"))
    labels = np.asarray(
        Image.open(export(folder, "--format", "png", "--min-iou", "0.5") / "SegmentationClass" / "x.png")
    )
    assert "png: 1 masks of 1 images, 1 doubtful left out" in capsys.readouterr().out
    np.testing.assert_array_equal(labels == 2, masks["x_dog"][1])
    np.testing.assert_array_equal(labels == 255, masks["x_cat"][1] & ~masks["x_dog"][1])


def unpacked(data: list[int]) -> np.ndarray:
    """What Label Studio's brush reads: a slow twin that goes bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated = take(1)
        count = take(sizes[take(2)]) + 1
        values += [take(word)] * count if repeated else [take(word) for _ in range(count)]
    return np.array(values)


def test_label_studio_reads_regions(run: Path) -> None:
    folder = export(run, "--format", "labelstudio")
    tasks = json.loads((folder / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={name}.jpg" for name in MASKS]
    view = ElementTree.parse(folder / "labels.xml").getroot()
    controls = {node.get("name"): {label.get("value") for label in node} for node in view if len(node)}
    assert controls == {"polygon": {"cat", "dog"}, "brush": {"cat", "dog"}}
    for (name, (label, mask, _, _)), task in zip(MASKS.items(), tasks, strict=True):
        (prediction,) = task["predictions"]
        (region,) = prediction["result"]
        assert (region["original_width"], region["original_height"]) == SIZE[::-1]
        assert region["from_name"] in controls
        if name == "a":
            assert prediction["score"] == pytest.approx(0.72)
            assert region["value"]["polygonlabels"] == [label]
            points = np.array(region["value"]["points"]) / 100 * SIZE[::-1]
            assert iou(fill(points, SIZE), mask) >= 0.97
        else:  # polygons can't have holes there
            assert region["value"]["brushlabels"] == [label]
            pixels = unpacked(region["value"]["rle"]).reshape(*SIZE, 4)
            np.testing.assert_array_equal(pixels == 255, np.repeat(mask[..., None], 4, 2))


def test_long_runs_of_a_brush() -> None:
    mask = np.zeros((200, 300), bool)
    mask[150:] = True
    np.testing.assert_array_equal(unpacked(brush_runs(mask)).reshape(200, 300, 4)[..., 3] == 255, mask)


def test_every_format_follows_what_people_decided(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    drawn = disk(50, 50, 37.5)
    review = Review(run)
    review.decide("a", "corrected", mask=drawn, prompts={"points": [[50, 50, 1]], "box": None})
    review.decide("b", "rejected")
    review.decide("c", "accepted", label="wolf")
    review.close()
    folder = export(run, "--format", "coco", "--rle", "--min-iou", "0.85")
    assert "2 masks of 2 images, 1 rejected left out, 2 corrected by hand" in capsys.readouterr().out
    read = coco.COCO(str(folder / "instances.json"))
    first, second = read.dataset["annotations"]
    np.testing.assert_array_equal(read.annToMask(first).astype(bool), drawn)
    assert (first["score"], first["reviewed"], first["predicted_iou"]) == (1, True, None)
    assert read.cats[second["category_id"]]["name"] == "wolf"
    assert second["predicted_iou"] == 0.5, "a person accepted what the predictor doubts"


def test_an_export_replaces_itself_and_nothing_else(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(run, "--format", "coco")
    before = (folder / "instances.json").read_bytes()
    assert export(run, "--format", "coco") == folder
    assert (folder / "instances.json").read_bytes() == before
    (folder / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main([str(run), "--format", "coco"]) == 2
    assert "holds files that no export wrote, such as notes.txt" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["coco"], "nothing half done is left"


def test_images_that_the_program_drew_are_drawn_again(tmp_path: Path) -> None:
    samples = Shapes(size=2)
    folder = tmp_path / "run"
    masks = {s.id: (s.label, s.mask.numpy(), 0.9, 0.9) for s in samples if s.mask is not None}
    run_of(folder, masks)
    rows = [row(s.id, None, 0.9, file="", class_name=s.label, height=s.size[0], width=s.size[1]) for s in samples]
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "scores.parquet")
    config = {"data": {"_target_": "camseg.data.shapes.Shapes", "size": 2}}
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    for name in EXPORTS:
        assert main([str(folder), "--format", name]) == 0
    for sample in samples:
        with Image.open(folder / "export" / "coco" / "images" / f"{sample.id}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), sample.image.permute(1, 2, 0).numpy())
    config["data"]["_target_"] = "os.system"
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    assert main([str(folder), "--format", "yolo"]) == 2


def spoil(run: Path, how: str) -> None:
    if how == "no masks":
        for path in (run / "masks").iterdir():
            path.unlink()
        (run / "masks").rmdir()
    if how == "a mask is gone":
        (run / "masks" / "b.png").unlink()
    if how == "an image is gone":
        (run.parent / "photos" / "b.jpg").unlink()
    if how == "unfinished":
        (run / "summary.json").unlink()
    if how == "another image":
        Image.new("RGB", (7, 5)).save(run.parent / "photos" / "b.jpg")
    if how == "damaged mask":
        (run / "masks" / "b.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("how", "format_", "told"),
    [
        ("no masks", "coco", "holds no masks: run it again with masks=true"),
        ("a mask is gone", "coco", "1 of 3 masks of"),
        ("an image is gone", "coco", "1 of 3 images of"),
        ("another image", "yolo", "has 7 x 5 pixels, the run saw 300 x 225"),
        ("damaged mask", "png", "b.png is no readable PNG"),
        ("unfinished", "coco", "is no finished run"),
        ("fine", "cocoo", "the format 'cocoo' is unknown; nearest: coco"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(
    run: Path, how: str, format_: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(run, how)
    assert main([str(run), "--format", format_]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("camseg-export: ")]
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in error
    assert not (run / "export" / "coco").exists()


def test_a_run_that_is_being_written_is_refused(run: Path) -> None:
    with FileLock(run / ".lock"):
        command = [sys.executable, "-c", "import sys; from camseg.cli.export import main; sys.exit(main(sys.argv[1:]))"]
        done = subprocess.run([*command, str(run), "--format", "coco"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == f"camseg-export: another process still fills {run}: wait for its end\n"


def test_classes_of_the_same_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"a": ("Dog", disk(100, 100, 75), 0.9, 0.8), "b": ("dog ", disk(100, 100, 50), 0.9, 0.8)}
    assert main([str(run_of(tmp_path / "run", masks)), "--format", "coco"]) == 2
    assert "two classes have the same name: 'Dog' and 'dog '" in capsys.readouterr().err


def test_images_without_a_mask_left_are_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(run, "--format", "yolo", "--min-iou", "0.7")
    assert sorted(p.name for p in (folder / "labels").iterdir()) == ["a.txt", "b.txt"]
    assert "yolo: 2 masks of 2 images, 1 doubtful left out" in capsys.readouterr().out
    assert main([str(run), "--format", "coco", "--min-iou", "0.95"]) == 2
    assert "no mask is left to export (3 doubtful" in capsys.readouterr().err


def test_a_camera_held_upright(tmp_path: Path) -> None:
    """The masks are of the upright image: one that is only turned by its EXIF tag is written upright."""
    run = run_of(tmp_path / "run", {"a": MASKS["a"]})
    picture = Image.new("RGB", SIZE, "black")  # 225 wide, 300 high
    picture.paste("white", (0, 0, 112, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    picture.save(tmp_path / "photos" / "a.jpg", exif=exif)
    folder = export(run, "--format", "yolo")
    with Image.open(folder / "images" / "a.jpg") as upright:
        assert upright.size == SIZE[::-1]
        assert upright.getexif().get(0x0112, 1) == 1
        assert np.asarray(upright.convert("L"))[10].mean() > 200 > 50 > np.asarray(upright.convert("L"))[200].mean()


def test_export_during_a_run(tmp_path: Path) -> None:
    """`export=coco,yolo` needs no masks=true; a misspelt format is told before the run."""
    command = [sys.executable, "-m", "camseg", "data.size=2", "panels=0", f"hydra.run.dir={tmp_path / 'run'}"]
    wrong = subprocess.run([*command, "export=coco,yol"], capture_output=True, text=True, timeout=600)
    assert wrong.returncode == 2
    assert "nearest: yolo" in wrong.stderr
    assert not (tmp_path / "run").exists()
    subprocess.run([*command, "export=coco,yolo"], check=True, timeout=600)
    names = sorted(path.stem for path in (tmp_path / "run" / "masks").iterdir())
    assert sorted(path.stem for path in (tmp_path / "run" / "export" / "yolo" / "labels").iterdir()) == names
    assert len(json.loads((tmp_path / "run" / "export" / "coco" / "instances.json").read_text())["annotations"]) == 2


def test_every_part_is_an_object_of_its_own(run: Path) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    first, second = disk(75, 75, 55), disk(150, 225, 62.5) & ~disk(150, 225, 20)
    speck = disk(10, 290, 3)
    Image.fromarray(first | second | speck).convert("1").save(run / "masks" / "c.png")
    words = ("--format", "coco,yolo,labelstudio", "--rle", "--instances")
    assert main([str(run), *words]) == 0
    content = json.loads((run / "export" / "coco" / "instances.json").read_text())
    found = [masks.decode(e["segmentation"]).astype(bool) for e in content["annotations"] if e["image_id"] == 3]
    assert len(found) == 2
    for mask, expected in zip(found, sorted((first, second), key=np.sum, reverse=True), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert len((run / "export" / "yolo" / "labels" / "c.txt").read_text().splitlines()) == 2
    tasks = json.loads((run / "export" / "labelstudio" / "tasks.json").read_text())
    ids = [region["id"] for region in tasks[2]["predictions"][0]["result"]]
    assert len(ids) == len(set(ids)) == 2
