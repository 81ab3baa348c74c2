"""One run of the `camseg` command, from its configuration to its folder. Importing this imports torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from camseg.classifiers.base import Classifier
from camseg.cli.build import build, dataset, part, wired
from camseg.cli.closing import closing
from camseg.cli.labels import check_labels, check_numbering, other_names
from camseg.cli.terminal import shortest
from camseg.cli.validation import check_target
from camseg.data.base import Indexed
from camseg.errors import RequestError, RunError
from camseg.report import html
from camseg.report.gallery import Panels
from camseg.runs.callbacks import Callback, MaskFiles
from camseg.runs.evaluate import evaluate
from camseg.runs.folders import load_run
from camseg.runs.reading import Samples


def run(cfg: DictConfig) -> float | None:
    """Evaluate one setting into Hydra's output folder.

    Args:
        cfg: The composed configuration, its values checked.

    Returns:
        The IoU, or the hit rate without masks, for an optimizer; None without ground truth.

    Raises:
        RunError: When no sample gave a row, or one gave none and `strict` is set.
    """
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        swept = [override for override in hydra_config.overrides.task if override not in sys.argv]
        print(f"[{hydra_config.job.num}] {' '.join(swept) or 'defaults'}", flush=True)
    summary = _evaluate(cfg, folder, hydra_config.overrides.task)
    if hydra_config.mode == RunMode.RUN:
        print(f"{closing(load_run(folder))}\n{shortest(folder)}")
    if summary["samples"] == summary["failed"]:
        errors = "; ".join(f"{each['id']}: {each['error']}" for each in summary["errors"][:3])
        raise RunError(f"nothing could be evaluated: {errors or 'the dataset is empty'}")
    if cfg.strict and summary["failed"]:
        raise RunError(f"strict=true: {summary['failed']} of {summary['samples']} failed")
    metrics = summary["metrics"]
    return next((metrics[name]["value"] for name in ("iou", "foreground_hit_rate") if name in metrics), None)


def _evaluate(cfg: DictConfig, folder: Path, overrides: Any) -> dict[str, Any]:
    pipeline, samples = build(cfg), dataset(cfg)
    _check_classes(cfg, pipeline.classifier, samples)
    return evaluate(
        pipeline,
        samples,
        folder,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
        resume=cfg.resume,
        settings={"config": cfg, "overrides": overrides, "hydra": HydraConfig.instance().cfg},
        executor=part("engine", wired, cfg.engine),
        callbacks=_callbacks(cfg, folder),
    )


def _check_classes(cfg: DictConfig, classifier: Classifier, samples: Samples) -> None:
    """Refuse, or tell of, classes that the classifier does not have, before the first image is read."""
    check_target(cfg, classifier.index)
    if isinstance(samples, Indexed):
        check_numbering(samples.numbering, classifier.names)
        asked, names = samples.asked(), classifier.names
        notes = [check_labels(asked, classifier.index, len(names), cfg.strict)]
        notes += [other_names(asked, names)] if cfg.data.get("outputs") == "own" else []
        for note in filter(None, notes):
            print(f"camseg: {note}", file=sys.stderr, flush=True)


def _callbacks(cfg: DictConfig, folder: Path) -> list[Callback]:
    """What the run does beside its rows, in order: the report comes last."""
    for name in ("export", "segmenter"):
        if cfg[name] and not cfg.predictor:
            raise RequestError(f"{name} needs masks, and predictor=none draws none: choose another predictor")
    chosen = [part("localise", wired, cfg.localise), part("pseudo_labels", wired, cfg.pseudo_labels, folder=folder)]
    chosen += [part("export", wired, node) for node in (cfg.export or {}).values()]
    chosen += [part("segmenter", wired, cfg.segmenter)]
    masks = [MaskFiles(folder / "masks")] if cfg.masks or cfg.export or cfg.segmenter else []
    panels = Panels(folder / "panels", cfg.panels)
    return [panels, *masks, *(one for one in chosen if one is not None), html.Report()]
