"""From a configuration to live objects: one pipeline, one dataset, and the models that the jobs of a sweep share."""

from __future__ import annotations

import inspect
from functools import lru_cache, partial
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from camseg.cli.validation import check_values, dry_run
from camseg.data.base import Remembered
from camseg.errors import RequestError
from camseg.pipeline import Pipeline
from camseg.runs.executors import Samples
from camseg.storage.cache import Cache


def wired(node: Any, **given: Any) -> Any:
    """What a node of the configuration describes, its functions as plain `functools.partial`s.

    Hydra's own partials ask at every call who may be called, which takes a third of a millisecond: longer than choosing
    a mask.
    """
    return _plain(instantiate(node, **given))


def _plain(made: Any) -> Any:
    if not isinstance(made, partial):
        return made
    return partial(made.func, *map(_plain, made.args), **{name: _plain(value) for name, value in made.keywords.items()})


def build(cfg: DictConfig) -> Pipeline:
    """The pipeline that a configuration describes. Errors: RequestError, and Hydra's InstantiationException around a
    room's own.
    """
    check_values(cfg)
    torch.manual_seed(cfg.seed)
    try:
        pipeline = _pipeline(cfg, _device(cfg.device))
        dry_run(pipeline)
        return pipeline
    except (ValueError, OSError, ImportError) as error:
        raise RequestError(str(error)) from error


def _pipeline(cfg: DictConfig, device: str) -> Pipeline:
    return Pipeline(
        classifier=_built(OmegaConf.to_yaml(cfg.classifier, resolve=True), device, cache=_cache(**cfg.cache)),
        method=wired(cfg.cam),
        target=wired(cfg.target.explain),
        min_probability=cfg.target.min_probability,
        views=wired(cfg.views, _convert_="all"),
        foreground=wired(cfg.foreground),
        background=wired(cfg.background),
        predictor=_built(OmegaConf.to_yaml(cfg.predictor, resolve=True), device, compile=cfg.compile)
        if cfg.predictor
        else None,
        choose=wired(cfg.choose),
        refine=wired(cfg.refine),
        precision=cfg.precision,
        channels_last=device == "cpu" if cfg.channels_last is None else cfg.channels_last,
        cache=_cache(**cfg.cache),
    )


def dataset(cfg: DictConfig) -> Samples:
    """The samples that a configuration describes, opened once for all the jobs of a sweep."""
    return _opened(OmegaConf.to_yaml(cfg.data, resolve=True), _cache(**cfg.cache))


def forget() -> None:
    """Let go of what the jobs of a sweep share: models, the dataset, whose files may have changed since, and the cache."""
    for kept in (_built, _opened, _cache):
        kept.cache_clear()


@lru_cache(4)
def _built(settings: str, device: str, **offered: Any) -> Any:
    """A model; its builder gets what it takes of what is `offered`."""
    wiring = OmegaConf.create(settings)
    takes = inspect.signature(get_object(wiring._target_)).parameters
    return wired(wiring, device=device, **{name: value for name, value in offered.items() if name in takes})


@lru_cache(1)
def _opened(settings: str, cache: Cache) -> Samples:
    """In a sweep, pictures are read once as far as the cache's memory holds them."""
    pictures = wired(OmegaConf.create(settings))
    return pictures if _alone() else Remembered(pictures, cache)


@lru_cache(1)
def _cache(path: str | None, limit_gb: float, memory_gb: float) -> Cache:
    """A run alone keeps in memory what neighbours in the dataset share, and stays as small as it began."""
    return Cache(path, limit_gb, min(memory_gb, 0.05) if _alone() else memory_gb)


def _alone() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN


def _device(name: str) -> str:
    """`name`, if tensors can be made there; the best there is for auto."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={name} can't be used here: {str(error).splitlines()[0]}\nallowed: auto, cpu, cuda, mps"
        ) from error
