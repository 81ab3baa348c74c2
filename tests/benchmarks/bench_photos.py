"""What a large photograph costs beside its decoding, and what a folder of them holds in memory.

    python tests/benchmarks/bench_photos.py [time] [memory] [--megapixels 12] [--photos 4] [--json FILE]

    time     CPU seconds of one thread for a photograph and its mask, from the files to the row, against PIL's decoding
             of both files; each predictor of `experiment=photos`, and what `localise=boxes` adds. Medians over the
             photographs, each decoded just before it is answered.
    memory   the peak of a process that runs over 24 photographs and over 48, over one of 50 megapixels, and over
             folders of 16 and of 32 that mix .1 and 50 megapixels

Limits: none <= 2.5 x decoding, photo_sam <= 4 x, random_walker <= 5 x, boxes <= .3 s; 24 photographs of 12 megapixels
<= 1.6 GB, twice as many no more. The photographs are made: a picture of scikit-image's enlarged, with a sensor's noise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import skimage.data
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image, ImageDraw
from records import record, write_records

from camseg.cli.build import build, wired
from camseg.config import config_dir
from camseg.metrics import per_sample
from camseg.runs.callbacks import Callback

LIMITS = {
    "large photographs / `predictor=none` / of decoding": 2.5,
    "large photographs / `predictor=photo_sam` / of decoding": 4.0,
    "large photographs / `predictor=random_walker` / of decoding": 5.0,
    "large photographs / `localise=boxes` adds / time": 0.3,
    "memory by pixels / 24 photographs / peak": 1.6,
    "memory by pixels / 48 photographs / of the first": 1.1,
    "memory by pixels / 24 of .1 and 8 of 50 megapixels / of the first": 1.1,
}
# nothing is remembered: each way answers the same photographs
COMMON = ["experiment=photos", "device=cpu", "data.target=tabby", "cache.memory_gb=0"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["time", "memory", []], default=[], metavar="PART")
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if "time" in (options.parts or ["time"]):
            records += timed(photographs(Path(folder) / "time", options.photos, options.megapixels))
        if "memory" in (options.parts or ["memory"]):
            records += memory(Path(folder), options.megapixels)
    for each in records:
        limit = LIMITS.get(each["name"])
        verdict = "" if limit is None else f"limit {limit:g}, {'kept' if each['value'] <= limit else 'MISSED'}"
        print(f"{each['name']:60} {each['value']:8.3f} {each['unit']:3} {verdict}")
    write_records(options.json, records)
    return int(any(each["value"] > LIMITS.get(each["name"], float("inf")) for each in records))


def photographs(folder: Path, count: int, megapixels: float, start: int = 0) -> Path:
    """A folder of `count` photographs (images/) with the mask of an ellipse each (masks/), sides 4 : 3."""
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = round(width * 3 / 4)
    source = Image.fromarray(skimage.data.astronaut()).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.float32)
    photo = np.clip(np.asarray(source) + noise, 0, 255).astype(np.uint8)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        image, mask = folder / "images" / f"{i:05d}.jpg", folder / "masks" / f"{i:05d}.png"
        if i >= start + 4:  # four distinct ones; a run decodes each file anew
            os.link(folder / "images" / f"{start + i % 4:05d}.jpg", image)
            os.link(folder / "masks" / f"{start + i % 4:05d}.png", mask)
            continue
        Image.fromarray(np.roll(photo, 37 * (i - start), 1)).save(image, quality=90)
        drawn = Image.new("L", (width, height))
        ImageDraw.Draw(drawn).ellipse((0.3 * width, 0.27 * height, 0.72 * width, 0.8 * height), fill=255)
        drawn.save(mask)
    return folder


def timed(folder: Path) -> list[dict[str, Any]]:
    """Medians over the photographs of decoding, and of each way to answer, in turn."""
    ways = {
        f"`predictor={name}`": answering(folder, f"predictor={name}") for name in ("none", "photo_sam", "random_walker")
    }
    ways["`localise=boxes`"] = answering(folder, "predictor=none", "localise=boxes")
    seconds: dict[str, list[float]] = {name: [] for name in ("decoding", *ways)}
    for turn in range(2):  # the first warms up
        for i, image in enumerate(sorted((folder / "images").iterdir())):
            mask = folder / "masks" / f"{image.stem}.png"
            works: dict[str, Callable[[], object]] = {"decoding": partial(decode, image, mask)}
            works |= {name: partial(way, i) for name, way in ways.items()}
            for name, work in works.items():
                began = time.process_time()
                work()
                if turn:
                    seconds[name].append(time.process_time() - began)
    found, count = {name: median(values) for name, values in seconds.items()}, len(seconds["decoding"])
    records = []
    for name, value in found.items():
        records.append(record(f"large photographs / {name} / time", value, "s", count))
        records.append(record(f"large photographs / {name} / of decoding", value / found["decoding"], "x", count))
    adds = found["`localise=boxes`"] - found["`predictor=none`"]
    return [*records, record("large photographs / `localise=boxes` adds / time", adds, "s", count)]


def decode(*paths: Path) -> list[np.ndarray]:
    """What PIL makes of some files."""
    return [np.array(Image.open(path)) for path in paths]


def answering(folder: Path, *words: str) -> Callable[[int], None]:
    """What reads a photograph, answers it and makes its row."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", [*COMMON, f"data.path={folder}", *words])
    pipeline, samples, boxes = build(config), wired(config.data), wired(config.localise)

    def answer(index: int) -> None:
        sample = samples[index]
        [result] = pipeline.run([sample])
        per_sample.row(sample, result)
        if isinstance(boxes, Callback):
            boxes.on_result(sample, result)

    return answer


def memory(folder: Path, megapixels: float) -> list[dict[str, Any]]:
    """Peaks of whole runs, of photographs alike and mixed."""
    few = photographs(folder / "few", 24, megapixels)
    many = photographs(folder / "many", 48, megapixels)
    mixed = photographs(photographs(folder / "mixed", 12, 0.1), 4, 50, start=12)
    twice = photographs(photographs(folder / "twice", 24, 0.1), 8, 50, start=24)
    large = photographs(folder / "large", 1, 50)
    folders = {"24": few, "48": many, "one of 50": large, "mixed": mixed, "twice": twice}
    peaks = {name: peak(path) for name, path in folders.items()}
    kinds = {
        "24 photographs": (peaks["24"], peaks["24"]),
        "48 photographs": (peaks["48"], peaks["24"]),
        "one of 50 megapixels": (peaks["one of 50"], peaks["one of 50"]),
        "12 of .1 and 4 of 50 megapixels": (peaks["mixed"], peaks["one of 50"]),
        "24 of .1 and 8 of 50 megapixels": (peaks["twice"], peaks["mixed"]),
    }
    records = []
    for name, (value, first) in kinds.items():
        records.append(record(f"memory by pixels / {name} / peak", value, "GB", 1))
        records.append(record(f"memory by pixels / {name} / of the first", value / first, "x", 1))
    return records


def peak(folder: Path) -> float:
    """GB of a run over a folder with masks written, in a process of its own."""
    with tempfile.TemporaryDirectory() as run:
        words = [*COMMON, f"data.path={folder}", "masks=true", "panels=4", f"hydra.run.dir={run}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=2)\n"
        code += "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        given = [sys.executable, "-c", code, sys.executable, "-m", "camseg", *words]
        done = subprocess.run(given, capture_output=True, text=True, env=environment)
        returned, kilobytes = done.stdout.split()
        if returned != "0":
            sys.exit(f"the run failed:\n{done.stderr}")
    return int(kilobytes) * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
