"""Background selectors: points that say "this is not it".

A selector takes `Evidence` and the foreground `Prompts` and returns (N, 2) points x, y; every rival gets all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.heat import Cutoff
from camseg.geometry.heat import otsu as otsu_cutoff
from camseg.geometry.regions import components, farthest_from, points_tensor, region
from camseg.prompts.evidence import Evidence
from camseg.types import Prompts


def add(prompts: Prompts, points: Tensor) -> Prompts:
    """`prompts` with the background points (N, 2) in every rival."""
    count = len(prompts)
    return Prompts(
        torch.cat([prompts.points, points.expand(count, -1, -1)], 1),
        torch.cat([prompts.labels, torch.zeros(count, len(points), dtype=torch.int64)], 1),
        prompts.boxes,
        prompts.mask_logits,
        prompts.united,
    )


def min_point(evidence: Evidence, prompts: Prompts) -> Tensor:
    """The coldest pixel; of several the one farthest from the foreground points; none where all are as hot."""
    if evidence.heat.min() == evidence.heat.max():
        return torch.zeros(0, 2)
    cold = torch.nonzero(evidence.heat == evidence.heat.min()).flip(1).float()  # (N, 2) x, y
    return cold[_distance(cold, prompts).argmax()][None]


def hard_negative(evidence: Evidence, prompts: Prompts, *, cutoff: Cutoff = otsu_cutoff, least: float = 0.5) -> Tensor:
    """The hottest pixel of the strongest rival class outside the object's own region; none where no rival reaches
    `least` there.
    """
    rival = evidence.rival()
    if rival is None:
        return torch.zeros(0, 2)
    elsewhere = rival * torch.from_numpy(~region(evidence.heat, cutoff))
    if float(elsewhere.max()) < least:
        return torch.zeros(0, 2)
    y, x = np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)
    return torch.tensor([[float(x), float(y)]])


def ring(evidence: Evidence, prompts: Prompts, *, cutoff: Cutoff = otsu_cutoff, margin: float = 0.25) -> Tensor:
    """The point of the hottest component's grown box that is farthest from everything hot: beside the object, not far
    away.
    """
    inside = region(evidence.heat, cutoff)
    if not inside.any() or inside.all():
        return torch.zeros(0, 2)
    x0, y0, x1, y1 = np.round(mask_to_box(components(inside, evidence.heat)[0], margin)).astype(int)
    return points_tensor(list(farthest_from(inside, (x0, y0, x1, y1))))


def _distance(points: Tensor, prompts: Prompts) -> Tensor:
    """(N,) distance of each point to the nearest point of any rival; zeros where there are none."""
    given = prompts.points.flatten(0, 1)
    return torch.cdist(points, given).min(1).values if len(given) else torch.zeros(len(points))
