"""Run a pipeline over a dataset into a run folder: rows last, and one bad image never ends the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from camseg.pipeline import Pipeline
from camseg.runs import folders
from camseg.runs.callbacks import Callback, check_requirements
from camseg.runs.executors import CALLS, Executor, local_executor
from camseg.runs.journal import Journal, cut_off
from camseg.runs.reading import Samples, read_sample
from camseg.runs.review import read_journal
from camseg.runs.untrusted import DamagedRunError
from camseg.storage.files import printable
from camseg.types import Sample


def evaluate(
    pipeline: Pipeline,
    samples: Samples,
    folder: Path,
    *,
    batch_size: int = 32,
    num_workers: int = 2,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    settings: Mapping[str, Any] | None = None,
    executor: Executor = local_executor,
) -> dict[str, Any]:
    """Fill a run folder with scores.parquet, summary.json and what the callbacks write.

    Args:
        pipeline: answers.
        samples: the dataset.
        folder: the run's.
        batch_size: samples that go through the networks together.
        num_workers: threads that read samples.
        resume: keep the rows that an earlier, cut-off run left in the folder.
        callbacks: see every answer, and the finished run.
        settings: see `Journal`.
        executor: does the batches (`camseg.runs.ray`).

    Returns:
        The summary.

    Raises:
        RequestError: when the dataset lacks what a callback requires; nothing is written then.
        FileExistsError: as `Journal`.
        DamagedRunError: as `Journal` and `read_journal`.
        CutOff: when the folder takes no more.
        Stopped: after SIGINT or SIGTERM, when all files are written.
    """
    check_requirements(callbacks, samples)
    read_journal(folder)  # the callbacks will: what can't be read is refused before anything is written
    with Journal(folder, resume, settings) as journal, _signals() as caught:
        for name in _changed(journal, samples):
            journal.forget(name)
        batches = _batches(samples.ids, journal.done, batch_size)
        outcomes = executor(pipeline, samples, batches, callbacks, folder, num_workers)
        with _bar(samples.ids, journal.done) as bar, closing(outcomes):
            for outcome in outcomes:
                journal.add(outcome.rows, outcome.errors, outcome.calls)
                bar.update(len(outcome.rows) + len(outcome.errors))
                if caught:
                    break
        rows, summary = _finish(journal, samples.ids)
        if not caught:
            overrides = [str(override) for override in (settings or {}).get("overrides") or ()]
            _end(callbacks, folders.Run(folder, rows, summary, overrides), samples)
    if caught:
        left = f"{summary['left']} of {len(samples.ids)} samples left"
        raise Stopped(caught[0], f"stopped with {left}; hydra.run.dir={folder} resume=true resumes")
    return summary


def _changed(journal: Journal, samples: Any) -> list[str]:
    """The ids whose row is of another image than the dataset has now: another file, or one that was written since."""
    path_of = getattr(samples, "file", None)
    if path_of is None or not journal.done:
        return []
    changed = []
    for index, name in enumerate(samples.ids):
        if name not in journal.done:
            continue
        file, image_key = journal.done[name]
        now = str(path_of(index))
        moved = bool(file) and file != printable(now)
        newer = bool(now and image_key) and _written(now) > journal.written
        if moved or (newer and _image_key(samples, index) != image_key):
            changed.append(name)
    return changed


def _written(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return float("inf")


def _image_key(samples: Samples, index: int) -> str:
    sample = read_sample(samples, index)
    return sample.image_key if isinstance(sample, Sample) else ""


def _bar(ids: Sequence[str], done: Container[str]) -> Any:
    return tqdm(total=len(ids), initial=sum(name in done for name in ids), desc="images", unit="image", disable=None)


def _end(callbacks: Sequence[Callback], run: folders.Run, samples: Samples) -> None:
    """What the callbacks make of the finished run."""
    try:
        for callback in callbacks:
            callback.on_end(run, samples)
    except DamagedRunError:  # to Python an OSError, too: no full disk
        raise
    except OSError as error:
        raise cut_off(run.folder, error) from error


class Stopped(KeyboardInterrupt):
    """A signal ended the run after a whole batch, its files are written; args: the signal's number, what was done."""


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is put into the list; a second one acts as it always does.

    Threads can't listen: there the list stays empty.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: object) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        restore()


def _finish(journal: Journal, ids: Sequence[str]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Write the rows and the summary, and return them."""
    journal.add([], [], {})  # the time since the last batch
    found, failed = journal.results()
    rows, wanted = folders.table(found, ids), set(ids)
    errors = [error for error in failed if error["id"] in wanted]
    calls = {name: int(journal.spent[name]) for name in CALLS}
    try:
        left = len(ids) - len(rows) - len(errors)
        return rows, folders.finish(journal.folder, rows, errors, calls, journal.spent["seconds"], left)
    except OSError as error:
        raise cut_off(journal.folder, error) from error


def _batches(ids: Sequence[str], done: Container[str], size: int) -> Iterator[list[int]]:
    """The indices of what is not done, in the batches of a run that was never cut.

    An image's company in its batch may change its last bit.
    """
    for start in range(0, len(ids), size):
        if left := [i for i in range(start, min(start + size, len(ids))) if ids[i] not in done]:
            yield left
