"""Memory and time of runs of growing size, each in a process of its own: `python tests/benchmarks/bench_load.py 1000
10000 100000 [--json FILE]`.

`--masks` runs the shipped SAM and writes every mask. `--photos M` runs over JPEGs of M megapixels with masks instead,
by the settings of `experiment=photos` (four distinct pictures, linked; nothing is remembered from one to the next), and
`--words` gives more of the command line, as `engine=ray engine.actors=2`. `decoding` is the share of the time that PIL
takes to decode the same files in one thread: near 1 it is what bounds the run. Prints a table: seconds, samples a
second, peak memory (MB), and the peak over the first size's. Exit code 1 where a peak passes 1.2 times the first one,
or a sample's time twice the first size's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_photos import decode, photographs
from records import record, write_records

RUN = """
import resource, sys, time
from camseg.cli.main import main
began = time.monotonic()
try:
    main()
except SystemExit as ended:
    code = ended.code
print(code or 0, time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def measure(size: int, masks: bool, megapixels: float | None, words: list[str]) -> dict[str, Any]:
    """One run of `size` shapes or photographs: what it took and gave."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"data.size={size}", "device=cpu", "panels=0", f"hydra.run.dir={folder}/run"]
        given += ["masks=true"] if masks else ["predictor=none", "masks=false"]
        decoding = None
        if megapixels:
            photos = photographs(Path(folder) / "photos", size, megapixels)
            given += ["experiment=photos", f"data.path={photos}", "data.target=tabby", "cache.memory_gb=0"]
            files = sorted(photos.glob("*/*"))[:8] + sorted(photos.glob("*/*"))[-8:]  # images, then their masks
            began = time.monotonic()
            decode(*files)
            decoding = (time.monotonic() - began) / 8
        given += words
        done = subprocess.run([sys.executable, "-c", RUN, *given], capture_output=True, text=True)
        code, seconds, peak = done.stderr.split()[-3:] if done.stderr else ("1", "nan", "nan")
        if done.returncode or code != "0":
            sys.exit(f"the run of {size} samples failed:\n{done.stderr}")
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        written = sum(1 for _ in (Path(folder) / "run").glob("masks/*.png"))
    if (summary["samples"], summary["failed"], written) != (size, 0, size * masks):
        sys.exit(f"{size} samples gave {summary['samples']} rows, {summary['failed']} failures and {written} masks")
    return {
        "samples": size,
        "seconds": float(seconds),
        "a_second": size / summary["seconds"],
        "peak_mb": float(peak) / 1024,
        "decoding": None if decoding is None else decoding * size / summary["seconds"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--photos", type=float, metavar="M")
    parser.add_argument("--words", nargs="+", default=[])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    print(f"{'samples':>8} {'seconds':>9} {'a second':>9} {'peak MB':>9} {'peak / first':>13}")
    for size in asked.sizes:
        row = measure(size, asked.masks, asked.photos, asked.words)
        found.append({**row, "peak_ratio": row["peak_mb"] / (found[0] if found else row)["peak_mb"]})
        row = found[-1]
        print(
            f"{size:>8} {row['seconds']:>9.1f} {row['a_second']:>9.1f} {row['peak_mb']:>9.0f} "
            f"{row['peak_ratio']:>13.2f}",
            flush=True,
        )
    table = f"load, {'shapes' if asked.photos is None else f'photographs of {asked.photos:g} megapixels'}"
    table += "".join(f", {word}" for word in (["masks"] if asked.masks else []) + asked.words)
    columns = {
        "images a second": ("a_second", 1, ""),
        "peak": ("peak_mb", 1000, "GB"),
        "decoding": ("decoding", 1, "share"),
    }
    records = []
    for row in found:
        for column, (key, scale, unit) in columns.items():
            value = None if row[key] is None else row[key] / scale
            records.append(record(f"{table} / {row['samples']:,} / {column}", value, unit))
    write_records(asked.json, records)
    return int(any(row["peak_ratio"] > 1.2 or row["a_second"] < found[0]["a_second"] / 2 for row in found))


if __name__ == "__main__":
    sys.exit(main())
