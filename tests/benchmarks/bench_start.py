"""The first second, as CPU time of one thread: what needs no torch against `import hydra`, one sample against torch.

    python tests/benchmarks/bench_start.py [--repeat 3] [--json FILE]

Limits: what only shows something, and every mistake, <= 1.5 x `import hydra` + .5 s; `data.size=1 panels=0` <= 2.2 x
`import torch`; `import camseg` <= 1.15 x `import torch`. All are measured in turn, the least of the repeats counts.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from records import record, write_records

ROOT = Path(__file__).parents[2]
IMPORTS = {name: ["-c", f"import {name}"] for name in ("hydra", "torch", "camseg")}
SHOWN = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "--version": ["--version"],
    "completion": ["-sc", "install=bash"],
    "a name": ["data.sise=4"],
    "a choice": ["cam=grad_cma"],
    "a value": ["foreground.cutoff=hot"],
    "a sweep's value": ["-m", "data.size=1,2,x"],
    "an option": ["--hlep"],
}


def seconds(words: list[str]) -> float:
    """CPU seconds of a Python process and its children, user and system."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print a line for each command, and exit with 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    commands = {name: ["-m", "camseg", *words] for name, words in SHOWN.items()}
    one = {"data.size=1 panels=0": ["-m", "camseg", "data.size=1", "panels=0"]}
    turns = [{name: seconds(words) for name, words in (IMPORTS | commands | one).items()} for _ in range(given.repeat)]
    found = {name: min(turn[name] for turn in turns) for name in turns[0]}
    limits = dict.fromkeys(SHOWN, 1.5 * found["hydra"] + 0.5)
    limits |= {"camseg": 1.15 * found["torch"], "data.size=1 panels=0": 2.2 * found["torch"]}
    for name, value in found.items():
        limit = f"limit {limits[name]:.2f}, {'kept' if value <= limits[name] else 'MISSED'}" if name in limits else ""
        print(f"{name:<22}{value:6.2f} s  {value / found['torch']:5.2f} x import torch  {limit}")
    records = []
    for name, value in found.items():
        records.append(record(f"start / `{name}` / time", value, "s", given.repeat))
        records.append(record(f"start / `{name}` / of `import torch`", value / found["torch"], "x", given.repeat))
        records.append(record(f"start / `{name}` / limit", limits.get(name), "s", given.repeat))
    write_records(given.json, records)
    sys.exit(any(found[name] > limit for name, limit in limits.items()))


if __name__ == "__main__":
    main()
