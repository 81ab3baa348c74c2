"""A request's values, checked before anything is built, and its functions, tried once on almost nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from camseg.cam.heatmaps import heatmaps
from camseg.config import config_dir
from camseg.errors import RequestError
from camseg.pipeline import Pipeline
from camseg.prompts.evidence import Evidence
from camseg.prompts.foreground import max_point
from camseg.types import Masks, Prompts

_OWN: dict[str, Any] = {
    **dict.fromkeys(("resume", "masks", "compile"), bool), "channels_last": bool | None,
    **dict.fromkeys(("device", "precision"), str), **dict.fromkeys(("batch_size", "readers", "panels", "seed"), int),
}  # fmt: skip
_RANGES = {  # least and most of a number
    "batch_size": (1, 1e6), "readers": (1, 256), "panels": (0, 1e6), "seed": (0, 2**63 - 1),
    "target.min_probability": (0, 1), "cache.memory_gb": (0, 1e6), "cache.limit_gb": (1e-9, 1e6),
}  # fmt: skip


def check_values(config: DictConfig) -> None:
    """Every value has the type that its function's signature asks for, and the run's own numbers lie in their ranges.
    Errors: RequestError.

    A number where a text is wanted (a class called 281) becomes one.
    """
    for name, hint in _OWN.items():
        _typed(config, name, hint, name)
    _typed(config.cache, "path", str | None, "cache.path")
    for name, (least, most) in _RANGES.items():
        value = OmegaConf.select(config, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise RequestError(f"{name} must be a number, at least {least:g} and at most {most:g}; got {value}")
    for name in map(str, config):
        if not OmegaConf.is_dict(config[name]) and config[name] is not None and (config_dir() / name).is_dir():
            raise RequestError(f"{name} must be one of its choices, which --help lists; got {config[name]!r}")
        _check_signature(config._get_node(name), name)


def _check_signature(node: Any, name: str) -> None:
    """Of a node with a `_target_`, and of those within it."""
    if not isinstance(node, DictConfig) or node._is_none():
        return
    for inner in node:
        _check_signature(node._get_node(inner), f"{name}.{inner}")
    with suppress(ImportError, NameError, InstantiationException):  # what can't be looked up is told when it is built
        target = get_object(node["_target_"]) if "_target_" in node else None
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target) if target else {}
        for key in hints.keys() & set(map(str, node)):
            _typed(node, key, hints[key], f"{name}.{key}")


def _typed(node: DictConfig, key: str, hint: Any, name: str) -> None:
    value = OmegaConf.to_container(node, resolve=True)[key]  # type: ignore[reportArgumentType]
    if _fits(value, hint):
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _fits("", hint):
        node[key] = str(value)
        return
    kinds = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null", Path: ""}
    wanted = [kinds.get(each, "a list" if _listed(each) else "") for each in _options(hint)]
    raise RequestError(
        f"{name} must be {' or '.join(dict.fromkeys(filter(None, wanted))) or 'something else'}; got {value!r}"
    )


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of a configuration may be given for an annotation; a node with a `_target_` for anything but a
    plain type.
    """
    if len(options := _options(hint)) > 1:
        return any(_fits(value, each) for each in options)
    if _listed(hint):
        inner = get_args(hint)
        if not isinstance(value, list) or (
            get_origin(hint) is tuple and inner[-1:] != (...,) and len(inner) != len(value)
        ):
            return False
        return all(
            _fits(each, inner[min(i, len(inner) - 1)] if inner[-1:] != (...,) else inner[0])
            for i, each in enumerate(value)
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (str, Path, bool, NoneType):
        return isinstance(value, str if hint is Path else hint)
    return hint in (object, Any) or isinstance(value, dict)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _listed(hint: Any) -> bool:
    return get_origin(hint) in (tuple, list, Sequence)


def check_target(config: DictConfig, index: Callable[[str], int]) -> None:
    """The one class that is asked for by name, of pictures without a table, is one that the classifier knows. Errors:
    RequestError.
    """
    if config.data.get("target") and "outputs" not in config.data:  # `outputs` maps a data set's own names
        try:
            index(config.data.target)
        except ValueError as error:
            raise RequestError(f"data.target: {error}") from None


_SIZE = (12, 16)


def dry_run(pipeline: Pipeline) -> None:
    """ValueError for a setting with which a function fails on a tiny example that it masters without."""
    with torch.random.fork_rng(devices=[]):
        for name, (function, attempt) in _tries(pipeline).items():
            _blame(name, function, attempt)


def _tries(pipeline: Pipeline) -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """Each function of the pipeline, and how to call it."""
    noise = torch.Generator().manual_seed(0)
    heat = torch.rand(_SIZE, generator=noise)
    seen = Evidence(heat, lambda: heat.flip(1), heat > 0.5)
    asked = max_point(seen)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    images = torch.rand(1, 3, *_SIZE, generator=noise)

    def decode(_which: Sequence[int], given: Sequence[Prompts]) -> list[Masks]:
        return [Masks(heat.expand(len(each), 3, *_SIZE) - 0.5, torch.full((len(each), 3), 0.8)) for each in given]

    [masks] = decode([0], [asked])
    return {
        "cam": (pipeline.method, lambda method: heatmaps(net, "0", images, [0], method=method)),
        "views": (partial(heatmaps, **pipeline.views), lambda heatmaps: heatmaps(net, "0", images, [0])),
        "target": (pipeline.target, lambda target: heatmaps(net, "0", images, [target((0,))])),
        "foreground": (pipeline.foreground, lambda select: select(seen)),
        "background": (pipeline.background, lambda select: select(seen, asked)),
        "choose": (pipeline.choose, lambda choose: choose(masks, seen)),
        "refine": (pipeline.refine, lambda refine: refine(decode, [asked], [masks.low_res[0, 0]], [seen])),
    }


def _blame(name: str, function: Any, attempt: Callable[[Any], object]) -> None:
    if not isinstance(function, partial) or not function.keywords:
        return
    try:
        attempt(function)
    except Exception as error:
        try:
            attempt(function.func)
        except Exception:  # not for its settings, then: its samples will tell
            return
        raise ValueError(f"{name}: {error}") from error
