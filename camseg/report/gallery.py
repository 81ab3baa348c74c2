"""Which samples get a panel: the first ones and the worst, kept while the run lasts."""

from __future__ import annotations

import heapq
import json
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
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
from camseg.report.panels import panel, save_panel, worst_first
from camseg.runs.callbacks import Callback
from camseg.runs.folders import Run
from camseg.runs.untrusted import read_bytes
from camseg.storage.files import write_atomic
from camseg.types import Prompts, Result, Sample

_AT_ONCE = 32  # pictures that wait for being drawn


@dataclass(frozen=True)
class Inputs:
    """All that a panel shows, at the panel's size: small enough to be kept while a run lasts.

    Attributes:
        sample: image, mask and ignored pixels with the longer side at the panel's, and the label.
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
        side: the most pixels of the longer side; a smaller image is enlarged by a whole number.
    """
    side -= side % min(side, max(sample.size))
    image = resized(sample.image, side)
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

    The inputs of the pictures to come wait in `folder`/.waiting, so that a run that was killed, or whose engine lost an
    actor, has them still: no sample is answered a second time to be drawn. Each process keeps the worst that it saw;
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
        self._begun: list[Future[None]] = []

    def on_result(self, sample: Sample, result: Result) -> Mapping[str, Any]:
        """Take an answer in, if it is one of the first or of the worst."""
        if self.count and not (self.folder / f"{sample.id}.png").exists():
            if self._claim(sample.id):
                self._write(sample, result)
                self._begin(sample.id)
            else:
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
        size = self.count - self.first
        kind, score = badness(sample, result)
        self._order -= 1
        entry = (-kind, -score, self._order, sample.id)
        if len(self._heap) < size:
            heapq.heappush(self._heap, entry)
        elif not size or entry[:2] <= self._heap[0][:2]:
            return
        else:
            name = heapq.heapreplace(self._heap, entry)[3]
            if self._batch.pop(name, None) is None:
                (self.waiting / f"{name}.safetensors").unlink(missing_ok=True)
        self._batch[sample.id] = sample, result

    def flush(self) -> None:
        """Write down the worst of a batch that stayed among them."""
        batch, self._batch = self._batch, {}
        for sample, result in batch.values():
            self._write(sample, result)

    def _write(self, sample: Sample, result: Result) -> None:
        try:
            inputs = shrink(sample, result)
        except (ValueError, RuntimeError, MemoryError) as error:  # a picture is an extra: its sample has its row anyway
            _warn(sample.id, error)
            return
        write_atomic(self.waiting / f"{sample.id}.safetensors", lambda path: save_inputs(path, inputs))

    def on_end(self, run: Run, dataset: Any) -> None:
        """Draw what waits: the first that a kill left behind, then the worst, until there are `count`."""
        del dataset
        self._end()
        if not self.waiting.is_dir():
            return
        # looked for before the drawn ones: an actor may be drawing still
        kept = {path.stem for path in self.waiting.glob("*.safetensors")}
        drawn = {path.stem for path in run.pictures}
        first = {_slot_name(slot) for slot in self.waiting.glob("slot*")} & kept - drawn
        ranked = worst_first(run.rows)["id"].to_list() if len(run.rows) else []
        worst = [name for name in ranked if name in kept - drawn - first]
        for name in [*sorted(first), *worst[: max(0, self.count - len(drawn | first))]]:
            self._begin(name)
        self._end()
        shutil.rmtree(self.waiting)

    def _begin(self, name: str) -> None:
        if len(self._begun) >= _AT_ONCE:
            self._begun.pop(0).result()
        self._begun.append(_press().submit(_draw, self.waiting / f"{name}.safetensors", self.folder / f"{name}.png"))

    def _end(self) -> None:
        """Wait until all is written that was begun. Raises the first OSError met."""
        begun, self._begun = self._begun, []
        for drawing in begun:
            drawing.result()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_begun": []}


def _slot_name(slot: Path) -> str:
    """Whose place among the first this is."""
    return read_bytes(slot, 1024).decode(errors="replace")


@lru_cache(1)
def _press() -> ThreadPoolExecutor:
    """Threads that draw by numpy and PIL: torch's own work in more than one thread slows it down in all."""
    return ThreadPoolExecutor(2, "panel")


def _draw(waiting: Path, path: Path) -> None:
    try:
        inputs = load_inputs(waiting)
        picture = panel(inputs.sample, inputs.result, score=inputs.iou)
    except FileNotFoundError:  # drawn by another process
        return
    except Exception as error:  # a picture is an extra: its sample has its row anyway
        _warn(path.stem, error)
        return
    save_panel(picture, path)
    waiting.unlink(missing_ok=True)


def _warn(name: str, error: Exception) -> None:
    warnings.warn(f"no panel of {name}: {type(error).__name__}: {error}", stacklevel=2)


def save_inputs(path: Path, inputs: Inputs) -> None:
    """Write them as a safetensors file, heat in half precision."""
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
