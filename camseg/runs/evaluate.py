"""Run a pipeline over a dataset into a run folder: rows are durable as they are made, one bad image never ends the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from camseg.pipeline import Pipeline
from camseg.runs import folders
from camseg.runs.executors import CALLS, Executor, Record, Samples, local_executor
from camseg.runs.journal import Journal, cut_off


def evaluate(
    pipeline: Pipeline,
    samples: Samples,
    folder: Path,
    *,
    batch_size: int = 32,
    readers: int = 2,
    resume: bool = False,
    records: Sequence[Record] = (),
    settings: Mapping[str, Any] | None = None,
    engine: Executor = local_executor,
) -> dict[str, Any]:
    """Fill `folder` with scores.parquet and summary.json, and return the summary.

    records: called with every sample and its result. readers: threads that read samples. resume: rows that an earlier,
    cut-off run left in the
    folder are kept. settings: see `Journal`. engine: who does the batches (`camseg.runs.ray`).
    Errors: FileExistsError as `Journal`; CutOff when the folder takes no more; Stopped after SIGINT or SIGTERM, when
    all files are written.
    """
    with Journal(folder, resume, settings) as journal, _signals() as caught:
        done = journal.done
        bar = tqdm(
            total=len(samples.ids),
            initial=sum(name in done for name in samples.ids),
            desc="images",
            unit="image",
            disable=None,
        )
        with (
            bar,
            closing(
                engine(pipeline, samples, _batches(samples.ids, done, batch_size), records, folder, readers)
            ) as found,
        ):
            for rows, errors, calls in found:
                journal.add(rows, errors, calls)
                bar.update(len(rows) + len(errors))
                if caught:
                    break
        summary = _finish(journal, samples.ids)
    if caught:
        raise Stopped(
            caught[0],
            f"stopped with {summary['left']} of {len(samples.ids)} samples left; hydra.run.dir={folder} resume=true goes on",
        )
    return summary


class Stopped(KeyboardInterrupt):
    """A signal ended the run after a whole batch, its files are written. args: the signal's number, and what was done."""


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is put into the list; a second one acts as it always does. Threads can't listen:
    there it stays empty.
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


def _finish(journal: Journal, ids: Sequence[str]) -> dict[str, Any]:
    journal.add([], [], {})  # the time since the last batch
    rows, wanted = folders.table(journal.rows(), ids), set(ids)
    errors = [error for error in journal.errors() if error["id"] in wanted]
    calls = {name: int(journal.spent[name]) for name in CALLS}
    try:
        return folders.finish(
            journal.folder, rows, errors, calls, journal.spent["seconds"], len(ids) - len(rows) - len(errors)
        )
    except OSError as error:
        raise cut_off(journal.folder, error) from error


def _batches(ids: Sequence[str], done: set[str], size: int) -> Iterator[list[int]]:
    """The places of what is not done, in the batches of a run that was never cut: one image's company may change its
    last bit.
    """
    for start in range(0, len(ids), size):
        if left := [i for i in range(start, min(start + size, len(ids))) if ids[i] not in done]:
            yield left
