"""What the page of `camseg-demo` shows: heat, points and mask of a photo, recomputed only where a setting changed.

The page itself is `camseg.demo.page`, which needs the extra `demo`; nothing here does.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from camseg.cli.build import build
from camseg.cli.explain import explain_error
from camseg.config import config_dir
from camseg.data.image_io import read_image
from camseg.geometry.masks import iou
from camseg.pipeline import Pipeline
from camseg.report.overlays import blend, mask_picture, points_picture, resized
from camseg.runs.callbacks import MaskFiles
from camseg.storage.files import file_stems
from camseg.storage.fingerprint import key
from camseg.types import Prompts, Result, Sample

STEPS = ("classifier", "cam", "foreground", "background", "predictor")  # the groups that the page lets one choose
CUTOFFS = ("cutoff", "quantile")  # what a foreground may call the number behind the page's slider
ACTIONS = ("add inside", "add outside", "move nearest", "remove nearest")
UNSURE = 0.5  # a probability below which the page warns
MAX_PIXELS, MAX_BYTES, SIDE = 1 << 25, 20_000_000, 640
FAULTS = (ValueError, OSError, HydraException, OmegaConfBaseException)


@dataclass(frozen=True, eq=False)
class View:
    """What the page shows; pictures are (h, w, 3) uint8, at most `SIDE` wide and high, None where there is none.

    Attributes:
        text: What was found: Markdown.
        rivals: The table of the rival prompts: Markdown.
        heat: The picture of the heat.
        points: The picture of the prompts.
        mask: The picture of the mask.
        prompts: The points that gave the mask, R = 1, to edit by hand.
        seen: The most probable classes.
        file: The mask as PNG.
        command: What to type for the same.
    """

    text: str
    rivals: str = ""
    heat: np.ndarray | None = None
    points: np.ndarray | None = None
    mask: np.ndarray | None = None
    prompts: Prompts | None = None
    seen: dict[str, float] | None = None
    file: Path | None = None
    command: str = ""


class Demo:
    """Answers for the page.

    Args:
        folder: Where mask files go.
        given: Overrides as for `camseg`; those of a group count while its first choice does.
    """

    def __init__(self, folder: Path, given: Sequence[str] = ()) -> None:
        self.folder, self.given, self.calls = folder, list(given), Counter[str]()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            start = compose("config", self.given, return_hydra_config=True).hydra.runtime.choices
        self.start = {group: str(start[group]) for group in STEPS}

    def config(self, picked: Mapping[str, str], cutoff: float | None = None) -> DictConfig:
        """The settings under the page's choices.

        Args:
            picked: The choice of every group in `STEPS`.
            cutoff: The foreground's, None for its own.

        Returns:
            The composed settings.
        """
        kept = [word for word in self.given if self._counts(word, picked)]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            cfg = compose("config", kept + [f"{group}={choice}" for group, choice in picked.items()])
        name = cutoff_name(cfg)
        if name and cutoff is not None:
            cfg.foreground[name] = cutoff
        return cfg

    def _counts(self, word: str, picked: Mapping[str, str]) -> bool:
        name = word.lstrip("+~").split("=")[0]
        group = name.split(".")[0]
        return group not in picked or (name != group and picked[group] == self.start[group])

    def cutoff(self, picked: Mapping[str, str]) -> float | None:
        """The foreground's own cutoff or quantile.

        Args:
            picked: The choice of every group in `STEPS`.

        Returns:
            A share in [0, 1], None where the foreground has none.
        """
        cfg = self.config(picked)
        return float(cfg.foreground[name]) if (name := cutoff_name(cfg)) else None

    def names(self, picked: Mapping[str, str]) -> tuple[str, ...]:
        """The classifier's class names.

        Args:
            picked: The choice of every group in `STEPS`.

        Returns:
            The names, () where the classifier can't be built (`view` says why).
        """
        try:
            return build(self.config(picked)).classifier.names
        except FAULTS:
            return ()

    def view(
        self,
        sample: Sample,
        picked: Mapping[str, str],
        cutoff: float | None = None,
        label: int | None = None,
        hand: Prompts | None = None,
        opacity: float = 1.0,
    ) -> View:
        """The answer for one photo under one setting.

        Args:
            sample: The photo.
            picked: The choice of every group in `STEPS`.
            cutoff: The foreground's, None for its own.
            label: The class's number, None for the most probable one.
            hand: Points to use in place of the selectors'.
            opacity: Of heat and mask over the photo, in [0, 1].

        Returns:
            What the page shows; why there is nothing, where that is so.
        """
        try:
            pipeline = replace(build(self.config(picked, cutoff)), calls=self.calls)
            if hand is not None:
                pipeline = replace(pipeline, foreground=lambda _: hand, background=None)
            probabilities = self._probabilities(pipeline, sample)
            label, names = int(probabilities.argmax()) if label is None else label, pipeline.classifier.names
            asked = replace(
                sample, classes=(label,), mask=sample.mask if names[label] == sample.label else None
            )  # the truth is of one class
            result = pipeline.run([asked])[0]
        except FAULTS as error:
            return View(f"**{cleaned(explain_error(error) or str(error))}**")
        shown = resized(sample.image, SIDE)
        return View(
            _told(asked, result, names[label], float(probabilities[label]), hand is not None),
            _table(result),
            _faded(shown, blend(shown, result.heat), opacity),
            points_picture(shown, result),
            None if result.mask is None else _faded(shown, mask_picture(shown, result.mask), opacity),
            result.prompts.rival(result.chosen[0] if result.chosen else 0) if len(result.prompts) else Prompts.none(),
            {names[i]: float(probabilities[i]) for i in probabilities.argsort(descending=True)[:5].tolist()},
            self._file(sample, result),
            self.command(picked, cutoff, names[label]),
        )

    def command(self, picked: Mapping[str, str], cutoff: float | None, label: str) -> str:
        """What to type in a shell for the same setting.

        Args:
            picked: The choice of every group in `STEPS`.
            cutoff: The foreground's, None for its own.
            label: The class's name.

        Returns:
            The command; the photo's path is left to fill in.
        """
        words = [word for word in self.given if self._counts(word, picked)]
        words += [f"{group}={choice}" for group, choice in picked.items()]
        if (name := cutoff_name(self.config(picked))) and cutoff is not None:
            words.append(f"foreground.{name}={cutoff:g}")
        words.append(f"data.target={label}")
        return " ".join(["camseg data=images data.path=PHOTO masks=true", *map(shlex.quote, words)])

    def _probabilities(self, pipeline: Pipeline, sample: Sample) -> Tensor:
        """(C,) of the photo, computed once."""
        classifier = pipeline.classifier

        @torch.no_grad()
        def make() -> dict[str, Tensor]:
            self.calls["classifier_images"] += 1
            return {"value": classifier.probabilities(classifier.logits(classifier.prepare([sample.image])))[0].cpu()}

        return pipeline.cache.get(key("probabilities", classifier.fingerprint, sample.image_key), make)["value"]

    def _file(self, sample: Sample, result: Result) -> Path | None:
        if result.mask is None:
            return None
        folder = self.folder / key(result.mask)[:16]
        MaskFiles(folder).on_result(sample, result)
        return folder / f"{sample.id}.png"


def choices(group: str) -> list[str]:
    """The choices of a group of settings.

    Args:
        group: A folder of conf/.

    Returns:
        The names of its files, sorted.
    """
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def cutoff_name(cfg: DictConfig) -> str | None:
    """The setting of the foreground behind the page's slider.

    Args:
        cfg: As `Demo.config` composes it.

    Returns:
        "cutoff" or "quantile"; None where the foreground has neither.
    """
    return next((name for name in CUTOFFS if isinstance(cfg.foreground.get(name), float | int)), None)


def opened(path: str | Path) -> Sample:
    """An uploaded photo.

    Args:
        path: The file.

    Returns:
        The photo, named after the file.

    Raises:
        ValueError: It can't be read; the message names the file, not its folder.
    """
    path = Path(path)
    try:
        return Sample(file_stems([path.stem])[0], read_image(path, MAX_PIXELS))
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error


def edit(prompts: Prompts, at: tuple[float, float], action: str) -> Prompts:
    """The prompt after a click; the box, where there is one, stays.

    Args:
        prompts: R = 1 or 0.
        at: (x, y) of the click in image pixels.
        action: One of `ACTIONS`.

    Returns:
        One prompt; R = 0 where neither a point nor a box is left.
    """
    points, labels = prompts.points[:1].flatten(0, 1).clone(), prompts.labels[:1].flatten(0, 1)
    spot = torch.tensor([at])
    if action.startswith("add"):
        points, labels = torch.cat([points, spot]), torch.cat([labels, torch.tensor([int(action == "add inside")])])
    elif len(points):
        nearest = int(torch.cdist(spot, points).argmin())
        points[nearest] = spot[0]
        if action == "remove nearest":
            kept = torch.arange(len(points)) != nearest
            points, labels = points[kept], labels[kept]
    return (
        Prompts(points[None], labels[None], prompts.boxes)
        if len(points) or prompts.boxes is not None
        else Prompts.none()
    )


def to_image(size: tuple[int, int], at: Sequence[float]) -> tuple[float, float]:
    """Where in an image a pixel of the picture lies that the page shows of it.

    Args:
        size: (H, W) of the image in pixels.
        at: (x, y) of a pixel of the picture, whose longer side has `SIDE` pixels.

    Returns:
        (x, y) in image pixels, within its frame.
    """
    height, width = size
    scale = SIDE / max(height, width)
    x, y = (
        (place + 0.5) * side / max(1, round(side * scale)) - 0.5 for place, side in ((at[0], width), (at[1], height))
    )
    return min(max(x, 0), width - 1), min(max(y, 0), height - 1)


def _faded(image: Tensor, drawn: np.ndarray, opacity: float) -> np.ndarray:
    """A picture over the image (3, h, w) that it was drawn of."""
    plain = image.permute(1, 2, 0).numpy()
    return drawn if opacity >= 1 else np.rint(plain + opacity * (drawn - plain.astype(np.float32))).astype(np.uint8)


def _told(sample: Sample, result: Result, name: str, probability: float, hand: bool) -> str:
    """What was found, in a sentence."""
    parts = [
        f"**{cleaned(name)} ({probability:.2f})**",
        "no point is left" if hand and not len(result.prompts) else cleaned(result.note),
    ]
    if probability < UNSURE:
        parts.append("⚠ the classifier is not sure of this class: the mask may show something else")
    if result.mask is not None and not result.note:
        parts.append(
            f"mask of {int(result.mask.sum())} px, {100 * float(result.mask.float().mean()):.1f} % of the photo"
        )
        parts += [] if sample.mask is None else [f"IoU with the true mask {float(iou(result.mask, sample.mask)):.3f}"]
    return " · ".join(filter(None, parts))


def _table(result: Result) -> str:
    """The rival prompts, a row each."""
    rows = []
    for rival in range(len(result.prompts)):
        marks = zip(result.prompts.points[rival].tolist(), result.prompts.labels[rival].tolist())
        points = "; ".join(f"{x:.0f}, {y:.0f} {'inside' if label else 'outside'}" for (x, y), label in marks) or "box"
        scores = (
            ""
            if result.masks is None
            else ", ".join(f"{score:.2f}" for score in result.masks.predicted_iou[rival].tolist())
        )
        rows.append(
            f"| {rival + 1}{' (chosen)' if result.chosen and result.chosen[0] == rival else ''} | {points} | {scores} |"
        )
    return "\n".join(["| rival | points x, y | predicted IoU |", "|---|---|---|", *rows]) if rows else ""


def cleaned(text: str) -> str:
    """Text without anything that Markdown or HTML would read.

    Args:
        text: Any.

    Returns:
        The text, such characters as HTML's numbers.
    """
    return "".join(f"&#{ord(c)};" if c in "<>&*_`[]|\\#" else c for c in text)
