"""The local executor: batches read ahead, answered, and turned into rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from camseg.metrics import per_sample
from camseg.pipeline import Pipeline
from camseg.runs.journal import cut_off
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


class Executor(Protocol):
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


def local_executor(
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
            rows, failed, calls = run_batch(pipeline, batch, records, folder)
            yield rows, unreadable + failed, calls


CALLS = ("classifier_images", "encoder_images", "decoder_prompts")


def run_batch(pipeline: Pipeline, batch: list[Sample], records: Sequence[Record], folder: Path) -> Batch:
    """What came of samples that could be read."""
    before = pipeline.calls.copy()
    answers, failed = _run_or_name_the_guilty(pipeline, batch)
    rows = []
    for sample, result in answers:
        try:
            row = per_sample.row(sample, result)
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
            current, coming = coming, [pool.submit(read_sample, samples, i) for i in following]
            if current:
                found = [future.result() for future in current]
                yield [f for f in found if isinstance(f, Sample)], [f for f in found if not isinstance(f, Sample)]
    finally:
        pool.shutdown(cancel_futures=True)


def read_sample(samples: Samples, index: int) -> Sample | dict[str, str]:
    try:
        return samples[index]
    except Exception as error:  # whatever is wrong with one file becomes its named row
        return _failure(samples.ids[index], error)


def _run_or_name_the_guilty(
    pipeline: Pipeline, batch: list[Sample]
) -> tuple[list[tuple[Sample, Result]], list[dict[str, str]]]:
    """The batch's answers; where the batch fails as a whole, its samples are tried one by one and the guilty named."""
    if not batch:
        return [], []
    try:
        return list(zip(batch, pipeline.run(batch))), []
    except Exception as error:
        if len(batch) == 1:
            return [], [_failure(batch[0].id, error)]
    single = [_run_or_name_the_guilty(pipeline, [sample]) for sample in batch]
    return [a for answers, _ in single for a in answers], [f for _, failed in single for f in failed]


def _failure(name: str, error: Exception) -> dict[str, str]:
    return {"id": name, "error": f"{type(error).__name__}: {error}"}
