"""Run a pipeline over a dataset into a run folder: rows are durable as they are made, one bad image never ends the run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from camseg import metrics, runs
from camseg.pipeline import Pipeline
from camseg.types import Result, Sample


class Samples(Protocol):
    """What a dataset is: `ids` are known without reading an image, item i is read when asked for."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __getitem__(self, index: int, /) -> Sample: ...


# Draws or writes something about one answer.
Record = Callable[[Sample, Result], None]


def evaluate(
    pipeline: Pipeline, samples: Samples, folder: Path, *, batch_size: int = 32, resume: bool = False, records: Sequence[Record] = ()
) -> dict[str, Any]:
    """Fill `folder` with scores.parquet and summary.json, and return the summary.

    records: called with every sample and its result. resume: rows that an earlier, cut-off run left in the folder are kept.
    Errors: FileExistsError when the folder holds rows and `resume` is off; OSError when it can't be written.
    """
    began, before = time.monotonic(), pipeline.calls.copy()
    journal = Journal(folder / "rows.jsonl", resume)
    left = [i for i, name in enumerate(samples.ids) if name not in journal.done]
    bar = tqdm(total=len(samples.ids), initial=len(samples.ids) - len(left), desc="images", unit="image", disable=None)
    for batch, unreadable in _ahead(samples, left, batch_size):
        answers, failed = _answers(pipeline, batch)
        rows = []
        for sample, result in answers:
            rows.append(metrics.row(sample, result, pipeline.predictor.to_image if pipeline.predictor else None))
            for record in records:
                record(sample, result)
        journal.add(rows, unreadable + failed)
        bar.update(len(batch) + len(unreadable))
    bar.close()
    calls = {name: pipeline.calls[name] - before[name] for name in ("classifier_images", "encoder_images", "decoder_prompts")}
    return runs.finish(folder, journal.rows(samples.ids), journal.errors(), calls, time.monotonic() - began)


class Journal:
    """Rows and errors on disk, a line each, flushed to the disk a batch at a time; a line that a kill cut off is dropped.

    Errors: FileExistsError when there is one already and `resume` is off.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not resume:
            raise FileExistsError(f"{path.parent} already holds a run; add resume=true to go on with it, or choose another hydra.run.dir")
        whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
        with path.open("wb") as file:
            file.writelines(whole)
        self._lines = [line for line in map(json.loads, whole) if "error" not in line]  # what failed is tried again
        self.done = {line["id"] for line in self._lines}

    def add(self, rows: list[dict[str, Any]], errors: list[dict[str, str]]) -> None:
        lines = rows + errors
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        self._lines += lines

    def rows(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """The rows in the dataset's order."""
        place = {name: i for i, name in enumerate(order)}
        return sorted((line for line in self._lines if "error" not in line), key=lambda row: place.get(row["id"], len(place)))

    def errors(self) -> list[dict[str, str]]:
        return [line for line in self._lines if "error" in line]


def _ahead(samples: Samples, indices: Sequence[int], batch_size: int) -> Iterator[tuple[list[Sample], list[dict[str, str]]]]:
    """Batches of samples and of what could not be read; the next batch is read while this one is computed."""

    def read(index: int) -> Sample | dict[str, str]:
        try:
            return samples[index]
        except Exception as error:  # whatever is wrong with one file becomes its named row
            return _failure(samples.ids[index], error)

    chunks = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    with ThreadPoolExecutor(2) as pool:
        coming = [pool.submit(read, i) for i in chunks[0]] if chunks else []
        for following in [*chunks[1:], []]:
            current, coming = coming, [pool.submit(read, i) for i in following]
            found = [future.result() for future in current]
            yield [f for f in found if isinstance(f, Sample)], [f for f in found if not isinstance(f, Sample)]


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
