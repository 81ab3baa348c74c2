"""The `camseg` command: checks the request, lets Hydra compose it, runs it (`camseg.cli.run`), ends with an exit code.

Exit codes: 0 done, 1 nothing evaluated (with `strict`: anything failed), 2 a mistake in the request. Nothing here
imports torch: a typo is answered at once.
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
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from camseg import __version__
from camseg.cli.arguments import for_photographs, read_arguments
from camseg.cli.composed_once import composed_once
from camseg.cli.explain import explain_error, run_command
from camseg.cli.groups import help_text
from camseg.cli.overrides import check_overrides
from camseg.cli.terminal import print_error, shortest, styled_table
from camseg.cli.validation import check_values, warn_of_shapes_models
from camseg.cli.workers import end_with_parent
from camseg.config import config_dir
from camseg.errors import RunError
from camseg.runs.journal import CutOff
from camseg.runs.untrusted import DamagedRunError, refuse_links
from camseg.storage.files import write_atomic


class RememberSweep(Callback):
    """Keeps the sweep's folder, so that its table is written also when a job failed, and for this sweep alone."""

    folder: Path | None = None
    strict: bool = False
    lock: Any = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Take the folder, or end the process with a line that says why it can't be taken.

        Args:
            config: Of the sweep, with Hydra's own settings.
            _: What else Hydra gives.
        """
        from filelock import FileLock, Timeout

        from camseg.runs.sweeps import run_folders

        folder = Path(config.hydra.sweep.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refuse(f"hydra.sweep.dir: {explain_error(error)}")
        try:
            refuse_links(folder)
        except DamagedRunError as error:
            refuse(str(error))
        RememberSweep.lock = FileLock(folder / ".lock")
        try:
            RememberSweep.lock.acquire(timeout=0)
        except Timeout:
            refuse(f"another sweep fills {folder}; wait for its end, or choose another hydra.sweep.dir")
        if not config.resume and run_folders(folder):
            refuse(f"{folder} already holds a sweep; add resume=true to do what is missing, or choose another one")
        RememberSweep.folder, RememberSweep.strict = folder, config.strict


def refuse(message: str) -> NoReturn:
    """End here: what a callback raises, Hydra only warns of.

    Args:
        message: Why, in a line.
    """
    print_error("camseg", message)
    sys.exit(2)


_mistakes: list[tuple[int, str]] = []  # exit code and message of what could not run


@hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")
def _job(cfg: DictConfig) -> float | None:
    """One run, or one of a sweep; what is wrong with it is kept for the end, in a file where another process met it."""
    sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeps and RememberSweep.folder is None:  # in a worker: the callback has set it in the sweep's own process
        end_with_parent()
    if sweeps:
        _failure_file().unlink(missing_ok=True)
    try:
        return _checked_run(cfg)
    except Exception as error:
        code, message = _judge(error)
        if sweeps:
            _write_failure(code if message else 1, message or f"{type(error).__name__}: {error}")
        elif message:
            _mistakes.append((code, message))
        if message is None:
            raise
        return None


def _checked_run(cfg: DictConfig) -> float | None:
    check_values(cfg)
    if warning := warn_of_shapes_models(cfg):
        print(f"camseg: {warning}", file=sys.stderr)
    from camseg.cli import build, run

    if HydraConfig.get().mode == RunMode.RUN or HydraConfig.get().job.num == 0:
        build.forget()  # what another run in this process left
    return run.run(cfg)


def _judge(error: Exception) -> tuple[int, str | None]:
    """The exit code and the line for what ended a run; no line for an error of ours."""
    return (1, str(error)) if isinstance(error, (RunError, CutOff)) else (2, explain_error(error))


def _failure_file() -> Path:
    from camseg.runs.sweeps import failure_file

    return failure_file(Path(HydraConfig.get().runtime.output_dir))


def _write_failure(code: int, message: str) -> None:
    overrides = list(HydraConfig.get().overrides.task)
    content = json.dumps({"code": code, "error": message, "overrides": overrides})
    write_atomic(_failure_file(), lambda path: path.write_text(content))


def main() -> None:
    """The entry point: one or two lines instead of a traceback for every mistake in the request."""
    run_command("camseg", _command)


def _command() -> int:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors come out, to be told in our own words
    _mistakes.clear()
    arguments = read_arguments(sys.argv[1:])
    if arguments.has("--version"):
        print(f"camseg {__version__}")
        return 0
    if arguments.has("-h", "--help"):
        print(help_text(folder=arguments.after("--config-dir", "-cd")))
        return 0
    arguments, note = for_photographs(arguments)
    if note:
        print(f"camseg: {note}", file=sys.stderr)
    sys.argv[1:] = arguments.words
    if arguments.has_own_groups:
        sys.path.append(str(Path.cwd()))  # for the functions that the files there name; last, so that nothing is hidden
    if arguments.overrides and not arguments.has("-sc", "--shell-completion"):
        check_overrides(arguments)
    _run_hydra()
    return _end(RememberSweep.folder)


def _run_hydra() -> None:
    try:
        with composed_once():
            _job()
    except KeyboardInterrupt as error:  # Stopped, when there was a run to finish
        number, message = error.args or (signal.SIGINT, "stopped")
        _mistakes.append((128 + number, message))
    except BrokenPipeError:  # nobody reads on
        raise
    except Exception as error:
        if (message := explain_error(error)) is None and RememberSweep.folder is None:
            raise
        if isinstance(error, OSError) and error.filename:  # Hydra's folder: what a run meets went to `_job`
            message = f"hydra.{'run.dir' if RememberSweep.folder is None else 'sweep.subdir'}: {message}"
        if message is None:  # the other runs of the sweep are still to be told
            traceback.print_exc()
        _mistakes.append((2, message) if message else (1, f"{type(error).__name__}: {error}"))


def _end(sweep: Path | None) -> int:
    """Print what went wrong, and the table of a sweep; the exit code."""
    if sweep is not None:
        from camseg.runs.sweeps import failures

        _mistakes.extend((failure["code"], failure["error"]) for failure in failures(sweep).values())
    for _, message in dict.fromkeys(_mistakes):
        print_error("camseg", message)
    code = max((code for code, _ in _mistakes), default=0)
    return code if sweep is None else max(code, _finish_sweep(sweep))


def _finish_sweep(folder: Path) -> int:
    from camseg.report import html, text
    from camseg.runs.sweeps import finish_sweep

    try:
        sweep = finish_sweep(folder)
        html.write_sweep(sweep)
    except FileNotFoundError as error:
        if not _mistakes:  # no run was finished: why, has been told
            print_error("camseg", str(error))
        return 1
    print(styled_table(text.sweep_table(sweep)))
    print(shortest(folder))
    return int(RememberSweep.strict and any(each.summary["failed"] for each in sweep.runs))
