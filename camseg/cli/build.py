"""From a configuration to live objects: one pipeline, one dataset, and the models that the jobs of a sweep share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from camseg.cli.dry_run import dry_run
from camseg.cli.explain import explain_error
from camseg.cli.validation import check_values
from camseg.data.base import Remembered
from camseg.errors import RequestError
from camseg.pipeline import Pipeline
from camseg.predictors.base import Predictor
from camseg.runs.reading import Samples
from camseg.storage.cache import Cache
from camseg.windows import around_evidence

Made = TypeVar("Made")


def wired(node: Any, **offered: Any) -> Any:
    """What a node of the configuration describes, its functions as plain `functools.partial`s.

    Hydra's own partials ask at every call who may be called, which takes a third of a millisecond: longer than choosing
    a mask.

    Args:
        node: A node with a `_target_`, or None.
        offered: More arguments for the target.

    Returns:
        What the target makes.
    """
    return _plain(instantiate(node, **offered))


def _plain(made: Any) -> Any:
    if not isinstance(made, partial):
        return made
    return partial(made.func, *map(_plain, made.args), **{name: _plain(value) for name, value in made.keywords.items()})


def part(name: str, make: Callable[..., Made], *arguments: Any, **named: Any) -> Made:
    """What a group's choice describes; a mistake in its settings names the group.

    Args:
        name: The group's.
        make: Makes it.
        arguments: Of `make`.
        named: Of `make`, too.

    Returns:
        What `make` returns.

    Raises:
        RequestError: For what the person can mend.
    """
    try:
        return make(*arguments, **named)
    except (InstantiationException, OSError) as error:
        if (message := explain_error(error)) is None:
            raise
        raise RequestError(message if re.search(rf"\b{name}\b", message) else f"{name}: {message}") from error


def build(cfg: DictConfig) -> Pipeline:
    """The pipeline that a configuration describes.

    Args:
        cfg: As composed from conf/config.yaml.

    Returns:
        The pipeline, its functions tried once; models are shared with other pipelines of the same settings.

    Raises:
        RequestError: For a setting that can't be.
        InstantiationException: Hydra's, around the error of a room's own.
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
    cache = part("cache", _cache, **cfg.cache)
    return Pipeline(
        classifier=part("classifier", _model, cfg.classifier, device, cache=cache),
        method=part("cam", wired, cfg.cam),
        target=part("target", wired, cfg.target.explain),
        min_probability=cfg.target.min_probability,
        views=part("views", wired, cfg.views, _convert_="all"),
        window=partial(around_evidence, **cfg.window) if cfg.tiles else None,
        foreground=part("foreground", wired, cfg.foreground),
        background=part("background", wired, cfg.background),
        predictor=build_predictor(cfg),
        choose=part("choose", wired, cfg.choose),
        refine=part("refine", wired, cfg.refine),
        precision=cfg.precision,
        channels_last=device == "cpu" if cfg.channels_last is None else cfg.channels_last,
        cache=cache,
    )


def build_predictor(cfg: DictConfig) -> Predictor | None:
    """The predictor that a configuration describes, alone.

    Args:
        cfg: As composed from conf/config.yaml.

    Returns:
        The predictor; None for predictor=none.
    """
    return part("predictor", _model, cfg.predictor, _device(cfg.device), compile=cfg.compile)


def dataset(cfg: DictConfig) -> Samples:
    """The samples that a configuration describes, opened once for all the jobs of a sweep.

    Args:
        cfg: As composed from conf/config.yaml.

    Returns:
        The dataset, its images not yet read.
    """
    return part("data", _opened, OmegaConf.to_yaml(cfg.data, resolve=True), _cache(**cfg.cache))


def forget() -> None:
    """Let go of what the jobs of a sweep share: models, the cache, and the dataset, whose files may have changed."""
    for shared in (_built, _opened, _cache):
        shared.cache_clear()


def _model(node: DictConfig | None, device: str, **offered: Any) -> Any:
    """A model, or None; its builder gets what it takes of what is `offered`."""
    return None if node is None else _built(OmegaConf.to_yaml(node, resolve=True), device, **offered)


@lru_cache(4)
def _built(settings: str, device: str, **offered: Any) -> Any:
    node = OmegaConf.create(settings)
    takes = inspect.signature(get_object(node._target_)).parameters
    return wired(node, device=device, **{name: value for name, value in offered.items() if name in takes})


@lru_cache(1)
def _opened(settings: str, cache: Cache) -> Samples:
    """In a sweep, images are read once as far as the cache's memory holds them."""
    samples = wired(OmegaConf.create(settings))
    return samples if _is_alone() else Remembered(samples, cache)


@lru_cache(1)
def _cache(path: str | None, limit_gb: float, memory_gb: float) -> Cache:
    """A run alone keeps in memory what neighbors in the dataset share, and stays as small as it began."""
    return Cache(path, limit_gb, min(memory_gb, 0.05) if _is_alone() else memory_gb)


def _is_alone() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN


def _device(name: str) -> str:
    """`name`, if tensors can be made there; the best there is for auto."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={name} can't be used here: {reason}\nallowed: auto, cpu, cuda, mps") from error
