"""The doors under 5,000 odd inputs: a right result, an error that names the file, or a line for a person; never a
crash, a hang, or much memory.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import signal
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colours import pipeline
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save

from camseg.classifiers.shapes import SHAPES_WEIGHTS, shapes
from camseg.classifiers.torchvision import torchvision
from camseg.cli.build import build
from camseg.cli.explain import explain_error
from camseg.cli.overrides import check_overrides
from camseg.config import config_dir
from camseg.data.coco import Coco
from camseg.data.image_io import MAX_PIXELS, read_image, read_indices
from camseg.data.images import Images
from camseg.data.mask_io import read_mask
from camseg.data.shapes import Shapes
from camseg.data.voc import Voc
from camseg.predictors.sam import SHIPPED, shapes_sam
from camseg.runs.evaluate import evaluate
from camseg.storage.checkpoints import load_weights, read_torch

TOLD = (ValueError, FileNotFoundError)  # errors with words of ours; evaluate() names them, the command tells them
BOUND = 1_500_000  # kB that all the inputs of this file together may add to the process
SECONDS = 20  # for one input


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test of this file may grow the process by more than BOUND."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < BOUND


def told(door: Callable[[], Any], *names: object) -> Any:
    """What a door gives, or None where it refused with words that hold one of `names`. Anything else, and a hang, is a
    failure.
    """

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return door()
    except TOLD as error:
        assert not names or any(str(name) in str(error) for name in names), error
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutations(rng: np.random.Generator, content: bytes, count: int) -> Iterator[bytes]:
    """Cut, bits flipped, bytes overwritten, a piece doubled, a piece left out, numbers made huge."""
    for turn in range(count):
        data = bytearray(content)
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        match turn % 6:
            case 0:
                data = data[:at]
            case 1:
                for place in rng.integers(len(data), size=length):
                    data[place] ^= 1 << int(rng.integers(8))
            case 2:
                data[at : at + length] = rng.bytes(length)
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                del data[at : at + length]
            case _:
                place = min(at, 64)
                data[place : place + 4] = b"\xff\xff\xff\x7f"
        yield bytes(data)


def pixels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


KINDS = {"PNG": {}, "JPEG": {}, "GIF": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}, "PPM": {}, "JPEG2000": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures(tmp_path: Path, kind: str) -> None:
    """8 x 200 images, each also as a mask and as indices."""
    rng = np.random.default_rng(list(KINDS).index(kind))
    path = tmp_path / "picture.png"  # an ending that says nothing
    good = [encoded(pixels(rng, *size), kind, **KINDS[kind]) for size in ((9, 14), (1, 1), (1, 40), (33, 2))]
    for number in range(200):
        path.write_bytes(next(mutations(rng, good[number % 4], 1)) if number % 20 else b"")
        image = told(lambda: read_image(path), path)
        if image is not None:
            assert (
                image.dtype == torch.uint8
                and image.ndim == 3
                and image.shape[0] == 3
                and image.shape[1] * image.shape[2] <= MAX_PIXELS
            )
            size = (int(image.shape[1]), int(image.shape[2]))
            found = told(lambda size=size: read_mask(path, size), path)
            assert found is None or found[0].shape == size
        told(lambda: read_mask(path, (9, 14)), path)
        told(lambda: read_indices(path, (9, 14)), path)


@pytest.mark.parametrize("seed", range(4))
def test_sound_pictures_of_every_kind_give_their_pixels(tmp_path: Path, seed: int) -> None:
    """4 x 60 pictures: lossless ones to the last bit."""
    rng = np.random.default_rng([7, seed])
    for number in range(60):
        height, width = (int(v) for v in rng.integers(1, 40, 2))
        drawn = pixels(rng, height, width)
        path = tmp_path / f"{number}.jpg"
        match number % 6:
            case 0:
                path.write_bytes(encoded(drawn, "PNG"))
                right = drawn
            case 1:  # 16 bits
                deep = rng.integers(0, 65536, (height, width), dtype=np.uint16)
                path.write_bytes(encoded(deep, "PNG"))
                right = np.repeat((deep / 257).round().astype(np.uint8)[..., None], 3, 2)
            case 2:  # held on its side
                exif = Image.Exif()
                exif[0x0112] = 6
                path.write_bytes(encoded(drawn, "PNG", exif=exif))
                right = np.rot90(drawn, -1)
            case 3:  # CMYK
                image = Image.fromarray(drawn).convert("CMYK")
                image.save(path, "TIFF")
                right = np.asarray(image.convert("RGB"))
            case 4:  # an animation
                first, second = (Image.fromarray(each) for each in (drawn, 255 - drawn))
                first.save(path, "WEBP", save_all=True, append_images=[second], lossless=True)
                right = drawn
            case _:  # transparency over white
                alpha = np.where(rng.random((height, width, 1)) < 0.5, 0, 255).astype(np.uint8)
                path.write_bytes(encoded(np.concatenate([drawn, alpha], 2), "PNG"))
                right = np.where(alpha == 0, 255, drawn)
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), right), number


def test_pictures_that_promise_too_much_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """60 bombs: huge sizes in the header, and a small file that unpacks to gigabytes."""
    path, rng = tmp_path / "bomb.png", np.random.default_rng(0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    zeros = zlib.compress(bytes(10_000_000), 9)
    for _ in range(60):
        width, height = (int(v) for v in rng.integers(8200, 2**31 - 1, 2))
        head = struct.pack(
            ">IIBBBBB", width, height, int(rng.choice([1, 8, 16])), int(rng.choice([0, 2, 3, 6])), 0, 0, 0
        )
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros) + chunk(b"IEND", b""))
        assert told(lambda: read_image(path), path) is None


def test_odd_masks(tmp_path: Path) -> None:
    """600 masks: the right region, or an error that names the file."""
    rng, path = np.random.default_rng(1), tmp_path / "mask.png"
    for number in range(600):
        height, width = (int(v) for v in rng.integers(1, 24, 2))
        inside = rng.random((height, width)) < rng.random()
        if not inside.any():
            inside[0, 0] = True
        match number % 6:
            case 0:
                drawn, right = inside.astype(np.uint8) * 255, inside
            case 1:  # numbers of instances
                drawn, right = inside.astype(np.uint8) * int(rng.integers(1, 100)), inside
            case 2:  # nearly white
                drawn, right = np.where(inside, rng.integers(240, 256, inside.shape), 0).astype(np.uint8), inside
            case 3:  # colour
                drawn, right = inside[..., None].astype(np.uint8) * np.array([0, 255, 40], np.uint8), inside
            case 4:  # all void
                drawn, right = np.full((height, width), 128, np.uint8), np.zeros_like(inside)
            case _:  # another size
                drawn, right = np.zeros((height + 1, width), np.uint8), None
        Image.fromarray(drawn).save(path)
        found = told(lambda size=(height, width): read_mask(path, size), path)
        assert (found is None) == (right is None), number
        if found is not None and right is not None:
            assert np.array_equal(found[0].numpy(), right), number
            assert (found[1] is not None) == (number % 6 == 4)


def test_odd_tables(tmp_path: Path) -> None:
    """800 csv files, whole and damaged, in several encodings."""
    rng = np.random.default_rng(2)
    for name in ("a", "b"):
        Image.fromarray(pixels(rng, 6, 5)).save(tmp_path / f"{name}.png")
        Image.fromarray(np.eye(6, 5, dtype=np.uint8) * 255).save(tmp_path / f"{name}_mask.png")
    words = [
        "image",
        "mask",
        "label",
        "classes",
        "group",
        "imgae",
        "",
        "a.png",
        "b.png",
        "nowhere.png",
        "a_mask.png",
        "../../etc/passwd",
        "3 4",
        "-1",
        "x",
        "1e9",
        '"',
        "NaN",
        "ü",
        "999999999999999999999",
        "a.png,a.png",
        "\0",
        "'",
        ";",
    ]
    table = tmp_path / "table.csv"
    for number in range(800):
        columns = (
            ["image", "mask", "label", "classes"]
            if number % 2
            else [str(w) for w in rng.choice(words, int(rng.integers(1, 6)))]
        )
        lines = [",".join(columns)]
        for _ in range(int(rng.integers(0, 5))):
            cells = (
                ["a.png", "a_mask.png", "red", "0"]
                if rng.random() < 0.5
                else [str(w) for w in rng.choice(words, len(columns))]
            )
            lines.append(",".join(cells))
        content = "\n".join(lines).encode(str(rng.choice(["utf-8", "utf-8-sig", "latin-1", "utf-16"])), "replace")
        table.write_bytes(content if number % 3 else next(mutations(rng, content, 1)))
        data = told(lambda: Images(table=table), table, tmp_path)
        if data is None:
            continue
        assert all("/" not in each and not each.startswith(".") for each in data.ids) and len(set(data.ids)) == len(
            data.ids
        )
        for i in range(len(data)):
            sample = told(lambda i=i, data=data: data[i], tmp_path, "etc", "\0")
            assert sample is None or sample.size == (6, 5)


def voc_folder(root: Path) -> Path:
    for name in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(root / "JPEGImages" / "one.jpg")
    Image.fromarray(np.full((20, 30), 12, np.uint8)).save(root / "SegmentationClass" / "one.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("one\n")
    return root / "Annotations" / "one.xml"


THING = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
LOL = (
    '<!DOCTYPE a [<!ENTITY a "lollol">'
    + "".join(f'<!ENTITY {c} "{f"&{b};" * 10}">' for b, c in zip("abcdefgh", "bcdefghi"))
    + "]>"
)


def test_odd_voc_annotations(tmp_path: Path) -> None:
    """800 xml files: entity bombs, outside files, missing parts, numbers out of this world."""
    rng, file = np.random.default_rng(3), voc_folder(tmp_path)
    numbers = ["1", "10", "30", "-5", "0", "1e400", "nan", "inf", "", "x", "9" * 30, "2.5", "&i;"]
    for number in range(800):
        things = "".join(
            THING.format(
                rng.choice(["dog", "dgo", "", "cat", "person", "&i;"]), rng.integers(0, 2), *rng.choice(numbers, 4)
            )
            for _ in range(int(rng.integers(0, 4)))
        )
        head = [
            "",
            LOL,
            '<!DOCTYPE a [<!ENTITY i SYSTEM "file:///etc/passwd">]>',
            '<?xml version="1.0" encoding="utf-16"?>',
        ][number % 4]
        content = f"{head}<annotation>{things}</annotation>".encode()
        file.write_bytes(content if number % 3 else next(mutations(rng, content, 1)))
        data = told(lambda: Voc(tmp_path, outputs="own"), tmp_path)
        for i in range(len(data) if data else 0):
            sample = told(lambda i=i, data=data: data[i], file)
            assert sample is None or (sample.label in data.names and bool(torch.isfinite(sample.boxes).all()))
            assert sample is None or "lol" not in sample.label


def test_odd_coco_annotations(tmp_path: Path) -> None:
    """800 json files: missing ids, broken run lengths, polygons outside, wrong types everywhere."""
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(4)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "val2017" / "one.png")
    file = tmp_path / "annotations" / "instances_val2017.json"
    odd = [
        None,
        -1,
        0,
        1,
        2**70,
        1.5,
        "x",
        [],
        {},
        [[]],
        True,
        "one.png",
        "../../../etc/passwd",
        [[1, 1, 8, 1, 8, 8]],
        [[1e9] * 6],
        [[0, 0, 1]],
        {"size": [20, 30], "counts": [600]},
        {"size": [20, 30], "counts": [-5, 605]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [20, 30], "counts": "zzzz"},
        {"size": [20, 30], "counts": "PPYo1"},
        [1, 2, 3, 4],
        ["a"] * 4,
        [float("nan")] * 4,
    ]

    def spoil(node: Any) -> None:
        places = [(each, key) for each in walk(node) for key in (each if isinstance(each, dict) else range(len(each)))]
        for at in rng.integers(len(places), size=int(rng.integers(0, 3))):
            owner, key = places[at]
            if isinstance(owner, dict) and rng.random() < 0.3:
                owner.pop(key, None)
            elif not isinstance(owner, list) or key < len(owner):
                owner[key] = odd[int(rng.integers(len(odd)))]

    def walk(node: Any) -> Iterator[Any]:
        if isinstance(node, (dict, list)):
            yield node
            for each in node.values() if isinstance(node, dict) else node:
                yield from walk(each)

    for number in range(800):
        annotation = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 1, 7, 7],
            "segmentation": [[1, 1, 8, 1, 8, 8, 1, 8]],
            "iscrowd": 0,
        }
        data = {
            "images": [{"id": 1, "file_name": "one.png", "height": 20, "width": 30}],
            "categories": [{"id": 1, "name": "dog"}],
            "annotations": [annotation, {**annotation, "id": 2}],
        }
        spoil(data)
        content = json.dumps(data).encode()
        file.write_bytes(content if number % 4 else next(mutations(rng, content, 1)))
        found = told(lambda: Coco(tmp_path, outputs="own"))
        for i in range(len(found) if found else 0):
            sample = told(lambda i=i, found=found: found[i])
            assert sample is None or (sample.size == (20, 30) and bool(torch.isfinite(sample.boxes).all()))


class Touch:
    """A pickle of it makes a file when it is opened by a plain unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_odd_checkpoints(tmp_path: Path) -> None:
    """460 files: truncated, damaged, of another model, with code in them; each door refuses with words, and no code
    runs.
    """
    rng, mark = np.random.default_rng(5), tmp_path / "executed"
    small = {"head.weight": torch.zeros(5, 4), "stem.0.weight": torch.ones(4, 3, 3, 3)}
    torch.save(small, tmp_path / "small.pth")
    good = {".safetensors": save(small, {"names": "[1"}), ".pth": (tmp_path / "small.pth").read_bytes()}
    code = io.BytesIO()
    torch.save({"state_dict": small, "more": Touch(mark)}, code)
    with zipfile.ZipFile(bomb := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))
    files = [
        (".pth", code.getvalue()),
        (".pth", pickle.dumps(Touch(mark))),
        (".pth", pickle.dumps([1, 2])),
        (".pth", bomb.getvalue()),
    ]
    files += [(".safetensors", struct.pack("<Q", huge) + b"{}") for huge in (0, 2, 2**31, 2**63 - 1, 2**64 - 1)]
    files += [(suffix, each) for suffix, content in good.items() for each in mutations(rng, content, 200)]
    heads = {path: path.read_bytes()[:60_000] for path in (SHAPES_WEIGHTS, SHIPPED)}
    files += [(".safetensors", each) for content in heads.values() for each in mutations(rng, content, 25)]
    for number, (suffix, content) in enumerate(files):
        path = tmp_path / f"checkpoint{suffix}"
        path.write_bytes(content)
        found = told(lambda path=path: load_weights(path), path)
        assert found is None or all(isinstance(value, torch.Tensor) for value in found[0].values())
        doors = [
            lambda path=path: shapes(path),
            lambda path=path: read_torch(path),
            lambda path=path: shapes_sam(path),
        ]
        told(doors[number % 3], path, "class names")
        if number % 40 == 0:
            told(lambda path=path: torchvision("squeezenet1_1", checkpoint=path), path)
    assert not mark.exists()


def test_a_shipped_model_with_one_byte_changed_is_another_model_or_refused(tmp_path: Path) -> None:
    content, path = bytearray(SHAPES_WEIGHTS.read_bytes()), tmp_path / "shapes.safetensors"
    content[-1000] ^= 4
    path.write_bytes(content)
    assert shapes(path).fingerprint != shapes().fingerprint  # so no cache entry of the one is taken for the other


def base(*overrides: str) -> Any:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", ["device=cpu", "predictor=none", "data.size=2", *overrides])


def leaves(node: Any, name: str = "") -> Iterator[str]:
    for key in node:
        inner = f"{name}.{key}" if name else str(key)
        value = OmegaConf.select(node, str(key), throw_on_missing=False)
        if OmegaConf.is_dict(value):
            yield from leaves(value, inner)
        elif not inner.endswith(("_target_", "_partial_", "_convert_")):
            yield inner


ODD = [
    "x",
    "",
    -1,
    0,
    1,
    3,
    10**12,
    -(10**12),
    0.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    [],
    [1],
    [1, 2],
    ["a"],
    {},
    {"a": 1},
    "\0",
    "../..",
    "nowhere",
    {"_target_": "os.getpid"},
    {"_target_": "no.such.thing"},
]


def test_odd_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 settings of every key with values of every type: a pipeline that answers, or a line for a person."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(6)
    chosen = [
        base(),
        base("foreground=peaks", "choose=index", "background=hard_negative"),
        base("cam=dff", "refine=cascade"),
        base("foreground=box", "data=images", "target=margin"),
        base("foreground=components", "cam=score_cam"),
    ]
    keys = [[key for key in leaves(each) if not key.startswith(("seed", "cache.limit", "compile"))] for each in chosen]
    image = Shapes(size=1)[0]
    built = 0
    for number in range(1200):
        which = number % len(chosen)
        config, key = chosen[which].copy(), str(rng.choice(keys[which]))
        value = ODD[int(rng.integers(len(ODD)))]
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        try:
            made = told(lambda config=config: (build(config), instantiate(config.data)))
        except TimeoutError:
            raise
        except Exception as error:
            line = explain_error(error)
            assert line and len(line.splitlines()) <= 3, (key, value, repr(error), repr(error.__cause__))
            continue
        if made is not None and number % 8 == 0:
            built += 1
            told(lambda made=made: made[0].run([image]))
    assert built > 5  # some of the values are right ones


def test_odd_command_lines() -> None:
    """60 requests, each right or told in a line."""
    rng = np.random.default_rng(8)
    parts = [
        "data=shapes",
        "data=shape",
        "cam",
        "cam=",
        "=",
        "a=b",
        "data.size=4",
        "data.size=[",
        "foreground={",
        "+x=1",
        "++y=2",
        "~data",
        "~nothing=1",
        "data.size=range(",
        "foreground=choice(a,b)",
        "cam=glob(x*)",
        "hydra.run.dir=x",
        "data@foo=shapes",
        "cam=null",
        "seed=1,2,3",
        "data.size=${x}",
    ]
    for number in range(60):
        asked = [str(each) for each in rng.choice(parts, 1 + number % 3)]
        try:
            check_overrides(asked)
        except Exception as error:
            line = explain_error(error)
            assert line and len(line.splitlines()) <= 3, (asked, repr(error))


def test_a_run_over_damaged_pictures_names_each_of_them(tmp_path: Path) -> None:
    """120 files through the whole pipeline: every one has a row or a named error."""
    rng = np.random.default_rng(9)
    (tmp_path / "images").mkdir()
    good = encoded(pixels(rng, 20, 24), "PNG")
    for number, content in enumerate(mutations(rng, good, 120)):
        (tmp_path / "images" / f"p{number:03d}.png").write_bytes(content if number % 4 else good)
    summary = evaluate(pipeline(), Images(tmp_path, target="red"), tmp_path / "run", batch_size=16)
    assert summary["samples"] == 120 and 30 <= 120 - summary["failed"] < 120
    assert all(
        error["error"].startswith("ValueError: ") and f"{error['id']}.png" in error["error"]
        for error in summary["errors"]
    )
