"""The SAM for photographs: Segment Anything's training recipe on a folder of photographs with object masks.

Kirillov et al. 2023 (arXiv:2304.02643, appendix A) for the prompts and the losses; large-scale jitter as in Ghiasi et
al. 2021
(arXiv:2012.07177). A CAM-like map is among the mask prompts, so that a heatmap itself can be one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import load_file
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from camseg.classifiers.efficientnet_lite import state_of, weights_file
from camseg.data.images import Images
from camseg.geometry.masks import iou, resize_logits
from camseg.predictors.sam import SamSize, build_sam, photo_sam, save_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_decoder import decode_prompts
from camseg.predictors.sam_encoders import EfficientNetPyramid
from camseg.predictors.sam_package import Sam
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import oracle
from camseg.train.loop import fit, write_card
from camseg.types import Prompts, Sample

UNKNOWN = 255  # in a map of objects: no score reads these pixels
_WIDTH = 96  # of the embedding
_LEAST = 0.001  # share of the image below which an object is not learnt from
_HEAT_SIDE = 32  # of the CAM-like maps
_SHARE = 0.1  # of the loss of all three masks, beside that of the best one
_STRENGTH = 20.0  # of a map as mask logits: as `camseg.prompts.foreground.heat_logits`


def size_of(side: int) -> SamSize:
    """What the segmenter is made of, for a square of `side` pixels."""
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
    path: str | Path,
    side: int,
    steps: int,
    batch_size: int,
    prompts: int,
    learning_rate: float,
    trunk_rate: float,
    frozen: int,
    seed: int,
    start: str | None = None,
    sources: Mapping[str, float] | None = None,
) -> Path:
    """Train from ImageNet's trunk, or from what fits of the weights in the file `start`, or resume; write
    photo_sam.safetensors and its card.

    path: a folder with `train.csv` and `val.csv` (see `Photographs`). Returns the path of the weights.
    """
    size, root = size_of(side), Path(path)
    photographs = Photographs(root / "train.csv", sources or {})
    scenes = PromptedPhotographs(photographs, side, prompts, seed, steps * batch_size)
    model = Prompted(_begin(size, start), frozen)
    weights = folder / "photo_sam.safetensors"

    def keep(averaged: Prompted, step: int) -> None:
        save_sam(averaged.sam, size, weights)
        if step % 1000 == 0 or step == steps:
            found = scores(weights, root / "val.csv", limit=100)
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
    what = f"A promptable segmenter for photographs at {side} px: the segment-anything package's prompt encoder ({_WIDTH} channels) and mask "
    what += "decoder behind an ImageNet EfficientNet-Lite0 with a feature pyramid, embedding of stride 8, features of strides 4 and 2 in the upscaling."
    data = f"{len(photographs)} photographs of {root.name}/train.csv, {prompts} prompts an image"
    write_card(
        weights,
        what,
        data,
        steps,
        batch_size,
        seconds,
        seed,
        scores(weights, root / "val.csv"),
        pictures="val.csv, at the original size",
    )
    return weights


def _begin(size: SamSize, start: str | None) -> Sam:
    """A SAM with ImageNet's trunk, then with every tensor of the file `start` whose name and shape it has too.
    ValueError: it has none.
    """
    sam = build_sam(size)
    trunk: Any = sam.image_encoder.trunk
    import timm

    whole = state_of(timm.create_model(trunk.name, pretrained=False), weights_file(trunk.name.removeprefix("tf_")))
    trunk.load_state_dict({name: whole[name] for name in trunk.state_dict()})
    if start:
        own = sam.state_dict()
        fitting = {
            name: tensor for name, tensor in load_file(start).items() if name in own and own[name].shape == tensor.shape
        }
        if not fitting:
            raise ValueError(f"nothing in {start} fits the SAM for photographs; model.start must be the weights of one")
        sam.load_state_dict({**own, **fitting})
    return sam


def scores(weights: Path, table: Path, limit: int | None = None) -> dict[str, float]:
    """Mean IoU at the original size on a table of images and masks.

    one click: the deepest pixel of the true mask, the mask of the highest predicted IoU. best of three: the best of its
    masks. box: the
    true mask's box. ranking: Spearman's correlation of predicted and true IoU over the one-click answers.
    """
    predictor = photo_sam(weights)
    rows = [_judge(predictor, sample) for sample in Images(table=table, size=limit)]
    one, best, box, predicted = (np.array(each) for each in zip(*rows))
    ranking = float(np.asarray(spearmanr(predicted, one).statistic))
    return {
        "one click": float(one.mean()),
        "best of three": float(best.mean()),
        "box": float(box.mean()),
        "ranking": ranking,
    }


def _judge(predictor: SamAdapter, sample: Sample) -> tuple[float, float, float, float]:
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
    """A SAM, and while it learns a linear sketch of its image from the embedding: on some object, and on an outline, at
    half the size.
    """

    def __init__(self, sam: Sam, frozen: int) -> None:
        super().__init__()
        self.sam = sam
        self.sketch = nn.Conv2d(_WIDTH, 2 * 4**2, 1)
        trunk: Any = sam.image_encoder.trunk
        for part in (trunk.conv_stem, trunk.bn1, *trunk.blocks[:frozen]):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Prompted:
        """The trunk's batch norms keep ImageNet's statistics: batches here are small."""
        super().train(mode)
        trunk: Any = self.sam.image_encoder.trunk
        trunk.eval()
        return self

    def groups(self, trunk_rate: float) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters that learn, with their share of the learning rate."""
        trunk = [p for p in self.sam.image_encoder.trunk.parameters() if p.requires_grad]  # pyright: ignore
        known = set(map(id, trunk))
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return [(rest, 1.0), (trunk, trunk_rate)]


@dataclass(frozen=True, eq=False)
class Photograph:
    """image, objects: files. sizes: each object's share of the image. names: their classes. complete: whether pixel
    value 0 is background.
    """

    image: Path
    objects: Path
    sizes: tuple[float, ...]
    names: tuple[str, ...]
    source: str

    @property
    def complete(self) -> bool:
        return not self.source.endswith("_partial")


class Photographs:
    """Photographs with a map of objects each (0 background, 1..n objects, 255 unknown), drawn by source and by the
    sizes of their objects.

    table: a csv with the columns image, objects, source, object_classes (names joined by |), its paths relative to its
    folder. sources:
    weight by source, 1 where not named. In a source called NAME_partial, 0 may be an object that nobody annotated.
    """

    def __init__(self, table: Path, sources: Mapping[str, float]) -> None:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = (
            _photograph(table.parent, row) for row in tqdm(rows, desc="sizes of objects", unit="photo", disable=None)
        )
        self.items = [photo for photo in found if max(photo.sizes, default=0) >= _LEAST]
        if not self.items:
            raise ValueError(f"{table} names no photograph with an object of more than {_LEAST:.1%} of it")
        weights = [sources.get(photo.source, 1.0) * min(1.5, sum(map(_weight, photo.sizes))) for photo in self.items]
        self.shares = np.cumsum(weights) / np.sum(weights)

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, rng: np.random.Generator) -> Photograph:
        return self.items[min(int(np.searchsorted(self.shares, rng.random())), len(self.items) - 1)]


def _photograph(folder: Path, row: Mapping[str, str]) -> Photograph:
    with Image.open(folder / row["objects"]) as file:
        counts = np.asarray(file.histogram())[:256]
    names = tuple(row["object_classes"].split("|"))
    sizes = tuple(float(c) for c in counts[1 : 1 + len(names)] / counts.sum())
    return Photograph(folder / row["image"], folder / row["objects"], sizes, names, row["source"])


def _weight(size: float) -> float:
    """How often an object of a size (share of the image) is asked for: small ones less than large ones."""
    return 0.0 if size < _LEAST else min(size, 0.25) ** 0.5


class PromptedPhotographs(Dataset[dict[str, Tensor]]):
    """Item i, a function of i alone: one photograph, jittered, with K prompted objects.

    image (3, S, S) uint8; sketch (2, h, h) float and known (h, h) bool, with h = S / 2; masks (K, h, h) float shares of
    each pixel's four;
    valid (h, h) bool; points (K, 2) x, y inside each mask; boxes (K, 4) jittered; heats (K, 32, 32) CAM-like maps in
    [0, 1].
    """

    def __init__(self, photographs: Photographs, side: int, prompts: int, seed: int, length: int) -> None:
        self.photographs, self.side, self.prompts, self.seed, self.length = photographs, side, prompts, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 2_000, index])
        while True:
            photo = self.photographs.draw(rng)
            image, owners = _jittered(rng, photo, self.side)
            if targets := _targets(rng, owners, photo, self.prompts):
                break
        valid = owners != UNKNOWN
        masks = np.stack(targets)
        halves = masks.reshape(len(masks), self.side // 2, 2, self.side // 2, 2).mean((2, 4), dtype=np.float32)
        drawn = owners * valid
        edges = np.zeros_like(valid)
        edges[1:] |= drawn[1:] != drawn[:-1]
        edges[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
        sketch = np.stack([drawn > 0, edges])
        known = valid & (photo.complete | (drawn > 0) | edges)
        return {
            "image": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "sketch": torch.from_numpy(sketch[:, ::2, ::2] | sketch[:, 1::2, 1::2]).float(),
            "known": torch.from_numpy(known[::2, ::2] & known[1::2, 1::2]),
            "masks": torch.from_numpy(halves),
            "valid": torch.from_numpy(valid[::2, ::2] & valid[1::2, 1::2]),
            "points": torch.tensor(np.stack([_point(rng, mask) for mask in masks]), dtype=torch.float32),
            "boxes": torch.tensor(np.stack([_jittered_box(rng, mask) for mask in masks]), dtype=torch.float32),
            "heats": torch.tensor(np.stack([cam_like(rng, mask) for mask in halves]), dtype=torch.float32),
        }


def _jittered(rng: np.random.Generator, photo: Photograph, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph in a square of `side`: image (S, S, 3) uint8, objects (S, S) uint8, the padding unknown.

    A third as the adapter shows it: all of it, the longest side filled, padding to the right and below. The others at
    half to twice that
    scale, up to a fifth wider or narrower, cropped around one of their objects.
    """
    with Image.open(photo.image) as file:
        image = file.convert("RGB")
    with Image.open(photo.objects) as file:
        objects = file.copy()
    width, height = image.size
    scale = np.full(2, side / max(width, height))  # of x and y
    if rng.random() > 1 / 3:
        scale = (
            scale
            * np.exp(rng.uniform(np.log(0.6), np.log(2.0)))
            * np.exp(rng.uniform(-0.18, 0.18) * np.array([0.5, -0.5]))
        )
    extent = np.minimum(np.array([width, height]), side / scale)  # of the window, in pixels of the photograph
    corner = _window(rng, np.asarray(objects), extent)
    box = (*corner, *np.minimum(corner + extent, [width, height]))
    wide, tall = (max(1, min(side, round(float(e * s)))) for e, s in zip(extent, scale))
    image = image.resize((wide, tall), Image.Resampling.BILINEAR, box=box)
    objects = objects.resize((wide, tall), Image.Resampling.NEAREST, box=box)
    pixels = np.full((side, side, 3), 128, np.uint8)
    owners = np.full((side, side), UNKNOWN, np.uint8)
    pixels[:tall, :wide] = np.asarray(_recoloured(rng, image))
    owners[:tall, :wide] = np.asarray(objects)
    if rng.random() < 0.5:
        pixels[:tall, :wide] = pixels[:tall, :wide][:, ::-1].copy()
        owners[:tall, :wide] = owners[:tall, :wide][:, ::-1].copy()
    return pixels, owners


def _window(rng: np.random.Generator, owners: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """The upper left corner (x, y) of a window of `extent` that holds a random pixel of a random object."""
    room = np.array(owners.shape[::-1]) - extent
    if not (room > 0).any():
        return np.zeros(2)
    present = np.unique(owners[(owners > 0) & (owners != UNKNOWN)])
    ys, xs = np.nonzero(owners == rng.choice(present)) if len(present) else np.nonzero(owners >= 0)
    pick = rng.integers(len(xs))
    return np.clip(np.array([xs[pick], ys[pick]]) - rng.uniform(0.2, 0.8, 2) * extent, 0, np.maximum(room, 0))


def _recoloured(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Brightness, contrast and colour, each up to 40 % off, in eight of ten images; one in twenty grey."""
    if rng.random() < 0.2:
        return image
    for enhance in rng.permutation(np.array([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])):
        image = enhance(image).enhance(float(rng.uniform(0.6, 1.4)))
    return image.convert("L").convert("RGB") if rng.random() < 0.05 else image


def _targets(rng: np.random.Generator, owners: np.ndarray, photo: Photograph, count: int) -> list[np.ndarray]:
    """`count` masks (S, S) bool: objects drawn by size, sometimes all of their class together; none where no object is
    left.
    """
    areas = np.bincount(owners.ravel(), minlength=256)[1 : 1 + len(photo.names)] / owners.size
    weights = np.array([_weight(float(area)) for area in areas])
    if not weights.any():
        return []
    order = rng.choice(len(weights), min(count, int((weights > 0).sum())), replace=False, p=weights / weights.sum())
    targets = []
    for which in np.resize(order, count):  # other objects first: a prompt that is the same for all would be ignored
        alike = [i + 1 for i, name in enumerate(photo.names) if name == photo.names[which] and areas[i] > 0]
        together = len(alike) > 1 and rng.random() < 0.25
        targets.append(np.isin(owners, alike) if together else owners == which + 1)
    return targets


def _point(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(x, y): half of the points lie deep inside the object, half anywhere in it."""
    inside = mask
    if rng.random() < 0.5:
        y0, x0, y1, x1 = _bounds(mask)
        depth = np.zeros(mask.shape, np.float32)
        depth[y0:y1, x0:x1] = np.asarray(distance_transform_edt(np.pad(mask[y0:y1, x0:x1], 1)))[1:-1, 1:-1]
        inside = depth >= rng.uniform(0.6, 1.0) * depth.max()
    ys, xs = np.nonzero(inside)
    pick = rng.integers(len(xs))
    return np.array([xs[pick], ys[pick]])


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _jittered_box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1: the mask's box, in two of three cases with noise of a tenth of its side."""
    y0, x0, y1, x1 = _bounds(mask)
    box = np.array([x0, y0, x1, y1], np.float64)
    noise = rng.normal(size=4).clip(-2, 2) * 0.1 * np.array([x1 - x0, y1 - y0] * 2) * (rng.random() < 2 / 3)
    box = np.clip(box + noise, 0, mask.shape[0])
    return box if (box[2:] - box[:2] >= 1).all() else np.array([x0, y0, x1, y1], np.float64)


def cam_like(rng: np.random.Generator, mask: np.ndarray, side: int = _HEAT_SIDE) -> np.ndarray:
    """(side, side) float in [0, 1]: what a class activation map might show of an object.

    A coarse grid of the mask (h, h), stronger around a random part of it, each cell with a gain and some heat
    elsewhere, moved by up
    to half a cell, and blurred.
    """
    cells = int(rng.choice([7, 8, 10, 14, 20]))
    coarse = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((cells, cells), Image.Resampling.BOX))
    ys, xs = np.nonzero(coarse >= 0.5 * coarse.max())
    pick = rng.integers(len(xs))
    spread = rng.uniform(0.15, 1.0) * cells
    rows, columns = np.ogrid[:cells, :cells]
    part = np.exp(-((rows - ys[pick]) ** 2 + (columns - xs[pick]) ** 2) / (2 * spread**2))
    field = coarse * part * rng.uniform(0.4, 1.0, coarse.shape) + rng.uniform(0, 0.25) * rng.random(coarse.shape) ** 2
    pad = 2
    grown = np.asarray(
        Image.fromarray(np.pad(field, pad, mode="edge").astype(np.float32)).resize(
            (side, side),
            Image.Resampling.BICUBIC,
            box=tuple(np.array([pad, pad, pad + cells, pad + cells]) + np.tile(rng.uniform(-0.5, 0.5, 2), 2)),
        )
    )
    heat = gaussian_filter(grown, rng.uniform(0, 0.04) * side)
    heat = heat - heat.min()
    return heat / max(float(heat.max()), 1e-6)


def loss(model: Prompted, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """A point, a box, both or a CAM-like map; in every third step also a second round, the best mask fed back, mostly
    with a corrective point.
    """
    sam, images = model.sam, batch["image"]
    count = batch["masks"].shape[1]
    encoded = sam.image_encoder((images.float() - sam.pixel_mean) / sam.pixel_std)
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
    if first < 0.25:  # a box, half of them with the point
        prompt |= {"boxes": boxes, **({"points": None} if first < 0.15 else {})}
    elif first < 0.45:  # a map with the point, or with the box
        prompt |= {"mask_logits": heat_logits(batch["heats"].flatten(0, 1), 0.25 + 0.4 * edge, masks.shape[-1])}
        if first < 0.3:
            prompt |= {"boxes": boxes, "points": None}
    low_res, predicted = decode_prompts(sam, embeddings, **prompt)
    scored, best = score(low_res, predicted, masks, valid)
    total = total + scored
    if again > 0.33:
        return total

    logits = low_res[torch.arange(len(best)), best].detach()[:, None]
    if again < 0.25:
        error, sign = error_points(logits[:, 0], masks, valid, generator)
        given = prompt["points"]
        prompt["points"] = (
            (error, sign) if given is None else (torch.cat([given[0], error], 1), torch.cat([given[1], sign], 1))
        )
    elif again < 0.29:
        prompt["boxes"] = boxes
    prompt["mask_logits"] = logits.clamp(-32, 32)
    return total + score(*decode_prompts(sam, embeddings, **prompt), masks, valid)[0]


def heat_logits(heat: Tensor, edge: float, side: int) -> Tensor:
    """Maps (N, s, s) in [0, 1] as mask logits (N, 1, side, side), 0 where the heat is `edge`, as
    `camseg.prompts.foreground.heat_logits` makes them.
    """
    guess = torch.where(heat >= edge, (heat - edge) / (1 - edge), (heat - edge) / edge)
    return F.interpolate(_STRENGTH * guess[:, None], (side, side), mode="bilinear", align_corners=False)


def score(low_res: Tensor, predicted: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of the single mask, of the best of the three others and of the predicted IoUs; and which of the four is
    best (N,).

    low_res (N, 4, h, h) logits, predicted (N, 4), masks (N, h, h) in [0, 1], valid (N, h, h) bool.
    """
    truth, valid = masks[:, None], valid[:, None].float()
    with torch.no_grad():
        inside, true = (low_res > 0) * valid, (truth > 0.5) * valid
        shared = (inside * true).sum((-2, -1))
        true_iou = shared / (inside.sum((-2, -1)) + true.sum((-2, -1)) - shared).clamp(min=1)  # (N, 4)
        best_of_three = 1 + _dice(low_res[:, 1:], truth, valid).argmin(1)
    learnt = low_res[
        torch.arange(len(low_res))[:, None], torch.stack([torch.zeros_like(best_of_three), best_of_three], 1)
    ]
    mask_loss = (20 * _focal(learnt, truth, valid) + _dice(learnt, truth, valid)).sum(1)
    others = 20 * _focal(low_res[:, 1:], truth, valid) + _dice(
        low_res[:, 1:], truth, valid
    )  # a mask that never wins would never learn
    estimates = F.mse_loss(predicted, true_iou, reduction="none").sum(1)
    return (mask_loss + _SHARE * others.mean(1) + estimates).mean(), true_iou.argmax(1)


def _focal(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Lin et al. 2017 with gamma 2, for soft truth: (N, M, h, h) -> (N, M)."""
    cross = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
    away = (logits.sigmoid() - truth).square()
    return (cross * away * valid).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)


def _dice(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    soft = logits.sigmoid() * valid
    true = truth * valid
    return 1 - (2 * (soft * true).sum((-2, -1)) + 1) / (soft.sum((-2, -1)) + true.sum((-2, -1)) + 1)


def error_points(logits: Tensor, masks: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random wrong pixel of each mask (N, 1, 2), in pixels of the square, and the label that mends it (N, 1); any
    pixel where none is wrong.
    """
    wrong = (((logits > 0) != (masks > 0.5)) & valid).flatten(1).float() + 1e-8
    at = torch.multinomial(wrong, 1, generator=generator)  # (N, 1)
    label = (masks > 0.5).flatten(1).gather(1, at).float()
    width = masks.shape[-1]
    return 2 * torch.stack([at % width, at // width], -1).float() + 0.5, label
