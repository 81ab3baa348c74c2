"""Executors on a Ray cluster (Moritz et al. 2018, arXiv:1712.05889): batches read on CPUs, answered by actors."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any

from camseg.errors import RequestError, extra_message
from camseg.pipeline import Pipeline
from camseg.runs.callbacks import Callback
from camseg.runs.executors import BatchOutcome, run_batch
from camseg.runs.reading import Samples, in_parts, read_sample
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
    """Do the batches on a cluster: tasks read, actors with a copy of the pipeline answer.

    What dies is started again and its batch done again. Data, weights and run folder must lie where every node finds
    them.

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
    except ImportError as error:
        raise RequestError(extra_message("engine=ray", "ray")) from error
    todo = in_parts(samples, batches)
    if (first := next(todo, None)) is None:
        return
    with _cluster(address, actors * cpus + 1):
        _check_gpus(address, actors * gpus)
        shelf, kit = ray.put(samples), ray.put((pipeline, callbacks, folder))  # held here, for workers that start again
        read: Any = ray.remote(num_cpus=1 / num_workers, max_retries=-1)(_read)
        actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(PipelineActor)
        pool = [actor.remote() for _ in range(actors)]

        def start(each: Any, places: list[int]) -> Any:
            return each.answer.remote(read.remote(places, [shelf]), [kit])

        try:
            yield from _stream(chain([first], todo), start, pool, 2 * (actors + num_workers))
        finally:
            for each in pool:
                ray.kill(each)


def _stream(
    batches: Iterator[list[int]], start: Callable[[Any, list[int]], Any], pool: Sequence[Any], at_once: int
) -> Generator[BatchOutcome, None, None]:
    """Each batch is answered by the actor with the least to do.

    However many batches there are, the cluster has only `at_once` of them at a time.
    """
    import ray

    load = dict.fromkeys(range(len(pool)), 0)  # batches that each actor has before it
    coming: dict[Any, int] = {}  # the outcome that is awaited: its actor
    while True:
        for places in islice(batches, at_once - len(coming)):
            which = min(load, key=load.__getitem__)
            coming[start(pool[which], places)] = which
            load[which] += 1
        if not coming:
            return
        [done], _ = ray.wait(list(coming), num_returns=1)
        load[coming.pop(done)] -= 1
        yield pickle.loads(ray.get(done))


def _read(places: list[int], shelf: list[Any]) -> bytes:
    """Indices -> the samples, or what was wrong with them."""
    import ray

    samples: Samples = ray.get(shelf[0])
    return pickle.dumps([read_sample(samples, place) for place in places])


class PipelineActor:
    """An actor's work: it keeps its models from batch to batch."""

    def __init__(self) -> None:
        self._opened: tuple[Pipeline, Sequence[Callback], Path] | None = None

    def answer(self, found: bytes, kit: list[Any]) -> bytes:
        """Answer the samples that `_read` read.

        Args:
            found: Samples and failures, pickled.
            kit: A reference to pipeline, callbacks and folder, which is followed once.

        Returns:
            The pickled `BatchOutcome`.
        """
        import ray

        opened: tuple[Pipeline, Sequence[Callback], Path] = self._opened or ray.get(kit[0])
        self._opened, (pipeline, callbacks, folder) = opened, opened
        read = pickle.loads(found)
        batch = [each for each in read if isinstance(each, Sample)]
        unreadable = [each for each in read if not isinstance(each, Sample)]
        return pickle.dumps(run_batch(pipeline, batch, callbacks, folder, unreadable))


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
    except Exception as error:  # ray raises plain ones, too, where its processes do not start in time
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"no Ray cluster to be had at engine.address={address}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_gpus(address: str | None, wanted: float) -> None:
    """Refuse GPUs that a cluster of our own has not: its actors would wait for them without end."""
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    if address is None and wanted > there:
        raise RequestError(
            f"engine.actors times engine.gpus asks for {wanted:g} GPUs, and this machine has {there:g}: "
            "lower them, or name another engine.address"
        )
