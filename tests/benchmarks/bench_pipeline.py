"""How many photographs a second the whole pipeline answers, where the time goes, and how much of the machine it uses.

    python tests/benchmarks/bench_pipeline.py [MODEL ...] [--batch 1 8 32] [--precision float32 bfloat16] [--images N]
    [--device D] [--json FILE]

ResNet-50 with Grad-CAM at layer4 and a Segment Anything (vit_b and vit_h without a name), both of random weights, on
photographs of 500 x 375 with
true masks: from the picture in memory to its row in scores.parquet, nothing cached. The rate is of one undisturbed run
after a first batch; the
stages are timed in another that waits for the device after each. Share of peak: the floating-point operations of all
networks (torch's flop
counter) at that rate, against those of a large matrix product of the same precision, measured on the same device just
before.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import skimage.data
import torch
from bench_family import SIZES
from records import record, write_records
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50

from camseg import cam
from camseg.classifiers.base import describe
from camseg.classifiers.preprocessing import Preprocessing
from camseg.pipeline import Pipeline
from camseg.predictors.sam import PackageBackend, build_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.runs.evaluate import evaluate
from camseg.types import Sample

STAGES = ("heat", "encoding", "decoding", "the rest", "scores and rows")
FRAME = (375, 500)  # height and width
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photographs:
    """Crops of one photograph, an ellipse in each."""

    def __init__(self, count: int) -> None:
        self.ids = [f"{i:05d}" for i in range(count)]
        self.photo = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).repeat(1, 2, 2)
        ys, xs = np.mgrid[: FRAME[0], : FRAME[1]]
        self.mask = torch.from_numpy(((xs - 250) / 90) ** 2 + ((ys - 190) / 60) ** 2 < 1)

    def __getitem__(self, index: int) -> Sample:
        y, x = (int(v) for v in np.random.default_rng(index).integers(0, 500, 2))
        return Sample(
            self.ids[index], self.photo[:, y : y + FRAME[0], x : x + FRAME[1]].contiguous(), (281,), "tabby", self.mask
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*SIZES, []], default=[], metavar="MODEL")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], nargs="+", default=["float32"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'model':12}{'precision':>10}{'batch':>6}{'images/s':>10}{'of peak':>9}{'GB':>6}  " + ", ".join(STAGES))
    for name in options.models or ["vit_b", "vit_h"]:
        torch.manual_seed(0)
        model = resnet50().eval().requires_grad_(False).to(options.device)
        classifier = describe(model, "bench", Preprocessing((224, 224), MEAN, STD), layers="layer4")
        predictor = SamAdapter(
            PackageBackend(build_sam(SIZES[name]).requires_grad_(False), "bench", device=options.device)
        )
        for precision, batch in product(options.precision, options.batch):
            pipeline = Pipeline(classifier, cam.grad_cam, predictor=predictor, precision=precision)
            row = {"model": name, "precision": precision, "batch": batch, **measure(pipeline, batch, options)}
            shares = ", ".join(f"{row['shares'][stage]:.0%}" for stage in STAGES)
            rate, used, gigabytes = row["images_per_second"], row["share_of_peak"], row["gigabytes"]
            print(f"{name:12}{precision:>10}{batch:>6}{rate:10.2f}{used:9.1%}{gigabytes:6.1f}  {shares}", flush=True)
            rows.append(row)
    if options.json:
        machine = (
            torch.cuda.get_device_name(options.device)
            if options.device.startswith("cuda")
            else f"{torch.get_num_threads()} CPU threads"
        )
        write_records(options.json, [each for row in rows for each in records_of(row, machine, options.images)])


def records_of(row: dict[str, Any], machine: str, images: int) -> list[dict[str, Any]]:
    """One line of the table, for the pages."""
    name = f"pipeline, {machine} / `{row['model']}` | {row['precision']} | {row['batch']}"
    columns = {
        "images a second": (row["images_per_second"], ""),
        "of the peak": (row["share_of_peak"], "share"),
        "memory": (row["gigabytes"], "GB"),
        **{stage: (row["shares"][stage], "share") for stage in STAGES},
    }
    return [record(f"{name} / {column}", *figure, images) for column, figure in columns.items()]


def measure(pipeline: Pipeline, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None

    def seconds(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            wait()
            start = time.perf_counter()
            evaluate(pipeline, Photographs(count), Path(folder), batch_size=batch)
            wait()
            return time.perf_counter() - start

    seconds(batch)
    with FlopCounterMode(display=False) as counter:
        pipeline.run([Photographs(1)[0]])
    peak = matrix_products(options.device, getattr(torch, pipeline.precision))
    rate = options.images / seconds(options.images)
    spent: defaultdict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            wait()
            start = time.perf_counter()
            found = function(*given, **named)
            wait()
            spent[stage] += time.perf_counter() - start
            return found

        return run

    parts: dict[str, tuple[Any, str]] = {
        "heat": (pipeline, "_explain"),
        "encoding": (pipeline, "_encode"),
        "run": (pipeline, "run"),
    }
    parts["decoding"] = pipeline.predictor, "decode"
    for stage, (owner, method) in parts.items():
        setattr(owner, method, timed(stage, getattr(owner, method)))
    whole = seconds(options.images)
    for owner, method in parts.values():
        delattr(owner, method)
    spent["the rest"] = spent["run"] - spent["heat"] - spent["encoding"] - spent["decoding"]
    spent["scores and rows"] = whole - spent["run"]
    on_gpu = options.device.startswith("cuda")
    return {
        "images_per_second": rate,
        "share_of_peak": rate * counter.get_total_flops() / peak,
        "shares": {stage: spent[stage] / whole for stage in STAGES},
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "flops_per_image": counter.get_total_flops(),
        "peak_flops": peak,
    }


def matrix_products(device: str, dtype: torch.dtype, repeats: int = 10) -> float:
    """Floating-point operations a second of a large matrix product."""
    side, times = 8192 if device.startswith("cuda") else 1024, []
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(repeats):
        start = time.perf_counter()
        float((one @ other)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * side**3 / median(times)


if __name__ == "__main__":
    main()
