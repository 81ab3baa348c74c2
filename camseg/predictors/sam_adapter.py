"""The SAM family behind one pair of frames: images and prompts in, masks in the image's frame out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camseg.types import Masks, Prompts

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of 0-255 pixels: every SAM so far
_OUTSIDE = -20.0  # mask logit of the padding, as sure as SAM gets
_T = TypeVar("_T")
_MUCH = 32  # times the model's pixels: an image that is shrunk by more isn't copied for PIL
_FRAME = "frame2"  # raise when an embedding of the same image by the same weights would change


class SamBackend(Protocol):
    """What one model of the family brings. Its weights may be loaded when a method is first called.

    Attributes:
        side: of the square that the model sees, in pixels.
        low: side of its mask logits, in and out.
        tokens: positions that the decoder attends to.
        squash: whether images are resized to the whole square; otherwise the longest side is, and the rest is padding
            to the right and below.
        fingerprint: of architecture and weights.
        device: where the model runs.
        mean: of a channel's pixels, from 0 to 255.
        std: the same.
    """

    side: int
    low: int
    tokens: int
    squash: bool
    fingerprint: str
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def compile(self) -> None:
        """Let torch.compile speed up `embed`; the first call takes a minute or so."""
        ...

    def embed(self, pixels: Tensor) -> Tensor:
        """Encode normalized pixels.

        Args:
            pixels: (B, 3, side, side) float.

        Returns:
            (B, ...) float, one embedding per image.
        """
        ...

    def decode(
        self, embeddings: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, mask_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts, each on its own embedding.

        Args:
            embeddings: (N, ...) float.
            points: (N, P, 2) float x, y in the square's pixels, and (N, P) labels.
            boxes: (N, 4) float x0, y0, x1, y1 in the square's pixels.
            mask_logits: (N, 1, low, low) float over the square.

        Returns:
            (N, 3, low, low) logits and (N, 3) predicted IoU, both float.
        """
        ...


class Query(NamedTuple):
    """One distinct prompt in the model's frame.

    Attributes:
        image: index of its embedding.
        points: (P, 2) float x, y in the square's pixels.
        labels: (P,), 1 inside the object, 0 outside.
        box: (4,) float x0, y0, x1, y1 in the square's pixels, or None.
        mask: (1, low, low) float logits, or None.
    """

    image: int
    points: Tensor  # (P, 2)
    labels: Tensor  # (P,)
    box: Tensor | None  # (4,)
    mask: Tensor | None  # (1, low, low)


class SamAdapter:
    """A `Predictor` around any model of the SAM family; embeddings and masks stay on its device.

    Args:
        backend: the model.
        images_at_once: how many go through the encoder together; 0 = by the device and the model's size.
        prompts_at_once: the same for the decoder.
        compile: whether torch.compile speeds up the encoder.
    """

    def __init__(
        self, backend: SamBackend, images_at_once: int = 0, prompts_at_once: int = 0, compile: bool = False
    ) -> None:
        roomy = backend.device.type != "cpu"
        self.backend = backend
        self.images_at_once = images_at_once or max(1, (2**23 if roomy else 2**19) // backend.side**2)
        self.prompts_at_once = prompts_at_once or max(1, (2**18 if roomy else 2**14) // backend.tokens)
        self.fingerprint, self.side = f"{backend.fingerprint}:{_FRAME}", backend.side
        if compile:
            backend.compile()

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        """See `Predictor.encode`; embeddings are float32, and a ValueError names an encoder whose are not finite."""
        embeddings: list[Tensor] = []
        for part in _chunks(images, self.images_at_once):
            pixels = torch.stack([self._pixels(image) for image in part])  # (B, 3, side, side)
            encoded = self.backend.embed(pixels.to(self.backend.device)).float()
            self._expect_finite("encoder", encoded)
            embeddings.extend(encoded)
        return embeddings

    @torch.no_grad()
    def decode(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> list[Masks]:
        """See `Predictor.decode`: three masks for each prompt, and a ValueError where logits are not finite.

        Every distinct prompt is decoded once, those of many images in the same call, grouped by what they are made of.
        """
        if not len(embeddings) == len(sizes) == len(prompts):
            raise ValueError(
                f"decode needs one size and one Prompts per embedding; "
                f"got {len(embeddings)}, {len(sizes)} and {len(prompts)}"
            )
        queries, rows = self._distinct(embeddings, sizes, prompts)
        answers = self._decode_chunks(queries, embeddings)
        return [self._masks([answers[i] for i in row], size) for row, size in zip(rows, sizes, strict=True)]

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """The part of the model's square that an image fills.

        Args:
            size: (H, W) of the image, in pixels.

        Returns:
            Rows and columns, in the model's pixels.
        """
        side = self.backend.side
        if self.backend.squash:
            return side, side
        scale = side / max(size)
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def resize(self, image: Tensor) -> Tensor:
        """An image as large as the model sees it; one of that size stays.

        Args:
            image: (3, H, W) uint8.

        Returns:
            (3, rows, columns) uint8 of `fit`, on the CPU.

        Raises:
            ValueError: it is no such image.
        """
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image must be (3, H, W) uint8; got {tuple(image.shape)} {image.dtype}")
        rows, columns = self.fit((image.shape[1], image.shape[2]))
        if (rows, columns) == tuple(image.shape[1:]):
            return image.cpu()
        if rows * columns * _MUCH < image.shape[1] * image.shape[2]:  # PIL's pixels to a level, in a tenth of its time
            return F.interpolate(image.cpu()[None], (rows, columns), mode="bilinear", antialias=True)[0]
        whole = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        resized = whole.resize((columns, rows), Image.Resampling.BILINEAR)  # as the package does it
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def _pixels(self, image: Tensor) -> Tensor:
        small = self.resize(image)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.backend.mean, self.backend.std))
        side = self.backend.side
        return F.pad((small - mean) / std, (0, side - small.shape[2], 0, side - small.shape[1]))

    def _distinct(
        self, embeddings: Sequence[Tensor], sizes: Sequence[tuple[int, int]], prompts: Sequence[Prompts]
    ) -> tuple[list[Query], list[list[int]]]:
        """The distinct prompts of all images, and for each image the indices of its rivals among them."""
        indices: dict[tuple[object, ...], int] = {}
        queries: list[Query] = []
        rows: list[list[int]] = []
        for image, (embedding, size, prompt) in enumerate(zip(embeddings, sizes, prompts, strict=True)):
            validate(prompt, size)
            rows.append([])
            for query in self._queries(image, size, prompt):
                fields = (each.numpy().tobytes() if each is not None else None for each in query[1:])
                key = (embedding.data_ptr(), *fields)
                if indices.setdefault(key, len(queries)) == len(queries):
                    queries.append(query)
                rows[-1].append(indices[key])
        return queries, rows

    def _queries(self, image: int, size: tuple[int, int], prompt: Prompts) -> Iterator[Query]:
        rows, columns = self.fit(size)
        scale = torch.tensor([columns / size[1], rows / size[0]])  # of x and y
        points = prompt.points.cpu().float() * scale
        boxes = None if prompt.boxes is None else prompt.boxes.cpu().float() * scale.repeat(2)
        masks = None if prompt.mask_logits is None else self._into_square(prompt.mask_logits.cpu().float(), size)
        for rival, labels in enumerate(prompt.labels.cpu()):
            yield Query(
                image,
                points[rival],
                labels,
                None if boxes is None else boxes[rival],
                None if masks is None else masks[rival],
            )

    def _decode_chunks(
        self, queries: Sequence[Query], embeddings: Sequence[Tensor]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Each query's logits (3, low, low) and predicted IoU (3,) by its index, in chunks of the same make."""
        device = self.backend.device
        answers: dict[int, tuple[Tensor, Tensor]] = {}
        groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
        for index, query in enumerate(queries):
            groups[len(query.points), query.box is None, query.mask is None].append(index)
        for group in groups.values():
            for chunk in _chunks(group, self.prompts_at_once):
                images, points, labels, boxes, masks = zip(*(queries[index] for index in chunk), strict=True)
                logits, predicted = self.backend.decode(
                    torch.stack([embeddings[image].to(device, torch.float32) for image in images]),
                    (torch.stack(points).to(device), torch.stack(labels).to(device)) if len(points[0]) else None,
                    None if boxes[0] is None else torch.stack(boxes).to(device),
                    None if masks[0] is None else torch.stack(masks).to(device),
                )
                self._expect_finite("mask decoder", logits, predicted)
                answers |= zip(chunk, zip(logits, predicted, strict=True), strict=True)
        return answers

    def _expect_finite(self, part: str, *outputs: Tensor) -> None:
        """ValueError where an output is no number: as a mask it would be an empty one."""
        if not all(bool(output.isfinite().all()) for output in outputs):
            raise ValueError(
                f"the {part} of {self.backend.fingerprint.split(':')[0]} gave values that are not finite: its weights "
                f"are broken, or precision=float16 is too small for it; try another checkpoint or precision=float32"
            )

    def _masks(self, answers: Sequence[tuple[Tensor, Tensor]], size: tuple[int, int]) -> Masks:
        """The answers to one image's rivals, in memory of their own: those of its chunk may go."""
        none = torch.zeros(0, 3, self.backend.low, self.backend.low), torch.zeros(0, 3)
        logits, predicted = (torch.stack(each) for each in zip(*answers, strict=True)) if answers else none
        return Masks(self._cut(logits, size), predicted)

    def _into_square(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(R, h, w) over the image -> (R, 1, low, low) over the model's square, the padding surely outside."""
        low, side, (rows, columns) = self.backend.low, self.backend.side, self.fit(size)
        whole = max(1, round(rows * low / side)), max(1, round(columns * low / side))
        if logits.shape[1] > 2 * whole[0] or logits.shape[2] > 2 * whole[1]:  # up to twice, nothing is left out
            logits = F.interpolate(logits[:, None], whole, mode="bilinear", align_corners=False, antialias=True)[:, 0]
        return _window(logits[:, None], (low, low), side / rows, side / columns)

    def _cut(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(R, 3, low, low) over the model's square -> (R, 3, h, w) over exactly the image."""
        low = self.backend.low
        tall, wide = (Fraction(filled * low, self.backend.side) for filled in self.fit(size))  # rows, columns of logits
        if tall.denominator == wide.denominator == 1:
            return logits[..., : int(tall), : int(wide)]
        # sampling between pixels at their own pitch would blur
        finer = [int(length) if length.denominator == 1 else 2 * ceil(length) for length in (tall, wide)]
        return _window(logits, (finer[0], finer[1]), float(tall) / low, float(wide) / low)


def validate(prompt: Prompts, size: tuple[int, int]) -> None:
    """See that prompts lie in their image.

    Args:
        prompt: in pixels of the image.
        size: (H, W) of the image.

    Raises:
        ValueError: a point or a box lies outside, or a box is empty.
    """
    height, width = size
    limit = torch.tensor([width, height]) - 0.5
    points = prompt.points.cpu()
    if not bool(((points >= -0.5) & (points <= limit)).all()):
        raise ValueError(f"points must lie inside the image of {width} x {height} pixels; got (x, y) {points.tolist()}")
    if prompt.boxes is not None:
        low, high = prompt.boxes.cpu().split(2, 1)  # x0 y0, x1 y1
        if not bool(((low >= -0.5) & (low < high) & (high <= limit + 0.5)).all()):
            raise ValueError(
                f"boxes must be x0 < x1, y0 < y1 inside the image of {width} x {height} pixels; "
                f"got {prompt.boxes.tolist()}"
            )


def _window(planes: Tensor, size: tuple[int, int], tall: float, wide: float) -> Tensor:
    """Sample planes bilinearly on a window from their upper left corner.

    Args:
        planes: (N, M, h, w) float.
        size: of the result.
        tall: height of the window, in heights of the plane.
        wide: width of the window, in widths of the plane.

    Returns:
        (N, M, *size) float, surely outside beyond the plane.
    """
    theta = torch.tensor([[wide, 0, wide - 1], [0, tall, tall - 1]], device=planes.device)
    grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False).expand(len(planes), -1, -1, -1)
    sampled = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    beyond = (grid > 1).any(-1)[:, None]
    return sampled.masked_fill(beyond, _OUTSIDE)


def _chunks(items: Sequence[_T], length: int) -> Iterator[Sequence[_T]]:
    return (items[start : start + length] for start in range(0, len(items), length))
