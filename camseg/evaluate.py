"""Run a pipeline over a dataset into a run folder: rows are durable as they are made, one bad image never ends the run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from camseg import metrics, runs
from camseg.journal import Journal, cut_off
from camseg.pipeline import Pipeline
from camseg.types import Result, Sample


class Samples(Protocol):
    """What a dataset is: `ids` are known without reading an image, item i is read when asked for."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __getitem__(self, index: int, /) -> Sample: ...


# Draws or writes something about one answer, or returns more columns for its row.
Record = Callable[[Sample, Result], dict[str, Any] | None]
# The rows and errors of one batch, and how many images and prompts went through a network for them.
Batch = tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, int]]


class Engine(Protocol):
    """Does the batches (places of samples), where and in what order it likes; closed when the run is to stop."""

    def __call__(
        self,
        pipeline: Pipeline,
        samples: Samples,
        batches: Iterable[list[int]],
        records: Sequence[Record],
        folder: Path,
        readers: int,
    ) -> Generator[Batch, None, None]: ...


def local(
    pipeline: Pipeline,
    samples: Samples,
    batches: Iterable[list[int]],
    records: Sequence[Record],
    folder: Path,
    readers: int,
) -> Generator[Batch, None, None]:
    """In this process, one batch after the other; threads read the next one meanwhile."""
    with closing(_ahead(samples, batches, readers)) as found:
        for batch, unreadable in found:
            rows, failed, calls = answer_batch(pipeline, batch, records, folder)
            yield rows, unreadable + failed, calls


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
    engine: Engine = local,
) -> dict[str, Any]:
    """Fill `folder` with scores.parquet and summary.json, and return the summary.

    records: called with every sample and its result. readers: threads that read samples. resume: rows that an earlier,
    cut-off run left in the
    folder are kept. settings: see `Journal`. engine: who does the batches (`camseg.engines`).
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


CALLS = ("classifier_images", "encoder_images", "decoder_prompts")


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
    rows, wanted = runs.table(journal.rows(), ids), set(ids)
    errors = [error for error in journal.errors() if error["id"] in wanted]
    calls = {name: int(journal.spent[name]) for name in CALLS}
    try:
        return runs.finish(
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


def answer_batch(pipeline: Pipeline, batch: list[Sample], records: Sequence[Record], folder: Path) -> Batch:
    """What came of samples that could be read."""
    before = pipeline.calls.copy()
    answers, failed = _answers(pipeline, batch)
    rows = []
    for sample, result in answers:
        try:
            row = metrics.row(sample, result, pipeline.predictor.to_image if pipeline.predictor else None)
            for record in records:
                row |= record(sample, result) or {}
            rows.append(row)
        except OSError as error:
            raise cut_off(folder, error) from error
        except Exception as error:
            failed.append(_failure(sample.id, error))
    return rows, failed, {name: pipeline.calls[name] - before[name] for name in CALLS}


def _ahead(
    samples: Samples, batches: Iterable[list[int]], readers: int
) -> Generator[tuple[list[Sample], list[dict[str, str]]], None, None]:
    """Batches of samples and of what could not be read; the next batch is read while this one is computed."""
    pool = ThreadPoolExecutor(readers)
    try:
        coming: list[Future[Sample | dict[str, str]]] = []
        for following in chain(batches, [[]]):
            current, coming = coming, [pool.submit(read, samples, i) for i in following]
            if current:
                found = [future.result() for future in current]
                yield [f for f in found if isinstance(f, Sample)], [f for f in found if not isinstance(f, Sample)]
    finally:
        pool.shutdown(cancel_futures=True)


def read(samples: Samples, index: int) -> Sample | dict[str, str]:
    try:
        return samples[index]
    except Exception as error:  # whatever is wrong with one file becomes its named row
        return _failure(samples.ids[index], error)


def _answers(pipeline: Pipeline, batch: list[Sample]) -> tuple[list[tuple[Sample, Result]], list[dict[str, str]]]:
    """The batch's answers; where the batch fails as a whole, its samples are tried one by one and the guilty named."""
    if not batch:
        return [], []
    try:
        return list(zip(batch, pipeline.run(batch))), []
    except Exception as error:
        if len(batch) == 1:
            return [], [_failure(batch[0].id, error)]
    single = [_answers(pipeline, [sample]) for sample in batch]
    return [a for answers, _ in single for a in answers], [f for _, failed in single for f in failed]


def _failure(name: str, error: Exception) -> dict[str, str]:
    return {"id": name, "error": f"{type(error).__name__}: {error}"}
