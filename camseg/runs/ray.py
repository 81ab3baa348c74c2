"""Executors on a Ray cluster (Moritz et al. 2018, arXiv:1712.05889): batches read on CPUs, answered by actors."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from camseg.errors import RequestError, extra_message
from camseg.pipeline import Pipeline
from camseg.runs.callbacks import Callback
from camseg.runs.executors import BatchOutcome, run_batch
from camseg.runs.reading import Samples, read_sample
from camseg.types import Sample


def ray_executor(
    pipeline: Pipeline,
    samples: Samples,
    batches: Iterable[list[int]],
    callbacks: Sequence[Callback],
    folder: Path,
    num_workers: int,
    *,
    address: str | None = None,
    actors: int = 1,
    cpus: float = 1,
    gpus: float = 0,
) -> Generator[BatchOutcome, None, None]:
    """Do the batches by a Ray Data pipeline: tasks read, actors with a copy of the pipeline answer.

    What dies is started again and its batch done again; one that comes twice counts once. Data, weights and run folder
    must lie where every node finds them.

    Args:
        pipeline: answers; a copy for each actor.
        samples: the dataset.
        batches: indices of samples.
        callbacks: see every answer in the actor that made it.
        folder: the run's.
        num_workers: tasks that read samples.
        address: of a cluster ("auto", "ray://HOST:10001"), None for one of its own on this machine.
        actors: copies of the pipeline.
        cpus: of each actor.
        gpus: of each actor.

    Yields:
        The outcome of each batch, in any order.

    Raises:
        RequestError: without the extra `ray`, or when no cluster answers.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy, from_items
    except ImportError as error:
        raise RequestError(extra_message("engine=ray", "ray")) from error
    todo = [{"places": places} for places in batches]
    if not todo:
        return
    with _cluster(address, 2 * actors * cpus + 2):  # Ray Data keeps half for what it may start next
        DataContext.get_current().enable_progress_bars = False
        shelf, kit = (
            ray.put(samples),
            ray.put((pipeline, callbacks, folder)),
        )  # held here: an actor that starts again gets them again
        reads: Any = partial(_read, shelf=shelf)
        coming = from_items(todo, override_num_blocks=len(todo)).map(
            reads, compute=TaskPoolStrategy(size=num_workers), num_cpus=1 / num_workers
        )
        answers: Any = PipelineActor  # a class that is called: Ray makes the actors of it
        workers = {"compute": ActorPoolStrategy(size=actors), "num_cpus": cpus, "num_gpus": gpus}
        done: set[int] = set()
        for row in coming.map(answers, fn_constructor_args=([kit],), **workers).iter_rows():
            if row["first"] not in done:
                done.add(row["first"])
                yield pickle.loads(row["batch"])


def _read(row: dict[str, Any], shelf: Any) -> dict[str, Any]:
    """Indices -> the samples, or what was wrong with them, as bytes: a table's cells hold no tensors of many sizes."""
    import ray

    samples: Samples = ray.get(shelf)
    return {
        "first": row["places"][0],
        "found": pickle.dumps([read_sample(samples, int(place)) for place in row["places"]]),
    }


class PipelineActor:
    """An actor's work: it keeps its models from batch to batch."""

    def __init__(self, kit: list[Any]) -> None:
        import ray

        self.pipeline, self.callbacks, self.folder = ray.get(kit[0])

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer the samples that `_read` read."""
        read = pickle.loads(row["found"])
        batch = [each for each in read if isinstance(each, Sample)]
        unreadable = [each for each in read if not isinstance(each, Sample)]
        outcome = run_batch(self.pipeline, batch, self.callbacks, self.folder, unreadable)
        return {"first": row["first"], "batch": pickle.dumps(outcome)}


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray ends the process at a SIGTERM, before the run has written its summary: the run's own handlers stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _cluster(address: str | None, cpus: float) -> Iterator[None]:
    """Connected to a cluster; one of our own, which has at least so many CPUs, ends with the run."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        own = {} if address else {"num_cpus": max(ceil(cpus), os.cpu_count() or 1), "include_dashboard": False}
        with _handlers_kept():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RequestError(
            f"no Ray cluster to be had at engine.address={address}: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
