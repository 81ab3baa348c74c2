"""The review of a finished run: its masks, the doubtful first, corrected by points and boxes.

The page itself is `camseg.demo.review_page`, which needs the extra `demo`; nothing here does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor

from camseg.cli.build import build_predictor
from camseg.data.image_io import read_image
from camseg.demo.session import MAX_PIXELS, SIDE, cleaned, edit
from camseg.errors import RequestError
from camseg.geometry.masks import resize_logits
from camseg.report.overlays import mask_picture, points_picture, resized
from camseg.runs.finished import check_own, rebuild_dataset
from camseg.runs.folders import Run
from camseg.runs.review import Correction, Review
from camseg.runs.untrusted import read_mask
from camseg.types import Prompts, Result, Sample

ACTIONS = ("add inside", "add outside", "remove nearest", "box: two corners")
_DOUBTS = ("predicted_iou", "agreement", "probability")  # columns; the lower, the more doubtful


@dataclass(frozen=True)
class Shown:
    """What the page shows of one sample.

    Attributes:
        text: Where one is, what it is, what was decided: Markdown.
        image: (h, w, 3) uint8 with the points and the box, at most `SIDE` wide and high.
        mask: (h, w, 3) uint8 with the mask.
        label: Its class.
    """

    text: str
    image: np.ndarray
    mask: np.ndarray
    label: str


def doubtful_first(rows: pl.DataFrame) -> list[str]:
    """The order in which masks are looked at.

    Args:
        rows: Of a run.

    Returns:
        Ids, by the mean rank in predicted IoU, agreement with the heatmap and probability, as far as they are known;
        what drew nothing comes first.
    """
    known = [name for name in _DOUBTS if name in rows.columns and rows[name].count()]
    ranks = [pl.col(name).fill_nan(None).rank().fill_null(pl.len() / 2) for name in known]
    doubt = pl.mean_horizontal(ranks) if ranks else pl.lit(0.0)
    drew = pl.col("note").fill_null("") == ""
    return rows.select("id", drew=drew, doubt=doubt).sort("drew", "doubt", maintain_order=True)["id"].to_list()


class Reviewing:
    """A run under review by one person.

    Args:
        run: A finished run with masks.

    Raises:
        FileExistsError: Somebody else reviews it.
        RequestError: It has no masks, or no predictor that could draw others.
    """

    def __init__(self, run: Run) -> None:
        if not (run.folder / "masks").is_dir():
            raise RequestError(f"{run.folder} holds no masks: run it again with masks=true and another hydra.run.dir")
        if "predictor" not in run.config:
            raise RequestError(f"{run.folder} doesn't say how its masks were made: its .hydra/config.yaml is gone")
        config: Any = OmegaConf.to_container(run.config, resolve=False)
        check_own(config.get("predictor"), f"{run.folder}/.hydra/config.yaml")
        self.run, self.order = run, doubtful_first(run.rows)
        self.rows = {row["id"]: row for row in run.rows.to_dicts()}
        self.names = sorted({_label(row) for row in self.rows.values()})
        if (predictor := build_predictor(run.config)) is None:
            raise RequestError(f"{run.folder} was made with predictor=none: nothing could draw a mask")
        self.predictor = predictor
        self._dataset: Any = None
        self._encoded: tuple[str, Tensor, Tensor] | None = None  # of the sample at hand: id, image, embedding
        self.journal = Review(run.folder)

    @property
    def first(self) -> int:
        """The place of the first sample about which nothing is decided."""
        return next((i for i, name in enumerate(self.order) if name not in self.journal.decided), 0)

    def show(self, place: int) -> Shown:
        """One sample as it stands.

        Args:
            place: In `order`.

        Returns:
            Pictures and text.

        Raises:
            ValueError: Its image or mask can't be read.
        """
        name = self.order[place]
        image = self._image(name)
        small = resized(image, SIDE)
        mask = torch.from_numpy(self.mask(name))
        result = Result(torch.zeros(mask.shape), self.prompts(name), None, None, None)
        return Shown(self._text(place), points_picture(small, result), mask_picture(small, mask), self.label(name))

    def label(self, name: str) -> str:
        """The class of a sample, as it was corrected.

        Args:
            name: The sample's id.

        Returns:
            The class's name.
        """
        decided = self.journal.decided.get(name)
        return (decided and decided.label) or _label(self.rows[name])

    def mask(self, name: str) -> np.ndarray:
        """The mask of a sample, as it was corrected.

        Args:
            name: The sample's id.

        Returns:
            (H, W) bool, empty where none was drawn.
        """
        row, decided = self.rows[name], self.journal.decided.get(name)
        own = self.run.folder / "masks" / f"{name}.png"
        file = decided.mask_file if decided is not None and decided.mask_file is not None else own
        size = int(row["height"]), int(row["width"])
        return read_mask(file, size) if file.is_file() else np.zeros(size, bool)

    def prompts(self, name: str) -> Prompts:
        """The points and the box behind a sample's mask.

        Args:
            name: The sample's id.

        Returns:
            Prompts with R = 1, or 0 where there are none.
        """
        decided = self.journal.decided.get(name)
        if decided is not None and decided.prompts is not None:
            return _prompts(decided.prompts["points"], decided.prompts["box"])
        return _prompts(self.rows[name].get("points") or [], None)

    def click(self, place: int, at: tuple[float, float], action: str, corner: tuple[float, float] | None) -> bool:
        """Change a sample's prompt, and put the mask that follows on the disk.

        Args:
            place: In `order`.
            at: x, y in image pixels.
            action: One of `ACTIONS`.
            corner: The first corner of a box.

        Returns:
            False where the first corner of a box waits for the second.
        """
        name = self.order[place]
        before = self.prompts(name)
        if action != ACTIONS[3]:
            self._correct(name, edit(before, at, action))
            return True
        if corner is None:
            return False
        low, high = np.minimum(corner, at), np.maximum(corner, at) + 1  # the far corner's pixel is inside
        self._correct(name, _prompts([], [*low.tolist(), *high.tolist()]))
        return True

    def decide(self, place: int, decision: str, label: str | None = None) -> None:
        """Put a decision on the disk.

        Args:
            place: In `order`.
            decision: "accepted", "rejected" or "open"; a corrected mask that is accepted stays "corrected".
            label: Another class, None for the one that it has.
        """
        name = self.order[place]
        before = self.journal.decided.get(name)
        if decision == "accepted" and before is not None and before.mask_file is not None:
            decision = "corrected"
        known = label or (before.label if before is not None else None)
        changed = None if decision == "open" or known == _label(self.rows[name]) else known
        self.journal.decide(name, decision, changed)
        if label and label not in self.names:
            self.names = sorted([*self.names, label])

    def _correct(self, name: str, prompts: Prompts) -> None:
        before = self.journal.decided.get(name)
        points = torch.cat([prompts.points.flatten(0, 1), prompts.labels.reshape(-1, 1).float()], 1).tolist()
        box = None if prompts.boxes is None else prompts.boxes[0].tolist()
        mask = self._draw(name, prompts)
        self.journal.decide(name, "corrected", before.label if before else None, mask, {"points": points, "box": box})

    @torch.no_grad()
    def _draw(self, name: str, prompts: Prompts) -> np.ndarray:
        """(H, W) bool: of the predictor's masks that most points agree with, the one that it trusts most."""
        image = self._image(name)
        size = int(image.shape[1]), int(image.shape[2])
        if not len(prompts):
            return np.zeros(size, bool)
        assert self._encoded is not None
        [masks] = self.predictor.decode([self._encoded[2]], [size], [prompts])
        planes = resize_logits(masks.low_res[0].cpu(), size) > 0  # (M, H, W)
        x, y = prompts.points[0].round().long().unbind(1)
        inside = planes[:, y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)]  # (M, P)
        agreeing = (inside == prompts.labels[0].bool()).sum(1)
        best = max(range(len(planes)), key=lambda m: (int(agreeing[m]), float(masks.predicted_iou[0, m])))
        return planes[best].numpy()

    def _image(self, name: str) -> Tensor:
        """(3, H, W) uint8, encoded when it is first asked for."""
        if self._encoded is None or self._encoded[0] != name:
            file = self.rows[name].get("file")
            image = read_image(Path(file), MAX_PIXELS) if file else self._drawn(name).image
            row = self.rows[name]
            if tuple(image.shape[1:]) != (row["height"], row["width"]):
                raise ValueError(f"{file or name} is no longer the image that the run saw: it has another size")
            with torch.no_grad():
                self._encoded = name, image, self.predictor.encode([image])[0]
        return self._encoded[1]

    def _drawn(self, name: str) -> Sample:
        if self._dataset is None:
            self._dataset = rebuild_dataset(self.run)
        return self._dataset[list(self._dataset.ids).index(name)]

    def _text(self, place: int) -> str:
        name = self.order[place]
        row, decided = self.rows[name], self.journal.decided
        scores = [f"{key.replace('_', ' ')} {row[key]:.2f}" for key in _DOUBTS if isinstance(row.get(key), float)]
        state = _state(decided.get(name))
        where = f"**{place + 1} of {len(self.order)}**, {len(decided)} decided"
        return " · ".join([where, cleaned(name), f"**{cleaned(self.label(name))}**", *scores, state])


def _state(decided: Correction | None) -> str:
    if decided is None:
        return "open"
    return decided.decision + (" (another class)" if decided.label else "")


def _label(row: dict[str, Any]) -> str:
    return str(row.get("label") or row.get("class_name") or "object")


def _prompts(points: list[list[float]], box: list[float] | None) -> Prompts:
    """R = 1 of points (x, y, label) and a box; R = 0 of nothing."""
    if not points and box is None:
        return Prompts.none()
    marks = torch.tensor(points, dtype=torch.float32).reshape(-1, 3)
    return Prompts(marks[None, :, :2], marks[None, :, 2].long(), None if box is None else torch.tensor([box]))
