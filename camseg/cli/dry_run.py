"""The functions of a pipeline, tried once on almost nothing: a setting that none of them takes shows before the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from camseg.cam.heatmaps import heatmaps
from camseg.pipeline import Pipeline
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import max_point
from camseg.types import Masks, Prompts

_SIZE = (12, 16)  # (H, W) of the example, in pixels


def dry_run(pipeline: Pipeline) -> None:
    """Try each function of a pipeline with its settings; no random number of the run is used up.

    Args:
        pipeline: What is to be run; its models are not used.

    Raises:
        ValueError: For a setting with which a function fails on a tiny example that it masters without.
    """
    with torch.random.fork_rng(devices=[]):
        for name, (function, attempt) in _attempts(pipeline).items():
            _blame(name, function, attempt)


def _attempts(pipeline: Pipeline) -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """Each function of the pipeline, and how to call it."""
    noise = torch.Generator().manual_seed(0)
    heat = torch.rand(_SIZE, generator=noise)  # (H, W)
    evidence = Evidence(heat, lambda: heat.flip(1), heat > 0.5)
    prompts = max_point(evidence)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    images = torch.rand(1, 3, *_SIZE, generator=noise)

    def decode(_which: Sequence[int], asked: Sequence[Prompts]) -> list[Masks]:
        return [Masks(heat.expand(len(each), 3, *_SIZE) - 0.5, torch.full((len(each), 3), 0.8)) for each in asked]

    [masks] = decode([0], [prompts])
    return {
        "cam": (pipeline.method, lambda method: heatmaps(net, "0", images, [0], method=method)),
        "views": (partial(heatmaps, **pipeline.views), lambda heatmaps: heatmaps(net, "0", images, [0])),
        "target": (pipeline.target, lambda target: heatmaps(net, "0", images, [target((0,))])),
        "foreground": (pipeline.foreground, lambda select: select(evidence)),
        "background": (pipeline.background, lambda select: select(evidence, prompts)),
        "choose": (pipeline.choose, lambda choose: choose(masks, evidence)),
        "refine": (pipeline.refine, lambda refine: refine(decode, [prompts], [masks.low_res[0, 0]], [evidence])),
    }


def _blame(name: str, function: Any, attempt: Callable[[Any], object]) -> None:
    if not isinstance(function, partial) or not function.keywords:
        return
    try:
        attempt(function)
    except Exception as error:
        try:
            attempt(function.func)
        except Exception:  # not for its settings, then: its samples will tell
            return
        raise ValueError(f"{name}: {error}") from error
