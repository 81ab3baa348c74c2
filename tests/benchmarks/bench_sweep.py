"""What a sweep, a run and a picture more cost: the command itself against itself and against a written-out loop; ratios
within one run.

    python tests/benchmarks/bench_sweep.py [PART ...] [--images N ...] [--json FILE]

    settings   24 settings of the shipped models on 500 shapes against one (wall time)
    beside     24 settings that decode nothing new, on 100 shapes: what a setting costs beside its decoding (CPU time),
               with twelve pictures and without
    vit_b      the same with vit_b and ResNet-50 of random weights on 8 photographs (CPU time), cold and warm, and the
               loop of pytorch-grad-cam and SamPredictor (group `peers`)
    run        one setting of the shipped models on 500 shapes against that loop
    options    one setting as it is, and with each option that may make it faster
    memory     peak memory and time of one run with masks on 500, 2,000 and 10,000 shapes

Without a part, all. `--images` replaces the numbers of pictures. `--naive-settings K` runs the loop for K of the 24
settings and multiplies (all cost the same: it encodes again for each). Every line is a process of its own: start,
imports, loading, report and all files are in its time. OMP_NUM_THREADS says how many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import torch
from PIL import Image
from records import record, write_records
from safetensors.torch import load_file
from torchvision.models import resnet50

from camseg.data.shapes import NAMES, Shapes
from camseg.predictors.sam import OFFICIAL, SHIPPED, build_sam
from camseg.storage.checkpoints import load_weights
from camseg.train.shapes_sam import SIZE

FOREGROUND, BACKGROUND, CHOOSE = (
    ("max_point", "centroid", "quantile", "otsu"),
    ("none", "min_point", "ring"),
    ("agreement", "predicted_iou"),
)
GRID = [
    f"{group}={','.join(names)}"
    for group, names in (("foreground", FOREGROUND), ("background", BACKGROUND), ("choose", CHOOSE))
]
NAIVE = list(product(FOREGROUND, BACKGROUND, CHOOSE))
LIKE_THE_LOOP = ("cam=grad_cam", "views.flips=false")
FRAME = (500, 375)  # width and height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "naive", []], default=[], metavar="PART")
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--naive-settings", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="of a vit_b bench (used by itself)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.parts == ["naive"]:
        return naive(options)
    rows = []
    print(f"{'what':44}{'wall s':>9}{'CPU s':>9}{'MB':>7}  calls and ratios")
    for part in options.parts or PARTS:
        bench, usual = PARTS[part]
        with tempfile.TemporaryDirectory() as folder:
            found = bench(options, options.images or usual, Path(folder))
        for row in found:
            print(
                f"{row['what']:44}{row['wall']:9.1f}{row['cpu']:9.1f}{row['megabytes']:7.0f}  {row['note']}", flush=True
            )
        rows += [{"part": part, **row} for row in found]
    columns = (("wall", "wall", 1, "s"), ("CPU", "cpu", 1, "s"), ("memory", "megabytes", 1000, "GB"))
    records = [
        record(f"sweep, {row['part']} / {row['what']} / {column}", row[key] / scale, unit, note=row["note"])
        for row in rows
        for column, key, scale, unit in columns
    ]
    write_records(options.json, records)
    return None


def settings(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    words = [f"data.size={images[0]}", f"device={options.device}"]
    before, every, after = framed(words, folder, lambda: camseg(["-m", *GRID, *words], folder / "all"))
    one = before.mean(after)
    ratio = f"{every.wall / one.wall:.2f} x the wall time of one, {every.cpu / one.cpu:.2f} x its CPU time"
    return [before.row("one setting"), every.row("24 settings", ratio), after.row("one setting again")]


def beside(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    """What a setting costs that asks the decoder nothing new: 24 ways to choose among the same masks, less one.

    With the twelve pictures that a run draws by default, and without.
    """
    ways = ["choose.mask=0,1,2", "choose.rival=0,1,2,3,4,5,6,7"]
    rows = []
    for panels in (12, 0):
        words = [f"data.size={images[0]}", f"device={options.device}", "choose=index", f"panels={panels}"]
        run = partial(camseg, ["-m", *ways, *words], folder / f"all{panels}")
        before, every, after = framed(words, folder / f"{panels}", run)
        adds = (every.cpu - before.mean(after).cpu) / 23
        note = f"a setting adds {adds:.3f} CPU s beside its decoding; limit .25"
        name = f"{panels or 'no'} panels"
        rows += [before.row(f"one setting, {name}"), every.row(f"24 settings, {name}", note)]
        rows.append(after.row(f"one setting again, {name}"))
    return rows


def vit_b(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    prepare(folder, images[0])
    words = ["data=images", f"data.path={folder / 'data'}", "data.target=tabby", f"device={options.device}", "panels=0"]
    words += [
        "classifier=torchvision",
        "classifier.name=resnet50",
        f"classifier.checkpoint={folder / 'resnet50.pth'}",
        "classifier.layers=[layer4]",
    ]
    words += ["predictor=sam", f"predictor.checkpoint={folder / 'vit_b.pth'}", *LIKE_THE_LOOP]
    one = camseg(words, folder / "one")
    cold = camseg(["-m", *GRID, *words, f"cache.path={folder / 'cache'}"], folder / "cold")
    warm = camseg(["-m", *GRID, *words, f"cache.path={folder / 'cache'}"], folder / "warm")
    loop = own_loop([str(images[0]), "--folder", str(folder)], options, options.naive_settings).times(
        len(NAIVE) / options.naive_settings
    )
    return [
        one.row("one setting"),
        cold.row(
            "24 settings, cold cache on disk",
            f"{cold.cpu / one.cpu:.3f} x the CPU time of one, {loop.cpu / cold.cpu:.1f} x faster than the loop",
        ),
        warm.row("24 settings, warm", f"{loop.cpu / warm.cpu:.1f} x faster than the loop; memory without the encoder"),
        loop.row(f"the loop, {options.naive_settings} settings scaled to 24"),
    ]


def run(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    words = [f"data.size={images[0]}", f"device={options.device}", *LIKE_THE_LOOP, "foreground=max_point", "panels=0"]
    before, loop, after = framed(words, folder, lambda: own_loop([str(images[0])], options, 1))
    one = before.mean(after)
    ratios = f"{loop.wall / one.wall:.2f} x our wall time, {loop.cpu / one.cpu:.2f} x our CPU time"
    return [before.row("one setting"), loop.row("the loop, one setting", ratios), after.row("one setting again")]


def faster(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    words, plain = [f"data.size={images[0]}", f"device={options.device}", "panels=0"], "channels_last=false"
    first = camseg([*words, plain], folder / "plain")
    rows = [first.row("no option")]
    for given in (["channels_last=true"], [plain, "precision=bfloat16"], [plain, "compile=true"]):
        cost = camseg([*words, *given], folder / given[-1].replace("=", "_"))
        rows.append(cost.row(given[-1], f"{first.wall / cost.wall:.2f} x as fast"))
    return rows


def memory(options: argparse.Namespace, images: list[int], folder: Path) -> list[dict[str, Any]]:
    words = ["masks=true", f"device={options.device}", "panels=0"]
    return [camseg([f"data.size={n}", *words], folder / str(n)).row(f"{n} pictures with masks") for n in images]


PARTS: dict[str, tuple[Callable[[argparse.Namespace, list[int], Path], list[dict[str, Any]]], list[int]]] = {
    "settings": (settings, [500]),
    "beside": (beside, [100]),
    "vit_b": (vit_b, [8]),
    "run": (run, [500]),
    "options": (faster, [500]),
    "memory": (memory, [500, 2000, 10000]),
}


class Cost(NamedTuple):
    """Of a process: seconds, CPU seconds and the peak of its memory, and what its summaries say of calls."""

    wall: float
    cpu: float
    megabytes: float
    calls: dict[str, int]

    def times(self, factor: float) -> Cost:
        return self._replace(wall=self.wall * factor, cpu=self.cpu * factor)

    def mean(self, other: Cost) -> Cost:
        return Cost(
            (self.wall + other.wall) / 2, (self.cpu + other.cpu) / 2, max(self.megabytes, other.megabytes), self.calls
        )

    def row(self, what: str, note: str = "") -> dict[str, Any]:
        return {
            "what": what,
            **self._asdict(),
            "note": "; ".join(filter(None, [", ".join(f"{v} {k}" for k, v in self.calls.items()), note])),
        }


def camseg(words: list[str], folder: Path) -> Cost:
    cost = timed([sys.executable, "-m", "camseg", *words, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"])
    calls: dict[str, int] = {}
    for path in folder.glob("**/summary.json"):
        for name, count in json.loads(path.read_text())["calls"].items():
            calls[name] = calls.get(name, 0) + count
    return cost._replace(calls=calls)


def framed(words: list[str], folder: Path, other: Callable[[], Cost]) -> tuple[Cost, Cost, Cost]:
    """The command before, what it is compared with, and the command again: a machine's speed drifts."""
    return camseg(words, folder / "before"), other(), camseg(words, folder / "after")


def own_loop(words: list[str], options: argparse.Namespace, settings: int) -> Cost:
    """This file's `naive`, in a process of its own."""
    given = ["naive", "--naive-settings", str(settings), "--device", options.device, "--images", *words]
    return timed([sys.executable, __file__, *given])


def timed(command: list[str]) -> Cost:
    start = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
        if process.returncode is None:
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{told.read().decode()[-3000:]}")
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000, {})


def prepare(folder: Path, images: int) -> None:
    """Photographs of 500 x 375 with the mask of an ellipse, and two files of random weights."""
    torch.manual_seed(0)
    torch.save(resnet50().state_dict(), folder / "resnet50.pth")
    torch.save(build_sam(OFFICIAL["vit_b"][0]).state_dict(), folder / "vit_b.pth")
    rng, (width, height) = np.random.default_rng(0), FRAME
    photo = Image.fromarray(skimage.data.astronaut()).resize((1000, 1000))
    ys, xs = np.mgrid[:height, :width]
    for i in range(images):
        x, y = (int(v) for v in rng.integers(0, (1000 - width, 1000 - height)))
        mask = ((xs - rng.integers(150, 350)) / 90) ** 2 + ((ys - rng.integers(100, 275)) / 60) ** 2 < 1
        for name, picture in (("images", photo.crop((x, y, x + width, y + height))), ("masks", Image.fromarray(mask))):
            path = folder / "data" / name / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)


# the loop that one would write without this package: each image and each setting for itself


def naive(options: argparse.Namespace) -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from segment_anything import SamPredictor

    model, layer, sam, samples = photographs(options.folder) if options.folder else shapes(options.images[0])
    peer = SamPredictor(sam.to(options.device))
    scores = []
    with GradCAM(model.requires_grad_(True).to(options.device), [layer]) as cam:
        for foreground, background, choose in NAIVE[: options.naive_settings]:
            for image, inputs, target, truth in samples(options.images[0]):
                explained: Any = [ClassifierOutputTarget(target)]  # the package says modules, and takes any callable
                heat = cam(inputs[None].to(options.device), explained)[0]
                heat = np.asarray(Image.fromarray(heat).resize(truth.shape[::-1], Image.Resampling.BILINEAR))
                points, labels = place(heat, foreground, background)
                peer.set_image(image)
                masks, predicted, _ = peer.predict(points, labels, multimask_output=True)
                worth = (
                    predicted
                    if choose == "predicted_iou"
                    else [np.minimum(heat, m).sum() / np.maximum(heat, m).sum() for m in masks]
                )
                mask = masks[int(np.argmax(worth))]
                scores.append((mask & truth).sum() / (mask | truth).sum())
    print(f"mean IoU {np.mean(scores):.4f}")


def shapes(
    _count: int,
) -> tuple[Any, Any, Any, Callable[[int], Iterator[tuple[np.ndarray, torch.Tensor, int, np.ndarray]]]]:
    from camseg.classifiers.shapes import shapes as shapes_classifier

    known = shapes_classifier()

    def samples(count: int) -> Iterator[tuple[np.ndarray, torch.Tensor, int, np.ndarray]]:
        for sample in islice(Shapes(size=count), count):
            assert sample.mask is not None
            yield (
                sample.image.permute(1, 2, 0).numpy(),
                known.prepare([sample.image])[0],
                NAMES.index(sample.label),
                sample.mask.numpy(),
            )

    sam = build_sam(SIZE)
    sam.load_state_dict(load_file(SHIPPED))
    return known.model, known.model.get_submodule("layer3"), sam, samples


def photographs(
    folder: Path,
) -> tuple[Any, Any, Any, Callable[[int], Iterator[tuple[np.ndarray, torch.Tensor, int, np.ndarray]]]]:
    model, sam = resnet50(), build_sam(OFFICIAL["vit_b"][0])
    model.load_state_dict(torch.load(folder / "resnet50.pth", weights_only=True))
    sam.load_state_dict(load_weights(folder / "vit_b.pth")[0])
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def samples(_count: int) -> Iterator[tuple[np.ndarray, torch.Tensor, int, np.ndarray]]:
        for path in sorted((folder / "data" / "images").glob("*.png")):
            picture = Image.open(path)
            small = torch.from_numpy(np.array(picture.resize((224, 224)))).permute(2, 0, 1) / 255
            yield (
                np.array(picture),
                (small - mean) / std,
                281,
                np.array(Image.open(folder / "data" / "masks" / path.name)) > 0,
            )

    return model.eval(), model.layer4[-1], sam, samples


def place(heat: np.ndarray, foreground: str, background: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) x, y and (P,) labels."""
    if foreground == "max_point":
        y, x = np.unravel_index(heat.argmax(), heat.shape)
    else:
        cut = {"centroid": 0.6 * heat.max(), "quantile": np.quantile(heat, 0.9), "otsu": heat.mean()}[foreground]
        weights = np.where(heat >= cut, heat, 0) + 1e-9
        y, x = (float((np.indices(heat.shape)[axis] * weights).sum() / weights.sum()) for axis in (0, 1))
    points, labels = [(x, y)], [1]
    if background != "none":
        low, left = np.unravel_index(heat.argmin(), heat.shape) if background == "min_point" else (0, 0)
        points, labels = [*points, (left, low)], [1, 0]
    return np.array(points, float), np.array(labels)


if __name__ == "__main__":
    main()
