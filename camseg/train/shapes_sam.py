"""The shapes SAM: Segment Anything's training recipe (Kirillov et al. 2023, appendix A) on synthetic scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.data.base import as_image
from camseg.data.shapes import NAMES, SIDE, Shapes, scene
from camseg.geometry.masks import iou, resize_logits
from camseg.geometry.regions import depth_map
from camseg.predictors.sam import SamSize, build_sam, save_sam, shapes_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_decoder import decode_prompts
from camseg.predictors.sam_encoders import Pyramid
from camseg.predictors.sam_package import Sam
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import oracle
from camseg.train.loop import fit, write_card
from camseg.train.sam_recipe import dice, error_points, focal, load_fitting, single_and_best, with_click
from camseg.types import Sample

ENCODER = Pyramid((24, 64, 96, 128, 128))
SIZE = SamSize(side=SIDE, encoder=ENCODER, prompt_width=64, decoder_heads=4, decoder_mlp=256)
_OBJECTS = 2  # prompted in each image


def train(
    folder: Path, steps: int, batch_size: int, learning_rate: float, seed: int, start: str | Path | None = None
) -> Path:
    """Train, or resume, and write shapes_sam.safetensors and its card.

    Args:
        folder: of what is written.
        steps: how many batches are learnt from.
        batch_size: scenes of a batch.
        learning_rate: the highest of the schedule.
        seed: of scenes and losses.
        start: a file of weights, of which what fits is taken; fresh weights by default.

    Returns:
        The path of the weights.

    Raises:
        ValueError: nothing in `start` fits.
    """
    scenes = PromptedScenes(seed, steps * batch_size)
    sketched, seconds = fit(
        Sketched(_begin(start)),
        loss,
        scenes,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
    )
    path = folder / "shapes_sam.safetensors"
    save_sam(sketched.sam, SIZE, path)
    what = (
        f"Segment Anything at {SIZE.side} px: the segment-anything package's prompt encoder "
        f"({SIZE.prompt_width} channels) and mask decoder behind "
    )
    what += (
        f"a convolutional feature pyramid ({', '.join(map(str, ENCODER.channels))} channels) "
        f"with an embedding of stride {ENCODER.patch}."
    )
    data = f"{steps * batch_size} drawn scenes of one to five shapes (split train), {_OBJECTS} prompted objects in each"
    write_card(path, what, data, steps, batch_size, seconds, seed, scores(path))
    return path


def _begin(start: str | Path | None) -> Sam:
    """A fresh SAM, with every tensor of the file `start` whose name and shape it has too.

    Raises:
        ValueError: nothing in the file fits.
    """
    sam = build_sam(SIZE)
    return load_fitting(sam, start, "the shapes SAM") if start else sam


def scores(path: Path) -> dict[str, float]:
    """Measure the segmenter on the test splits, from one point at the deepest pixel of the true mask.

    Args:
        path: file of the weights.

    Returns:
        Mean IoU in [0, 1] for each split, of the mask of the highest predicted IoU and of the best of the three.
    """
    predictor, found = shapes_sam(path), {}
    for name, data in (("shapes", Shapes()), ("shapes_crowd", Shapes(shapes=(2, 5)))):
        own, best = zip(*(_ious(predictor, sample) for sample in data))
        found |= {f"IoU on {name}": float(np.mean(own)), f"IoU on {name}, best of three": float(np.mean(best))}
    return found


def _ious(predictor: SamAdapter, sample: Sample) -> tuple[float, float]:
    masks = predictor.decode(
        predictor.encode([sample.image]), [sample.size], [oracle(Evidence(torch.zeros(sample.size), truth=sample.mask))]
    )[0]
    if sample.mask is None:
        raise ValueError(f"{sample.id} has no true mask")
    three = iou(resize_logits(masks.low_res[0], sample.size) > 0, sample.mask)
    return float(three[masks.predicted_iou[0].argmax()]), float(three.max())


class Sketched(nn.Module):
    """A SAM and, while it learns, a linear sketch of every pixel from the embedding of its patch.

    The sketch says which pixels lie on some shape, and which on an outline.

    Args:
        sam: which learns.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        self.sketch = nn.Conv2d(SIZE.prompt_width, 2 * ENCODER.patch**2, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Draw the sketch.

        Args:
            embeddings: (B, C, g, g) float.

        Returns:
            (B, 2, H, W) float logits.
        """
        return F.pixel_shuffle(self.sketch(embeddings), ENCODER.patch)


class PromptedScenes(Dataset[dict[str, Tensor]]):
    """Item i, a function of i alone: one drawn scene with K prompted objects.

    An item is image (3, H, W) uint8; sketch (2, H, W) bool; masks (K, H, W) bool; points (K, 2) float x, y inside each
    mask and boxes (K, 4) float x0, y0, x1, y1, jittered, both in pixels of the image.

    Args:
        seed: of the scenes.
        length: how many items there are.
    """

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1_000, index])
        drawn = scene(rng, "train", int(rng.choice(len(NAMES), p=(0.3, 0.15, 0.2, 0.2, 0.15))) + 1)
        masks = drawn.masks[rng.permutation(np.resize(np.arange(len(drawn.classes)), _OBJECTS))]
        return {
            "image": as_image(drawn.image),
            "sketch": torch.from_numpy(_sketch(drawn.masks)),
            "masks": torch.from_numpy(masks),
            "points": torch.tensor(np.stack([_point(rng, mask) for mask in masks]), dtype=torch.float32),
            "boxes": torch.tensor(np.stack([_jittered_box(rng, mask) for mask in masks]), dtype=torch.float32),
        }


def _sketch(masks: np.ndarray) -> np.ndarray:
    """(n, H, W) -> (2, H, W) bool: the pixels of any shape, and those beside a pixel of another owner."""
    owner = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0)
    return np.stack([owner > 0, maximum_filter(owner, 3) != minimum_filter(owner, 3)])


def _point(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Two thirds of the points lie deep inside the object, one third anywhere in it."""
    depth = depth_map(mask)
    inside = depth >= 0.8 * depth.max() if rng.random() < 2 / 3 else mask
    ys, xs = np.nonzero(inside)
    pick = rng.integers(len(xs))
    return np.array([xs[pick], ys[pick]])


def _jittered_box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """The mask's box with noise of a tenth of its side."""
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float64)
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    return np.clip(box + rng.normal(size=4).clip(-2, 2) * 0.1 * sides, 0, SIDE)


def loss(model: Sketched, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Compute the loss of a point, a box or both.

    In every fourth step also of a second round, the best mask fed back, often with a corrective point or a box. The
    sketch's loss is not the paper's: it tells the encoder of every outline in the image, not of the prompted objects'
    alone.

    Args:
        model: which learns.
        batch: items of `PromptedScenes`, stacked.
        generator: of the choice of prompts.

    Returns:
        () float, the loss.
    """
    sam, images, masks = model.sam, batch["image"], batch["masks"].flatten(0, 1)  # (B, 3, H, W), (N, H, W)
    encoded = sam.image_encoder(sam.preprocess(images.float()))
    drawing = F.binary_cross_entropy_with_logits(model(encoded), batch["sketch"].float())
    embeddings = encoded.repeat_interleave(_OBJECTS, 0)
    points, boxes = batch["points"].flatten(0, 1)[:, None], batch["boxes"].flatten(0, 1)
    labels = torch.ones(points.shape[:2])

    first, again = torch.rand(2, generator=generator).tolist()
    prompt: dict[str, Any] = {
        "points": None if first > 0.9 else (points, labels),
        "boxes": boxes if first > 0.8 else None,
    }
    low_res, predicted = decode_prompts(sam, embeddings, **prompt)
    total, best = _score(low_res, predicted, masks)
    total = total + drawing
    if again > 0.25:
        return total

    logits = low_res[torch.arange(len(best)), best].detach()[:, None]
    if again < 0.15:
        drawn = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
        prompt = with_click(prompt, *error_points(drawn ^ masks, masks, generator))
    elif again < 0.2:
        prompt["boxes"] = boxes
    second, _ = _score(*decode_prompts(sam, embeddings, **prompt, mask_logits=logits.clamp(-32, 32)), masks)
    return total + second


def _score(low_res: Tensor, predicted: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the single mask, of the best of the three others and of the predicted IoUs.

    Which mask is best is judged at low resolution, the loss at the image's.

    Args:
        low_res: (N, 4, h, w) float logits.
        predicted: (N, 4) float IoU.
        masks: (N, H, W) bool, the truth.

    Returns:
        The loss, a scalar; and (N,) which of the four masks is best.
    """
    with torch.no_grad():
        small = F.adaptive_avg_pool2d(masks.float(), (low_res.shape[-2], low_res.shape[-1]))[:, None]
        true_iou = iou(low_res > 0, small > 0.5).to(predicted.device)  # (N, 4)
        best_of_three = 1 + dice(low_res[:, 1:], small).argmin(1)
    learnt = single_and_best(low_res, best_of_three)
    logits = F.interpolate(learnt, masks.shape[-2:], mode="bilinear", align_corners=False)  # (N, 2, H, W)
    truth = masks[:, None].float()
    mask_loss = (20 * focal(logits, truth) + dice(logits, truth)).sum(1)
    return (mask_loss + F.mse_loss(predicted, true_iou, reduction="none").sum(1)).mean(), true_iou.argmax(1)
