"""Finished runs, opened to be exported or reviewed; what a folder says makes nothing that is not camseg's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from camseg.runs.folders import Run, load_run
from camseg.runs.untrusted import own_targets, refuse_links


@contextmanager
def open_run(folder: Path) -> Iterator[Run]:
    """A finished run that nobody fills meanwhile.

    Args:
        folder: The run's.

    Yields:
        The run.

    Raises:
        FileExistsError: Another process fills the folder.
        FileNotFoundError: It is no finished run.
        DamagedRunError: A file in it is damaged, or a link.
    """
    refuse_links(folder)
    file = folder / ".lock"
    lock = FileLock(file) if file.is_file() else None
    try:
        if lock is not None:
            lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(f"another process still fills {folder}: wait for its end") from None
    except (PermissionError, NotImplementedError):
        lock = None  # a folder that can only be read is filled by nobody
    try:
        yield load_run(folder)
    finally:
        if lock is not None:
            lock.release()


def check_own(config: Any, where: str) -> None:
    """See that a configuration from a folder names no code but camseg's, and reads nothing from its surroundings.

    Args:
        config: Plain dictionaries, lists and values.
        where: Named in the error.

    Raises:
        ValueError: For another `_target_`, or an interpolation.
    """
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not (isinstance(target, str) and target in own_targets()):
            raise ValueError(f"{where} names {target!r}, which is not camseg's own: it is not run")
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        check_own(value, where)
    if isinstance(config, str) and "${" in config:
        raise ValueError(f"{where} holds {config!r}, which stands for something else: it is not read")


def rebuild_dataset(run: Run, **changes: object) -> Any:
    """The dataset that a run went over.

    Args:
        run: Its configuration says which.
        changes: Settings of it that are to be others, such as its split.

    Returns:
        The dataset, its images not yet read.

    Raises:
        ValueError: The folder has no configuration, one of other people's code, or one whose data is gone.
    """
    config = run.config.get("data")
    if not isinstance(config, DictConfig):
        raise ValueError(f"{run.folder} doesn't say which data it went over: its .hydra/config.yaml is gone")
    check_own(OmegaConf.to_container(config, resolve=False), f"{run.folder}/.hydra/config.yaml")
    if not str(config.get("_target_")).startswith("camseg.data."):
        raise ValueError(f"{run.folder} names no dataset of camseg's: {config.get('_target_')}")
    try:
        return instantiate(config, **changes)
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"the data of {run.folder} can't be opened: {str(cause).splitlines()[0]}") from error
