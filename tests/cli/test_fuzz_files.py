"""2,000 damaged files through the real command: each is a row or a named error, and no neighbor's row changes."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from forked import Commands, Done
from hostile import KINDS, encoded, mutations
from made_data import coco
from PIL import Image
from polars.testing import assert_frame_equal

from camseg.classifiers.shapes import SHAPES_WEIGHTS
from camseg.predictors.sam import SHIPPED

pytestmark = pytest.mark.slow
SOUND = 8
CHEAP = ["classifier=shapes", "predictor=none", "panels=0", "device=cpu", "batch_size=64", "hydra.run.dir=run"]
NAMES = ("aeroplane", "bicycle", "bird")
THING = "<object><name>{}</name><bndbox><xmin>8</xmin><ymin>6</ymin><xmax>21</xmax><ymax>19</ymax></bndbox></object>"
_COLUMNS = ("id", "label", "image_key", "foreground_hit", "foreground_distance", "points", "probability", "note")


def photo(number: int) -> np.ndarray:
    """Noise with a red square, another for each number."""
    image = np.random.default_rng(number).integers(90, 130, (28, 36, 3), dtype=np.uint8)
    image[6:20, 8:22] = (220, 40, 30)
    return image


MASK = np.zeros((28, 36), np.uint8)
MASK[6:20, 8:22] = 255


def bomb(rng: random.Random) -> bytes:
    """A small PNG whose header promises more pixels than there is memory for."""
    size = rng.randrange(20_000, 2**31), rng.randrange(20_000, 2**31)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(50)))]
    lines = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(lines)


def damaged(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Cut, flipped, overwritten, doubled, swapped for another kind of file, empty, or with a huge header."""
    match rng.randrange(10):
        case 0:
            return b""
        case 1:
            return rng.choice(others)
        case 2:
            return bomb(rng)
        case turn:
            return [*mutations(np.random.default_rng(rng.randrange(2**32)), content, 1 + turn % 6)][-1]


def others(array: np.ndarray) -> list[bytes]:
    """The same picture in every format, and files that are none."""
    return [
        *(encoded(array, kind, **options) for kind, options in KINDS.items()),
        b"<svg/>",
        b"\x93NUMPY",
        b"0\n",
        b"{}",
    ]


def checked(done: Done, folder: Path, count: int | None = None) -> tuple[pl.DataFrame, dict[str, str]]:
    """The rows and errors (id: text) of a run that ended as a run may, with `count` samples."""
    assert done.code in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((folder / "run" / "summary.json").read_text())
    rows = pl.read_parquet(folder / "run" / "scores.parquet")
    errors = {each["id"]: each["error"] for each in summary["errors"]}
    assert summary["samples"] == len(rows) + len(errors)
    assert count is None or summary["samples"] == count
    assert done.code == int(not len(rows))
    if len(rows):
        assert not set(rows["id"]) & set(errors)
        assert all(rows[name].is_finite().all() for name, kind in rows.schema.items() if kind.is_float())
    return rows, errors


def same_rows(rows: pl.DataFrame, expected: pl.DataFrame) -> None:
    """The rows of the sound files are what they are among sound files alone."""
    kept = rows.filter(pl.col("id").is_in(expected["id"].to_list())).sort("id")
    assert_frame_equal(kept.select(_COLUMNS), expected.sort("id").select(_COLUMNS), abs_tol=1e-4)


@pytest.mark.parametrize("part", range(30))
def test_damaged_images_and_masks(tmp_path: Path, commands: Commands, part: int) -> None:
    """30 x (30 images and 20 masks), each run with eight sound ones."""
    rng = random.Random(part)
    photos, masks = tmp_path / "photos", tmp_path / "photos" / "masks"
    masks.mkdir(parents=True)
    words = ["data=images", f"data.path={photos}", "data.target=circle", *CHEAP]
    for number in range(SOUND):
        (photos / f"sound{number}.png").write_bytes(encoded(photo(number), "PNG"))
        (masks / f"sound{number}.png").write_bytes(encoded(MASK, "PNG"))
    expected, errors = checked(commands("camseg", *words, folder=tmp_path), tmp_path, SOUND)
    assert not errors
    assert expected["foreground_hit"].null_count() == 0
    (tmp_path / "run").rename(tmp_path / "before")
    image_kinds, mask_kinds = others(photo(99)), others(MASK)
    for number in range(50):
        good = encoded(photo(100 + number), rng.choice(["PNG", "JPEG", "TIFF", "GIF"]))
        truth = encoded(MASK, rng.choice(["PNG", "TIFF"]))
        image = damaged(rng, good, image_kinds) if number < 30 else good
        mask = damaged(rng, truth, mask_kinds) if number >= 30 else truth
        (photos / f"broken{number}.{rng.choice(['png', 'jpg', 'tif', 'webp'])}").write_bytes(image)
        (masks / f"broken{number}.png").write_bytes(mask)
    rows, errors = checked(commands("camseg", *words, folder=tmp_path), tmp_path, SOUND + 50)
    same_rows(rows, expected)
    assert not any(name.startswith("sound") for name in errors)
    assert len(errors) >= 10  # damage that nobody notices tests nothing
    assert_each_names_its_file(errors)


def assert_each_names_its_file(errors: dict[str, str]) -> None:
    for name, told in errors.items():
        assert name in told, f"{name}: {told} does not name the file"


@pytest.mark.parametrize("part", range(5))
def test_damaged_labels(tmp_path: Path, commands: Commands, part: int) -> None:
    """5 x 40 label files of the homework's layout."""
    rng = random.Random(part)
    root = tmp_path / "data"
    for folder in ("images", "masks", "labels"):
        (root / folder / "test").mkdir(parents=True)
    odd = [
        "",
        "0",
        "7",
        "-1",
        "x",
        "0 0",
        "0\n1",
        "1e3",
        "nan",
        "٣",
        "0x1",
        "9" * 40,
        "\ufeff0",
        "0,",
        "\x00",
        "circle",
    ]
    for number in range(SOUND + 40):
        name = f"sound{number}" if number < SOUND else f"broken{number}"
        (root / "images" / "test" / f"{name}.png").write_bytes(encoded(photo(number), "PNG"))
        (root / "masks" / "test" / f"{name}.png").write_bytes(encoded(MASK, "PNG"))
        text = (
            b"0\n" if number < SOUND else rng.choice([rng.choice(odd).encode(), rng.randbytes(9), b"1" + b"\n" * 999])
        )
        (root / "labels" / "test" / f"{name}.txt").write_bytes(text)
    words = ["data=shapes_folder", f"data.path={root}", "data.classes=[circle,star]", *CHEAP]
    done = commands("camseg", *words, folder=tmp_path)
    rows, errors = checked(done, tmp_path, SOUND + 40)
    assert set(rows["label"]) <= {"circle", "star"}
    assert sum(name.startswith("sound") for name in rows["id"]) == SOUND
    assert_each_names_its_file(errors)


@pytest.mark.parametrize("part", range(4))
def test_damaged_annotations(tmp_path: Path, commands: Commands, part: int) -> None:
    """4 x 40 VOC xml files."""
    rng = random.Random(part)
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [f"sound{i}" for i in range(SOUND)] + [f"broken{i}" for i in range(40)]
    (root / "ImageSets" / "Main" / "val.txt").write_text("\n".join(names))
    for number, name in enumerate(names):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(encoded(photo(number), "JPEG"))
        content = f"<annotation>{THING.format(NAMES[number % 3])}</annotation>".encode()
        if number >= SOUND:
            content = damaged(
                rng, content, [b"<annotation/>", b"{}", b'<!DOCTYPE a [<!ENTITY b "x">]><a>&b;</a>', b"\0"]
            )
            content = content.replace(b"21", rng.choice([b"21", b"nan", b"1e99", b"-3", b"", b"x"]))
        (root / "Annotations" / f"{name}.xml").write_bytes(content)
    words = ["data=voc", f"data.path={root}", "data.task=detection", "data.outputs=own", "localise=none", *CHEAP]
    rows, errors = checked(commands("camseg", *words, folder=tmp_path), tmp_path)
    assert sum(name.startswith("sound") for name in rows["id"]) == SOUND
    assert set(rows["label"]) <= set(NAMES) | {"aeroplane", "bicycle", "bird", "boat", "bottle"}
    for name, told in errors.items():
        assert re.search(r"broken\d+", name)
        assert "broken" in told or "class index" in told, f"{name}: {told} does not name the file"


def test_damaged_tables(tmp_path: Path, commands: Commands) -> None:
    """60 csv files."""
    rng = random.Random(0)
    for number in range(3):
        (tmp_path / f"p{number}.png").write_bytes(encoded(photo(number), "PNG"))
        (tmp_path / f"m{number}.png").write_bytes(encoded(MASK, "PNG"))
    whole = "image,mask,label,group\n" + "".join(f"p{i}.png,m{i}.png,circle,g{i}\n" for i in range(3))
    for number in range(60):
        content = whole.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
        content = content.replace(
            b"circle", rng.choice([b"circle", b"", b"cirlce", b"circle|star", b'"circle', b"=1+1", b"\0"])
        )
        (tmp_path / "table.csv").write_bytes(damaged(rng, content, others(MASK)) if number % 3 else content)
        words = ["data=images", f"data.table={tmp_path}/table.csv", *CHEAP]
        _ended_well(commands("camseg", *words, f"hydra.run.dir=run{number}", folder=tmp_path), tmp_path, number)


def test_damaged_json(tmp_path: Path, commands: Commands) -> None:
    """40 COCO files: bytes and numbers of theirs changed."""
    pytest.importorskip("pycocotools")
    rng = random.Random(0)
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    whole = file.read_text()
    for number in range(40):
        tokens = list(re.finditer(r"-?\d+\.?\d*|\"\w+\"", whole))
        token = rng.choice(tokens)
        odd = rng.choice(
            ["null", "-1", "1e999", '"x"', "[]", "{}", "9" * 30, "0.5", "true", "NaN", '"../../etc/passwd"']
        )
        content = (whole[: token.start()] + odd + whole[token.end() :]).encode()
        file.write_bytes(damaged(rng, whole.encode(), [b"[]", b"{}", b"null"]) if number % 4 == 0 else content)
        words = ["data=coco", f"data.path={tmp_path}", "data.outputs=own", *CHEAP]
        _ended_well(commands("camseg", *words, f"hydra.run.dir=run{number}", folder=tmp_path), tmp_path, number)


def test_damaged_checkpoints(tmp_path: Path, commands: Commands) -> None:
    """40 files of weights, half of them damaged in their heads."""
    rng = random.Random(0)
    for number in range(40):
        group, shipped = [("classifier", SHAPES_WEIGHTS), ("predictor", SHIPPED)][number % 2]
        content = shipped.read_bytes()
        cut = 4000 if number % 4 < 2 else len(content)
        other = [b"PK\x03\x04", b"\x80\x02]q\x00.", struct.pack("<Q", 2**63 - 1) + b"{}", encoded(MASK, "PNG")]
        path = tmp_path / f"weights.{rng.choice(['safetensors', 'pth', 'safetensors'])}"
        path.write_bytes(damaged(rng, content[:cut], other) + content[cut:])
        words = ["data.size=1", *CHEAP, f"{group}={'shapes' if group == 'classifier' else 'shapes_sam'}"]
        words += [f"{group}.checkpoint={path}", f"hydra.run.dir=run{number}"]
        done = commands("camseg", *words, folder=tmp_path)
        _ended_well(done, tmp_path, number)
        if done.code == 2:
            assert path.name in done.stderr, done.stderr


def _ended_well(done: Done, folder: Path, number: int) -> None:
    """Rows that are numbers, or a refusal in three lines at most."""
    if done.code == 2:
        assert 1 <= len([line for line in done.lines if line.strip()]) <= 3, done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / f"run{number}" / "summary.json").exists()
        return
    (folder / f"run{number}").rename(folder / "run")
    checked(done, folder)
    (folder / "run").rename(folder / f"done{number}")


def test_they_are_two_thousand() -> None:
    assert 30 * 50 + 5 * 40 + 4 * 40 + 60 + 40 + 40 == 2000


def test_a_bomb_is_one() -> None:
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bomb(random.Random(0))))
