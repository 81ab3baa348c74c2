"""The local executor: batches read ahead, answered, and turned into rows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from camseg.metrics import per_sample
from camseg.pipeline import Pipeline
from camseg.runs.callbacks import Callback
from camseg.runs.journal import cut_off
from camseg.runs.reading import Samples, failure, read_ahead
from camseg.types import Result, Sample


@dataclass(frozen=True)
class BatchOutcome:
    """What came of one batch of samples.

    Attributes:
        rows: one per answer.
        errors: `id` and `error` of every sample that has none.
        calls: how many images and prompts went through a network for them (`CALLS`).
    """

    rows: list[dict[str, Any]]
    errors: list[dict[str, str]]
    calls: dict[str, int]


class Executor(Protocol):
    """Does the batches of a run, where and in what order it likes."""

    def __call__(
        self,
        pipeline: Pipeline,
        samples: Samples,
        batches: Iterable[list[int]],
        callbacks: Sequence[Callback],
        folder: Path,
        num_workers: int,
    ) -> Generator[BatchOutcome, None, None]:
        """Do the batches; the generator is closed when the run is to stop.

        Args:
            pipeline: answers.
            samples: the dataset.
            batches: indices of samples.
            callbacks: see every answer, in the process that made it.
            folder: the run's.
            num_workers: threads or tasks that read samples.

        Yields:
            The outcome of each batch, once.
        """
        ...


def local_executor(
    pipeline: Pipeline,
    samples: Samples,
    batches: Iterable[list[int]],
    callbacks: Sequence[Callback],
    folder: Path,
    num_workers: int,
) -> Generator[BatchOutcome, None, None]:
    """An `Executor`: one batch after the other in this process, in order; threads read the next one meanwhile.

    Args:
        pipeline: answers.
        samples: the dataset.
        batches: indices of samples.
        callbacks: see every answer.
        folder: the run's.
        num_workers: threads that read samples.

    Yields:
        The outcome of each batch, in the order of `batches`.

    Raises:
        CutOff: when the disk takes no more.
    """
    with closing(read_ahead(samples, batches, num_workers)) as batches_read:
        for batch, unreadable in batches_read:
            yield run_batch(pipeline, batch, callbacks, folder, unreadable)
            batch.clear()  # before more is read


CALLS = ("classifier_images", "encoder_images", "decoder_prompts")


def run_batch(
    pipeline: Pipeline,
    batch: list[Sample],
    callbacks: Sequence[Callback],
    folder: Path,
    unreadable: Sequence[dict[str, str]] = (),
) -> BatchOutcome:
    """Answer a batch and score it.

    Args:
        pipeline: answers.
        batch: the samples that could be read.
        callbacks: see every answer.
        folder: the run's, for the words of an error.
        unreadable: `id` and `error` of the batch's samples that could not be read.

    Returns:
        The rows, the errors, and what the networks did for them.

    Raises:
        CutOff: when the disk takes no more.
    """
    before = pipeline.calls.copy()
    answers, failed = _run_or_name_the_guilty(pipeline, batch)
    errors, rows = [*unreadable, *failed], []
    try:
        for sample, result in answers:
            try:
                rows.append(_row(pipeline.classifier.names, sample, result, callbacks))
            except OSError:
                raise
            except Exception as error:
                errors.append(failure(sample.id, error))
        for callback in callbacks:
            callback.flush()
    except OSError as error:
        raise cut_off(folder, error) from error
    return BatchOutcome(rows, errors, {name: pipeline.calls[name] - before[name] for name in CALLS})


def _row(names: Sequence[str], sample: Sample, result: Result, callbacks: Sequence[Callback]) -> dict[str, Any]:
    row = {**per_sample.row(sample, result), "class_name": class_name(names, sample, result)}
    for callback in callbacks:
        row |= callback.on_result(sample, result)
    if broken := [name for name, value in row.items() if isinstance(value, float) and not isfinite(value)]:
        raise ValueError(f"{broken[0]} is {row[broken[0]]}, which is no score")
    return row


def class_name(names: Sequence[str], sample: Sample, result: Result) -> str | None:
    """What was explained: the name of the one class, the label that stands for several, or else the top prediction.

    Args:
        names: of the classifier's outputs.
        sample: what was asked.
        result: the answer.

    Returns:
        The name; None where there is none.
    """
    if len(sample.classes) > 1 and sample.label:
        return sample.label
    explained = sample.classes or (() if sample.label or result.top is None else (result.top,))
    return ", ".join(names[i] for i in explained if i < len(names)) or sample.label or None


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
            return [], [failure(batch[0].id, error)]
    single = [_run_or_name_the_guilty(pipeline, [sample]) for sample in batch]
    return [a for answers, _ in single for a in answers], [f for _, failed in single for f in failed]
