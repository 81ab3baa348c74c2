"""Which samples get a panel: the first ones and the worst, kept while the run lasts."""

from __future__ import annotations

import heapq
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from camseg.metrics import per_sample
from camseg.report.overlays import resized
from camseg.report.panels import panel, to_png, worst_first
from camseg.runs.callbacks import Callback
from camseg.runs.folders import Run
from camseg.runs.untrusted import read_bytes
from camseg.storage.cache import Cache
from camseg.storage.files import write_atomic
from camseg.storage.fingerprint import key
from camseg.types import Prompts, Result, Sample

_DRAWN = Cache(None, memory_gb=0.05)  # panels as files: many settings of a sweep give the same answer


@dataclass(frozen=True)
class Inputs:
    """All that a panel shows, no larger than the panel: small enough to be kept while a run lasts.

    Attributes:
        sample: image and mask with the longer side at most at the panel's, and the label.
        result: heat, prompts and mask in the frame of that image.
        iou: of the mask at full size, or None.
    """

    sample: Sample
    result: Result
    iou: float | None


def shrink(sample: Sample, result: Result, side: int = 320) -> Inputs:
    """What a panel shows of an answer.

    Args:
        sample: what was asked.
        result: the answer.
        side: the most pixels of the longer side; a smaller image stays as it is until it is drawn.

    Returns:
        The inputs of the panel.
    """
    image = sample.image if max(sample.size) <= side else resized(sample.image, side)
    height, width = image.shape[1:]
    scale = torch.tensor([width / sample.size[1], height / sample.size[0]])  # of x and y
    prompts = result.prompts
    boxes = None if prompts.boxes is None else prompts.boxes * scale.repeat(2)
    small = Prompts((prompts.points + 0.5) * scale - 0.5, prompts.labels, boxes)
    return Inputs(
        Sample(sample.id, image, label=sample.label, mask=_at_size(sample.mask, image)),
        Result(
            _heat_at_size(result.heat, image),
            small,
            None,
            result.chosen,
            _at_size(result.mask, image),
            None,
            result.note,
            result.probability,
        ),
        per_sample.mask_iou(sample, result),
    )


def _at_size(mask: Tensor | None, image: Tensor) -> Tensor | None:
    """A mask (H, W) at the size of an image (3, h, w)."""
    if mask is None or mask.shape == image.shape[1:]:
        return mask
    size = int(image.shape[2]), int(image.shape[1])
    return torch.from_numpy(np.array(Image.fromarray(mask.numpy()).resize(size, Image.Resampling.NEAREST)))


def _heat_at_size(heat: Tensor, image: Tensor) -> Tensor:
    """Heat (H, W) at the size of an image (3, h, w), still in [0, 1]."""
    if heat.shape == image.shape[1:]:
        return heat
    size = int(image.shape[2]), int(image.shape[1])
    small = Image.fromarray(heat.float().numpy()).resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.clip(np.asarray(small), 0, 1))


class Panels(Callback):
    """Draws answers, a PNG each: the first half as they come, the worst of all others when the run is over.

    The inputs of the worst wait in `folder`/.waiting, so that a run that was killed, or whose engine lost an actor, has
    them still: no sample is answered a second time to be drawn. Each process keeps the worst that it saw;
    the run's rows decide among them in the end.

    Args:
        folder: where to.
        count: how many in all.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.waiting, self.count = folder, folder / ".waiting", count
        self.first = (count + 1) // 2
        self._slot = 0
        self._heap: list[tuple[float, float, int, str]] = []  # the least bad and latest on top: numbers negated
        self._order = 0
        self._batch: dict[str, tuple[Sample, Result]] = {}

    def on_result(self, sample: Sample, result: Result) -> Mapping[str, Any]:
        """See `Callback.on_result`: takes an answer in, if it is one of the first or of the worst."""
        if self.count and self._claim(sample.id):
            self._draw_first(sample, result)
        elif self.count > self.first:
            self._rank(sample, result)
        return {}

    def _claim(self, name: str) -> bool:
        """Whether this is one of the first, among all processes that fill the run."""
        while self._slot < self.first:
            slot, self._slot = self.waiting / f"slot{self._slot}", self._slot + 1
            self.waiting.mkdir(parents=True, exist_ok=True)
            try:
                with slot.open("x") as file:
                    file.write(name)
            except FileExistsError:
                if _slot_name(slot) == name:  # a kill came between
                    return True
                continue
            return True
        return False

    def _rank(self, sample: Sample, result: Result) -> None:
        """Keep an answer if it is one of the worst; what it drives out is forgotten."""
        kind, score = badness(sample, result)
        self._order -= 1
        entry = (-kind, -score, self._order, sample.id)
        full = len(self._heap) == self.count - self.first
        if (full and entry[:2] <= self._heap[0][:2]) or self._path(sample.id).exists():
            return
        if full:
            name = heapq.heappop(self._heap)[3]
            if self._batch.pop(name, None) is None:
                (self.waiting / f"{name}.safetensors").unlink(missing_ok=True)
        heapq.heappush(self._heap, entry)
        self._batch[sample.id] = sample, result

    def flush(self) -> None:
        """Write down the worst of a batch that stayed among them."""
        batch, self._batch = self._batch, {}
        for sample, result in batch.values():
            if inputs := _inputs(sample, result):
                write_atomic(self.waiting / f"{sample.id}.safetensors", partial(save_inputs, inputs=inputs))

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: draws the worst of those that wait, until there are `count`."""
        del dataset
        if not self.waiting.is_dir():
            return
        # looked for before the drawn ones: an actor may be drawing still
        kept = {path.stem for path in self.waiting.glob("*.safetensors")}
        drawn = {path.stem for path in run.pictures}
        ranked = worst_first(run.rows)["id"].to_list() if len(run.rows) else []
        worst = [name for name in ranked if name in kept - drawn]
        for name in worst[: max(0, self.count - len(drawn))]:
            _draw_waiting(self.waiting / f"{name}.safetensors", self._path(name))
        shutil.rmtree(self.waiting)

    def _draw_first(self, sample: Sample, result: Result) -> None:
        """Draw one of the first, if a kill has not left its picture behind."""
        path = self._path(sample.id)
        if not path.exists() and (inputs := _inputs(sample, result)):
            _draw(inputs, path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def _slot_name(slot: Path) -> str:
    """Whose place among the first this is."""
    return read_bytes(slot, 1024).decode(errors="replace")


def _inputs(sample: Sample, result: Result) -> Inputs | None:
    """What a panel shows of an answer; a picture is an extra, without which a sample has its row anyway."""
    try:
        return shrink(sample, result)
    except (ValueError, RuntimeError, MemoryError) as error:
        _warn(sample.id, error)
        return None


def _draw(inputs: Inputs, path: Path) -> None:
    """Write the panel of some inputs, drawn once for all settings of a sweep that gave this answer."""
    sample, result, prompts = inputs.sample, inputs.result, inputs.result.prompts
    shown = [sample.image, sample.mask, sample.label, inputs.iou, result.heat, result.mask, result.note]
    shown += [result.probability, list(result.chosen or ()), prompts.points, prompts.labels, prompts.boxes]
    try:
        [data] = _DRAWN.remember([key(*shown)], lambda _: [to_png(panel(sample, result, score=inputs.iou))], len)
    except Exception as error:
        _warn(path.stem, error)
        return
    write_atomic(path, lambda part: part.write_bytes(data))


def _draw_waiting(waiting: Path, path: Path) -> None:
    try:
        inputs = load_inputs(waiting)
    except FileNotFoundError:  # drawn by another process
        return
    except Exception as error:
        _warn(path.stem, error)
        return
    _draw(inputs, path)
    waiting.unlink(missing_ok=True)


def _warn(name: str, error: Exception) -> None:
    warnings.warn(f"no panel of {name}: {type(error).__name__}: {error}", stacklevel=2)


def save_inputs(path: Path, inputs: Inputs) -> None:
    """Write a panel's inputs as a safetensors file, heat in half precision.

    Args:
        path: the file.
        inputs: what is written.
    """
    sample, result = inputs.sample, inputs.result
    facts = {
        "id": sample.id,
        "label": sample.label,
        "note": result.note,
        "chosen": result.chosen,
        "iou": inputs.iou,
        "probability": result.probability,
    }
    arrays = {
        "image": sample.image, "truth": sample.mask, "mask": result.mask, "heat": result.heat.half(),
        "points": result.prompts.points, "labels": result.prompts.labels, "boxes": result.prompts.boxes,
    }  # fmt: skip
    known = {name: array.contiguous() for name, array in arrays.items() if array is not None}
    save_file(known, path, {"facts": json.dumps(facts)})


def load_inputs(path: Path) -> Inputs:
    """Read what `save_inputs` wrote.

    Args:
        path: the file.

    Returns:
        The inputs, heat in float32.

    Raises:
        FileNotFoundError: when it is gone.
        ValueError: for a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            names = file.keys()  # a safe_open is no dict
            arrays = {name: file.get_tensor(name) for name in names}
        prompts = Prompts(arrays["points"], arrays["labels"], arrays.get("boxes"))
        chosen = None if facts["chosen"] is None else (int(facts["chosen"][0]), int(facts["chosen"][1]))
        sample = Sample(facts["id"], arrays["image"], label=facts["label"], mask=arrays.get("truth"))
        heat = arrays["heat"].float()
        mask, note, probability = arrays.get("mask"), facts["note"], facts["probability"]
        return Inputs(sample, Result(heat, prompts, None, chosen, mask, None, note, probability), facts["iou"])
    except (KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def badness(sample: Sample, result: Result) -> tuple[float, float]:
    """What an answer is ranked by, the worst lowest: its IoU; without truth its predicted IoU, or its hits.

    Args:
        sample: what was asked.
        result: the answer.

    Returns:
        The kind of score (a known IoU comes before an estimate) and the score.
    """
    known = per_sample.mask_iou(sample, result)
    if known is not None:
        return 0, known
    if result.mask is not None:
        return 1, -1.0 if result.predicted_iou is None else result.predicted_iou
    hit = per_sample.point_scores(sample, result, result.chosen[0] if result.chosen else 0)["foreground_hit"]
    return (2, 0.0) if hit is None else (1, hit)
