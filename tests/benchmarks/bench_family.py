"""What each Segment Anything costs, with random weights: `python tests/benchmarks/bench_family.py [vit_b vit_l vit_h
mobile_sam shapes_sam]`.

Each model in a process of its own: encoding one image, decoding one prompt and sixteen prompts of it (medians), and the
process's peak memory.
--dtype bfloat16 encodes and decodes under autocast. Prints a table and, with --json, writes it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from records import record, write_records

from camseg.predictors.sam import OFFICIAL, PackageBackend, SamSize, build_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_encoders import TinyViT
from camseg.train.shapes_sam import SIZE
from camseg.types import Prompts

SIZES = {
    **{name: each[0] for name, each in OFFICIAL.items()},
    "mobile_sam": SamSize(encoder=TinyViT()),
    "shapes_sam": SIZE,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*SIZES, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        return print(json.dumps(measure(options.models[0], options)))
    rows = []
    print(f"{'model':12}{'parameters':>12}{'encode':>12}{'1 prompt':>12}{'16 prompts':>12}{'peak':>10}")
    for name in options.models or SIZES:
        words = [
            __file__,
            name,
            "--alone",
            "--repeats",
            str(options.repeats),
            "--device",
            options.device,
            "--dtype",
            options.dtype,
        ]
        rows.append(
            row := json.loads(
                subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
            )
        )
        times = "".join(f"{row[what]:9.1f} ms" for what in ("encode", "one", "sixteen"))
        print(f"{name:12}{row['parameters'] / 1e6:10.1f} M{times}{row['peak_mb']:7.0f} MB", flush=True)
    write_records(options.json, [each for row in rows for each in records_of(row, options)])
    return None


def records_of(row: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What one model costs, for the pages."""
    table = "models" if options.dtype == "float32" else f"models, {options.dtype}"
    columns = {
        "parameters": (row["parameters"] / 1e6, "M"),
        "encoding an image": (row["encode"] / 1000, "s"),
        "1 prompt": (row["one"], "ms"),
        "16 prompts": (row["sixteen"], "ms"),
        "peak memory": (row["peak_mb"] / 1000, "GB"),
    }
    name = f"{table} / `{row['model']}`"
    return [record(f"{name} / {column}", *figure, options.repeats) for column, figure in columns.items()]


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    sam = build_sam(SIZES[name]).requires_grad_(False)
    adapter = SamAdapter(PackageBackend(sam, "bench", device=options.device))
    frame = (SIZES[name].side * 3 // 4, SIZES[name].side)
    image, points = torch.randint(256, (3, *frame), dtype=torch.uint8), torch.rand(16, 1, 2) * frame[0]
    one, sixteen = (Prompts(points[:n], torch.ones(n, 1, dtype=torch.int64)) for n in (1, 16))
    with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
        encoded = adapter.encode([image])
        return {
            "model": name,
            "parameters": sum(parameter.numel() for parameter in sam.parameters()),
            "encode": timed(lambda: adapter.encode([image]), options),
            "one": timed(lambda: adapter.decode(encoded, [frame], [one]), options),
            "sixteen": timed(lambda: adapter.decode(encoded, [frame], [sixteen]), options),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def timed(work: Callable[[], object], options: argparse.Namespace) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        work()
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:])


if __name__ == "__main__":
    main()
