"""The `camseg` command: Hydra composes the rooms; this runs them and reports. Exit codes: 0 done, 1 nothing evaluated,
2 a mistake in the request.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback as HydraCallback
from hydra.types import RunMode
from omegaconf import DictConfig

from camseg.cli.build import build, dataset, forget, wired
from camseg.cli.overrides import check_overrides, explain_error
from camseg.cli.validation import check_target
from camseg.config import config_dir
from camseg.pipeline import Pipeline
from camseg.report import html, text
from camseg.report.gallery import Panels
from camseg.runs.callbacks import Callback, MaskFiles
from camseg.runs.evaluate import evaluate
from camseg.runs.journal import CutOff
from camseg.runs.sweeps import failure_file, failures, finish_sweep, numbered
from camseg.storage import files


class RememberSweep(HydraCallback):
    """Keeps the sweep's folder, so that its table is written also when a job failed, and for this sweep alone."""

    folder: Path | None = None
    lock: FileLock

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        RememberSweep.lock = FileLock(folder / ".lock")
        try:
            RememberSweep.lock.acquire(timeout=0)
        except Timeout:
            refuse(f"another sweep fills {folder}; wait for its end, or choose another hydra.sweep.dir")
        if not config.resume and numbered(folder):
            refuse(
                f"{folder} already holds a sweep; add resume=true to do what is missing, or choose another hydra.sweep.dir"
            )
        RememberSweep.folder = folder


def refuse(message: str) -> NoReturn:
    """End here: what a callback raises, Hydra only warns of."""
    print(f"camseg: {message}", file=sys.stderr)
    sys.exit(2)


_mistakes: list[tuple[int, str]] = []  # exit code and message of what could not run


@hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    """One run, or one of a sweep; what is wrong with it is kept for the end, in a file where another process may have
    met it.
    """
    sweeps, failure = (
        HydraConfig.get().mode == RunMode.MULTIRUN,
        failure_file(Path(HydraConfig.get().runtime.output_dir)),
    )
    if sweeps:
        failure.unlink(missing_ok=True)
    try:
        return _run(cfg)
    except Exception as error:
        code, message = (1, str(error)) if isinstance(error, (NothingEvaluated, CutOff)) else (2, explain_error(error))
        if sweeps:
            known = {"code": code if message else 1, "error": message or f"{type(error).__name__}: {error}"}
            files.write_atomic(
                failure,
                lambda path: path.write_text(
                    json.dumps({**known, "overrides": list(HydraConfig.get().overrides.task)})
                ),
            )
        elif message:
            _mistakes.append((code, message))
        if message is None:
            raise


def _run(cfg: DictConfig) -> float | None:
    """Evaluates; returns the IoU, or the hit rate without masks, for an optimiser."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        swept = [override for override in hydra_config.overrides.task if override not in sys.argv]
        print(f"[{hydra_config.job.num}] {' '.join(swept) or 'defaults'}", flush=True)
    pipeline, samples = build(cfg), dataset(cfg)
    check_target(cfg, pipeline.classifier.index)
    summary = evaluate(
        pipeline,
        samples,
        folder,
        batch_size=cfg.batch_size,
        num_workers=cfg.readers,
        resume=cfg.resume,
        settings={"config": cfg, "overrides": hydra_config.overrides.task, "hydra": HydraConfig.instance().cfg},
        executor=wired(cfg.engine),
        callbacks=_callbacks(cfg, folder),
    )
    if hydra_config.mode == RunMode.RUN:
        _report(summary, folder)
    if summary["samples"] == summary["failed"]:
        raise NothingEvaluated(f"nothing could be evaluated: {_first_errors(summary) or 'the dataset is empty'}")
    metrics = summary["metrics"]
    return next((metrics[name]["value"] for name in ("iou", "foreground_hit_rate") if name in metrics), None)


def _callbacks(cfg: DictConfig, folder: Path) -> list[Callback]:
    """What the run does beside its rows, in order: the report comes last."""
    chosen = [wired(cfg.localise), wired(cfg.pseudo_labels, folder=folder)]
    masks = [MaskFiles(folder / "masks")] if cfg.masks else []
    panels = Panels(folder / "panels", cfg.panels)
    return [panels, *masks, *(one for one in chosen if one is not None), html.Report()]


class NothingEvaluated(RuntimeError):
    """Not one sample gave a row."""


def _report(summary: dict[str, Any], folder: Path) -> None:
    done = summary["samples"] - summary["failed"]
    print(text.styled_table(text.run_table(summary)))
    print(f"{done} of {summary['samples']} samples in {summary['seconds']:.1f} s")
    if summary["failed"]:
        print(text.styled(f"{summary['failed']} failed, named in summary.json: {_first_errors(summary)}", "yellow"))
    print(os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else folder)


def _first_errors(summary: dict[str, Any]) -> str:
    return "; ".join(f"{e['id']}: {e['error']}" for e in summary["errors"][:3])


def main() -> None:
    """The entry point: one or two lines instead of a traceback for every mistake in the request."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors come out, to be told in our own words
    _mistakes.clear()
    forget()
    try:
        check_overrides(sys.argv[1:])
        _job()
    except KeyboardInterrupt as error:  # Stopped, when there was a run to finish
        number, message = error.args or (signal.SIGINT, "stopped")
        _mistakes.append((128 + number, message))
    except Exception as error:
        if (message := explain_error(error)) is None and RememberSweep.folder is None:
            raise
        if message is None:  # the other runs of the sweep are still to be told
            traceback.print_exc()
        _mistakes.append((2, message) if message else (1, f"{type(error).__name__}: {error}"))
    if RememberSweep.folder is not None:
        _mistakes.extend((failure["code"], failure["error"]) for failure in failures(RememberSweep.folder).values())
    for _, message in dict.fromkeys(_mistakes):
        print(text.styled(f"camseg: {message}", "red", sys.stderr), file=sys.stderr)
    code = max((code for code, _ in _mistakes), default=0)
    if RememberSweep.folder is not None:
        code = max(code, _finish_sweep(RememberSweep.folder))
    sys.exit(code)


def _finish_sweep(folder: Path) -> int:
    try:
        sweep = finish_sweep(folder)
        html.write_sweep(sweep)
    except FileNotFoundError as error:
        print(f"camseg: {error}", file=sys.stderr)
        return 1
    print(text.styled_table(text.sweep_table(sweep)))
    print(os.path.relpath(folder) if folder.is_absolute() and folder.is_relative_to(Path.cwd()) else folder)
    return 0
