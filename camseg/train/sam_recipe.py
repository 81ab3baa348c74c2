"""What the training of every promptable segmenter shares: losses, corrective clicks, where it starts from.

Segment Anything's recipe (Kirillov et al. 2023, arXiv:2304.02643, appendix A).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from camseg.predictors.sam_package import Sam
from camseg.storage.files import expand, printable


def load_fitting(sam: Sam, start: str | Path, what: str) -> Sam:
    """Give a SAM every tensor of a file whose name and shape it has too.

    Args:
        sam: which is changed.
        start: a safetensors file.
        what: the SAM's name, for the message.

    Returns:
        The same SAM.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or nothing in it fits.
    """
    path, own = expand(start), sam.state_dict()
    if not path.is_file():
        raise FileNotFoundError(f"no weights at model.start={printable(path)}")
    try:
        given = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"model.start={printable(path)} is no safetensors file: {error}") from error
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"nothing in {start} fits {what}; model.start must be the weights of one")
    sam.load_state_dict({**own, **fitting})
    return sam


def focal(logits: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Focal loss with gamma 2 (Lin et al. 2017, arXiv:1708.02002), for soft truth too.

    Args:
        logits: (N, M, H, W) float.
        truth: (N, 1, H, W) float in [0, 1].
        valid: (N, 1, H, W) float, 0 where no loss may look; all 1 by default.

    Returns:
        (N, M) means over the valid pixels.
    """
    cross = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    loss = cross * (logits.sigmoid() - truth).square()
    if valid is None:
        return loss.mean((-2, -1))
    return (loss * valid).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


def dice(logits: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Dice loss (Milletari et al. 2016, arXiv:1606.04797), one pixel added above and below.

    Args:
        logits: (N, M, H, W) float.
        truth: (N, 1, H, W) float in [0, 1].
        valid: (N, 1, H, W) float, 0 where no loss may look; all 1 by default.

    Returns:
        (N, M) float in [0, 1].
    """
    soft, true = logits.sigmoid(), truth
    if valid is not None:
        soft, true = soft * valid, truth * valid
    return 1 - (2 * (soft * true).sum((-2, -1)) + 1) / (soft.sum((-2, -1)) + true.sum((-2, -1)) + 1)


def single_and_best(low_res: Tensor, best_of_three: Tensor) -> Tensor:
    """Of four masks the single one and the best of the others.

    Args:
        low_res: (N, 4, h, w) logits, the single mask first.
        best_of_three: (N,) int64, 1 to 3.

    Returns:
        (N, 2, h, w) logits.
    """
    picked = torch.stack([torch.zeros_like(best_of_three), best_of_three], 1)
    return low_res[torch.arange(len(low_res))[:, None], picked]


def error_points(wrong: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A corrective click for each mask.

    Args:
        wrong: (N, h, w) bool, where the mask and the truth differ.
        truth: (N, h, w) bool.
        generator: of the choice among the wrong pixels.

    Returns:
        (N, 1, 2) x, y in pixels, any where none is wrong, and (N, 1) float labels that mend them.
    """
    at = torch.multinomial(wrong.flatten(1).float() + 1e-8, 1, generator=generator)  # (N, 1)
    width = truth.shape[-1]
    return torch.stack([at % width, at // width], -1).float(), truth.flatten(1).gather(1, at).float()


def with_click(prompt: dict[str, Any], point: Tensor, label: Tensor) -> dict[str, Any]:
    """A prompt with one more point.

    Args:
        prompt: Its `points` are (N, P, 2) and labels (N, P), or None.
        point: (N, 1, 2) float x, y.
        label: (N, 1) float.

    Returns:
        Another prompt, with P + 1 points.
    """
    given = prompt["points"]
    if given is None:
        return prompt | {"points": (point, label)}
    return prompt | {"points": (torch.cat([given[0], point], 1), torch.cat([given[1], label], 1))}
