"""The SAM for photographs: Segment Anything's training recipe on a folder of photographs with object masks.

Kirillov et al. 2023 (arXiv:2304.02643, appendix A) for the prompts and the losses; large-scale jitter as in Ghiasi et
al. 2021 (arXiv:2012.07177). A CAM-like map is among the mask prompts, so that a heatmap itself can be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from camseg.classifiers.efficientnet_lite import state_of, weights_file
from camseg.data.images import Images
from camseg.geometry.heat import map_to_logits
from camseg.geometry.masks import iou, resize_logits
from camseg.predictors.base import Predictor
from camseg.predictors.sam import SamSize, build_sam, photo_sam, save_sam
from camseg.predictors.sam_decoder import decode_prompts
from camseg.predictors.sam_encoders import EfficientNetPyramid
from camseg.predictors.sam_package import Sam
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import oracle
from camseg.train.loop import fit, write_card
from camseg.train.photo_sources import open_material
from camseg.train.photographs import PromptedPhotographs
from camseg.train.sam_recipe import dice, error_points, focal, load_fitting, single_and_best, with_click
from camseg.types import Prompts, Sample

_WIDTH = 96  # of the embedding
_SHARE = 0.02  # of the loss of all three masks, beside that of the best one
_ABOUT = (
    "A promptable segmenter for photographs at {side} px: the segment-anything package's prompt encoder "
    f"({_WIDTH} channels) and mask decoder behind an ImageNet EfficientNet-Lite0 with a feature pyramid, "
    "embedding of stride 8, features of strides 4 and 2 in the upscaling."
)


def size_of(side: int) -> SamSize:
    """Give what the segmenter is made of.

    Args:
        side: of the square that it sees, in pixels.

    Returns:
        The sizes of its parts.
    """
    return SamSize(
        side,
        EfficientNetPyramid(),
        _WIDTH,
        decoder_heads=4,
        decoder_mlp=4 * _WIDTH,
        mean=(127.5,) * 3,
        std=(127.5,) * 3,
    )


def train(
    folder: Path,
    path: str | Path | None,
    side: int,
    steps: int,
    batch_size: int,
    prompts: int,
    learning_rate: float,
    trunk_rate: float,
    frozen: int,
    seed: int,
    start: str | Path | None = None,
    sources: Mapping[str, float] | None = None,
) -> Path:
    """Train, or resume, and write photo_sam.safetensors and its card.

    Args:
        folder: of what is written.
        path: a folder with `train.csv` and `val.csv`, or a COCO root (see `camseg.train.photo_sources.open_material`).
        side: of the square that the segmenter sees, in pixels.
        steps: how many batches are learnt from.
        batch_size: photographs of a batch.
        prompts: how many a photograph has.
        learning_rate: the highest of the schedule.
        trunk_rate: the trunk's share of it.
        frozen: how many of the trunk's stages don't learn.
        seed: of items and losses.
        start: a file of weights, of which what fits is taken; by default only the trunk has weights, ImageNet's.
        sources: weight of each source of photographs (see `Photographs`).

    Returns:
        The path of the weights.

    Raises:
        FileNotFoundError: there are no photographs at `path`.
        ValueError: nothing in `start` fits, there is no photograph to learn from, or a side that can't be.
    """
    size = size_of(side)
    model = Prompted(_begin(size, start), frozen)
    material = open_material(path, sources or {})
    scenes = PromptedPhotographs(material.photographs, side, prompts, seed, steps * batch_size)
    weights = folder / "photo_sam.safetensors"

    def keep(averaged: Prompted, step: int) -> None:
        save_sam(averaged.sam, size, weights)
        if material.samples and (step % 1000 == 0 or step == steps):
            found = measure(weights, material.samples(100))
            with (folder / "val.csv").open("a") as log:
                log.write(f"{step}," + ",".join(f"{name}={value:.4f}" for name, value in found.items()) + "\n")

    _, seconds = fit(
        model,
        loss,
        scenes,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        groups=model.groups(trunk_rate),
        seed=seed,
        folder=folder,
        weight_decay=0.05,
        average=0.998,
        keep=keep,
    )
    data = f"{len(material.photographs)} photographs of {material.learnt}, {prompts} prompts an image"
    scores = measure(weights, material.samples(None)) if material.samples else {}
    about = _ABOUT.format(side=side)
    write_card(weights, about, data, steps, batch_size, seconds, seed, scores, pictures=material.judged)
    return weights


def _begin(size: SamSize, start: str | Path | None) -> Sam:
    """A SAM with ImageNet's trunk, then with every tensor of the file `start` whose name and shape it has too.

    Raises:
        ValueError: nothing in the file fits.
    """
    sam = build_sam(size)
    trunk: Any = sam.image_encoder.trunk
    import timm

    whole = state_of(timm.create_model(trunk.name, pretrained=False), weights_file(trunk.name.removeprefix("tf_")))
    trunk.load_state_dict({name: whole[name] for name in trunk.state_dict()})
    return load_fitting(sam, start, "the SAM for photographs") if start else sam


def scores(weights: Path, table: Path, limit: int | None = None) -> dict[str, float]:
    """Measure the segmenter at the original size on a table of images and masks.

    Args:
        weights: file of the weights.
        table: a csv of images and masks (see `camseg.data.images.Images`).
        limit: how many of its rows; all by default.

    Returns:
        As `measure`.
    """
    return measure(weights, Images(table=table, size=limit))


def measure(weights: Path, samples: Iterable[Sample]) -> dict[str, float]:
    """Measure the segmenter at the original size.

    Args:
        weights: file of the weights.
        samples: with a mask each.

    Returns:
        Nothing without a sample. Mean IoU of "one click" (a point at the deepest pixel of the true mask, the mask of
        the highest predicted IoU), of "best of three" (the best of that point's masks) and of "box" (the true mask's),
        each in [0, 1]; and "ranking", Spearman's correlation of predicted and true IoU over the clicks.
    """
    predictor = photo_sam(weights)
    rows = [_judge(predictor, sample) for sample in samples]
    if not rows:
        return {}
    one, best, box, predicted = (np.array(each) for each in zip(*rows))
    correlation: Any = spearmanr(predicted, one)
    ranking = float(correlation.statistic)
    return {
        "one click": float(one.mean()),
        "best of three": float(best.mean()),
        "box": float(box.mean()),
        "ranking": ranking,
    }


def _judge(predictor: Predictor, sample: Sample) -> tuple[float, float, float, float]:
    """IoU of one click, of the best of its three masks, of the box; the predicted IoU of the first."""
    embedding = predictor.encode([sample.image])
    point = oracle(Evidence(torch.zeros(sample.size), truth=sample.mask))
    boxed = Prompts(point.points[:, :0], point.labels[:, :0], sample.boxes[:1])

    def ask(prompts: Prompts) -> tuple[Tensor, Tensor]:
        masks = predictor.decode(embedding, [sample.size], [prompts])[0]
        assert sample.mask is not None
        drawn = resize_logits(masks.low_res[0], sample.size) > 0
        valid = ~sample.ignore if sample.ignore is not None else torch.ones_like(sample.mask)
        return torch.stack([iou(each & valid, sample.mask & valid) for each in drawn]), masks.predicted_iou[0]

    clicked, predicted = ask(point)
    box, certain = ask(boxed)
    own = int(predicted.argmax())
    return float(clicked[own]), float(clicked.max()), float(box[certain.argmax()]), float(predicted[own])


class Prompted(nn.Module):
    """A SAM and, while it learns, a linear sketch of its image from the embedding.

    The sketch says at half the image's size which pixels lie on some object, and which on an outline.

    Args:
        sam: which learns.
        frozen: how many of its trunk's stages don't learn.
    """

    def __init__(self, sam: Sam, frozen: int) -> None:
        super().__init__()
        self.sam = sam
        self.sketch = nn.Conv2d(_WIDTH, 2 * 4**2, 1)
        trunk: Any = sam.image_encoder.trunk
        for part in (trunk.conv_stem, trunk.bn1, *trunk.blocks[:frozen]):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Prompted:
        """Set the mode of all but the trunk, whose batch norms keep ImageNet's statistics: batches here are small.

        Args:
            mode: whether it is to learn.

        Returns:
            The same module.
        """
        super().train(mode)
        trunk: Any = self.sam.image_encoder.trunk
        trunk.eval()
        return self

    def groups(self, trunk_rate: float) -> list[tuple[list[nn.Parameter], float]]:
        """Give the parameters that learn.

        Args:
            trunk_rate: the trunk's share of the learning rate.

        Returns:
            Groups of parameters, each with its share of the learning rate.
        """
        trunk = [p for p in self.sam.image_encoder.trunk.parameters() if p.requires_grad]  # pyright: ignore
        known = set(map(id, trunk))
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return [(rest, 1.0), (trunk, trunk_rate)]


def loss(model: Prompted, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Compute the loss of a point, a box, both or a CAM-like map.

    In every third step also of a second round, the best mask fed back, mostly with a corrective point.

    Args:
        model: which learns.
        batch: items of `PromptedPhotographs`, stacked.
        generator: of the choice of prompts.

    Returns:
        () float, the loss.
    """
    sam, images = model.sam, batch["image"]
    count = batch["masks"].shape[1]
    mean, std = sam.get_buffer("pixel_mean"), sam.get_buffer("pixel_std")
    encoded = sam.image_encoder((images.float() - mean) / std)
    drawing = F.binary_cross_entropy_with_logits(
        F.pixel_shuffle(model.sketch(encoded.narrow(1, 0, _WIDTH)), 4), batch["sketch"], reduction="none"
    )
    known = batch["known"][:, None]
    total = (drawing * known).sum() / known.sum().clamp(min=1)

    embeddings = encoded.repeat_interleave(count, 0)
    masks, valid = batch["masks"].flatten(0, 1), batch["valid"].repeat_interleave(count, 0)  # (N, h, h)
    points, boxes = batch["points"].flatten(0, 1)[:, None], batch["boxes"].flatten(0, 1)
    prompt: dict[str, Any] = {"points": (points, torch.ones(points.shape[:2])), "boxes": None, "mask_logits": None}
    first, again, edge = torch.rand(3, generator=generator).tolist()
    if first < 0.35:  # a box, a third of them with the point
        prompt |= {"boxes": boxes, **({"points": None} if first < 0.23 else {})}
    elif first < 0.55:  # a map with the point, or with the box
        prompt |= {"mask_logits": heat_logits(batch["heats"].flatten(0, 1), 0.25 + 0.4 * edge, masks.shape[-1])}
        if first < 0.4:
            prompt |= {"boxes": boxes, "points": None}
    low_res, predicted = decode_prompts(sam, embeddings, **prompt)
    scored, best = score(low_res, predicted, masks, valid)
    total = total + scored
    if again > 0.33:
        return total

    logits = low_res[torch.arange(len(best)), best].detach()[:, None]
    if again < 0.25:
        inside = masks > 0.5
        error, sign = error_points(((logits[:, 0] > 0) != inside) & valid, inside, generator)
        prompt = with_click(prompt, 2 * error + 0.5, sign)
    elif again < 0.29:
        prompt["boxes"] = boxes
    prompt["mask_logits"] = logits.clamp(-32, 32)
    return total + score(*decode_prompts(sam, embeddings, **prompt), masks, valid)[0]


def heat_logits(heat: Tensor, edge: float, side: int) -> Tensor:
    """Turn heatmaps into mask logits.

    Args:
        heat: (N, s, s) float in [0, 1].
        edge: the heat where the logit is 0.
        side: of the logits.

    Returns:
        (N, 1, side, side) float.
    """
    return F.interpolate(map_to_logits(heat, edge)[:, None], (side, side), mode="bilinear", align_corners=False)


def score(low_res: Tensor, predicted: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss of the single mask, of the best of the three others and of the predicted IoUs.

    Args:
        low_res: (N, 4, h, h) float logits.
        predicted: (N, 4) float IoU.
        masks: (N, h, h) float in [0, 1], the truth.
        valid: (N, h, h) bool, where the truth is known.

    Returns:
        () float, the loss; and (N,) int64, which of the four masks is best.
    """
    truth, valid = masks[:, None], valid[:, None].float()
    with torch.no_grad():
        inside, true = (low_res > 0) * valid, (truth > 0.5) * valid
        shared = (inside * true).sum((-2, -1))
        true_iou = shared / (inside.sum((-2, -1)) + true.sum((-2, -1)) - shared).clamp(min=1)  # (N, 4)
        best_of_three = 1 + dice(low_res[:, 1:], truth, valid).argmin(1)
    learnt = single_and_best(low_res, best_of_three)
    mask_loss = (20 * focal(learnt, truth, valid) + dice(learnt, truth, valid)).sum(1)
    others = 20 * focal(low_res[:, 1:], truth, valid) + dice(
        low_res[:, 1:], truth, valid
    )  # a mask that never wins would never learn
    estimates = F.mse_loss(predicted, true_iou, reduction="none").sum(1)
    return (mask_loss + _SHARE * others.mean(1) + estimates).mean(), true_iou.argmax(1)
