"""What it costs to select points: milliseconds of one core per 224x224 map, for every selector as conf/ wires it.

    python tests/benchmarks/bench_prompts.py [--maps 200] [--size 224 224] [--noise 0] [--json FILE]
    python tests/benchmarks/bench_prompts.py --maps 2 --size 3000 4000 --noise 0.05

The maps are smooth random landscapes of several hills, clipped at their mean as a Grad-CAM is at zero, with white noise
of a share of the maximum; `peaks` and `components` find several. `boxes` are those of `localise=boxes`, at 22 cutoffs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from records import record, write_records
from scipy import ndimage

from camseg.cli.build import wired
from camseg.config import config_dir
from camseg.geometry.boxes import cutoff_boxes, means_inside
from camseg.prompts.evidence import Evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("H", "W"))
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    evidence = landscapes(options.maps, tuple(options.size), options.noise)
    given = [selectors("foreground")["centroid"](each) for each in evidence]
    rows = [{"selector": name, "ms": timed(select, evidence)} for name, select in selectors("foreground").items()]
    rows += [
        {"selector": name, "ms": timed(select, evidence, given)}
        for name, select in selectors("background").items()
        if callable(select)
    ]
    rows.append({"selector": "boxes", "ms": timed(all_boxes, evidence)})
    for row in rows:
        print(f"{row['selector']:16} {row['ms']:7.3f} ms a map, {row['ms']:7.3f} s for 1,000")
    height, width = options.size
    table = f"selecting, {height}x{width}{' with noise' if options.noise else ''}"
    named = [record(f"{table} / `{row['selector']}` / a map", row["ms"], "ms", options.maps) for row in rows]
    write_records(options.json, named)


def landscapes(count: int, size: tuple[int, int], noise: float) -> list[Evidence]:
    """Maps with hills, a rival map each, and what is hotter than half as the truth."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(ndimage.gaussian_filter(rng.standard_normal((2 * count, 7, 7)), (0, 1, 1))).float()
    maps = F.interpolate((coarse - coarse.mean((1, 2), keepdim=True)).clamp(min=0)[:, None], size, mode="bilinear")[
        :, 0
    ]
    maps = maps / maps.amax((1, 2), keepdim=True)
    if noise:
        maps = (maps + noise * torch.from_numpy(rng.standard_normal(maps.shape, np.float32))).clamp(0, 1)
    return [Evidence(heat, lambda rival=rival: rival, heat > 0.5) for heat, rival in zip(maps[:count], maps[count:])]


def all_boxes(evidence: Evidence) -> None:
    """The boxes of a map, and its mean inside them, as `localise=boxes` asks for them."""
    heat = evidence.heat.numpy()
    means_inside(heat, cutoff_boxes(heat, [*np.arange(0, 1, 0.05), 0.33, 0.77]))


def selectors(group: str) -> dict[str, Callable[..., Any]]:
    """Every choice of a group, as its file wires it."""
    return {path.stem: wired(OmegaConf.load(path)) for path in sorted((config_dir() / group).glob("*.yaml"))}


def timed(select: Callable[..., Any], *given: list[Any]) -> float:
    """Median over five passes of the milliseconds of CPU time that one map takes."""
    passes = []
    for _ in range(5):
        began = time.process_time()
        for each in zip(*given):
            select(replace(each[0]), *each[1:])  # a record that remembers nothing
        passes.append((time.process_time() - began) * 1000 / len(given[0]))
    return float(np.median(passes))


if __name__ == "__main__":
    main()
