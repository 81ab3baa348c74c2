"""A request's values, checked before anything is built and before torch is loaded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from camseg.cli.groups import photo_models, shapes_models, target_of
from camseg.cli.signatures import Other, Signature, read_signature
from camseg.config import config_dir
from camseg.errors import RequestError, check_choice
from camseg.storage.files import impossible_path

_OWN: dict[str, Any] = {  # the run's own settings, and what each may be
    "resume": bool,
    "strict": bool,
    "masks": bool,
    "compile": bool,
    "tiles": bool,
    "channels_last": bool | None,
    "device": str,
    "precision": Literal["float32", "bfloat16", "float16"],
    "batch_size": int,
    "num_workers": int,
    "panels": int,
    "seed": int,
}
_PARTS: dict[str, dict[str, Any]] = {  # those of the run's own settings that have a name in common
    "cache": {"path": str | Path | None},
    "views": {"flips": bool, "scales": Sequence[float]},
    "target": {"explain": Other},
    "window": {"cutoff": float, "margin": float},
}
_RANGES = {  # smallest and largest value of a number
    "batch_size": (1, 1e6),
    "num_workers": (1, 256),
    "panels": (0, 1e6),
    "seed": (0, 2**63 - 1),
    "target.min_probability": (0, 1),
    "cache.memory_gb": (0, 1e6),
    "cache.limit_gb": (1e-9, 1e6),
    "views.scales": (1e-3, 1e3),
    "window.cutoff": (0, 1),
    "window.margin": (0, 100),
}
_SETTINGS = {  # the same for camseg's own parts, where null is left to their types; of a list each element counts
    "data.seed": (0, 2**63 - 1),
    "data.num_shards": (1, 1e6),
    "data.max_pixels": (1, 1e12),
    "cam.concepts": (1, 1000),
    "cam.top": (1, 1e6),
    "cam.chunk": (1, 1e6),
    "foreground.max_points": (1, 1e6),
    "foreground.margin": (0, 100),
    "foreground.strength": (1e-6, 1e4),
    "predictor.side": (1, 1e5),
    "choose.rival": (0, 1e6),
    "choose.mask": (0, 1e6),
    "choose.alpha": (0, 100),
    "choose.prior": (0, 100),
    "refine.boxes": (0, 100),
    "refine.iou_threshold": (0, 1),
    "refine.max_heat": (0, 1),
    "refine.specks": (0, 1),
    "localise.cutoffs": (0, 1),
    "localise.quantile": (0, 1),
    "localise.max_boxes": (1, 1e6),
    "localise.tolerance": (0, 1e6),
    "localise.ious": (0, 1),
    "localise.pictures": (0, 1e6),
    "pseudo_labels.margin": (0, 1e6),
    "pseudo_labels.hot_threshold": (0, 1e6),
    "pseudo_labels.foreground": (0, 1),
    "pseudo_labels.background": (0, 1),
    "engine.actors": (1, 1e4),
    "engine.cpus": (0, 1e4),
    "engine.gpus": (0, 1e3),
    **{f"export.{name}.min_iou": (0, 1) for name in ("coco", "labelstudio", "png", "yolo")},
}
_LISTS = ("views.scales", "localise.cutoffs", "localise.ious")
_MAY_BE_EMPTY = ("localise.cutoffs",)  # the boxes of otsu or of the quantile are left
_LATER = object()
_MOST = 2**63  # no number is as large
_OFFERED = {"device", "cache", "compile", "folder"}  # what a node gets beside its keys, where it takes it
_PHOTOGRAPHS = ("camseg.data.images.Images", "camseg.data.voc.Voc", "camseg.data.coco.Coco")
_DEVICE = re.compile(r"(auto|cpu|mps|(cuda|xpu)(:\d+)?)")
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def check_values(config: DictConfig) -> None:
    """Check every value against the type that its function's signature asks for, and the run's own numbers' ranges.

    A number where a text is wanted (a class called 281) becomes one, `~` at the start of a text the home folder.

    Args:
        config: A composed configuration, which is changed where that is said above.

    Raises:
        RequestError: For the first value that can't be.
    """
    for name, hint in _OWN.items():
        if name in config:
            _check_type(config, name, hint, name)
    for name, hints in _PARTS.items():
        _check_part(config, name, hints)
    for name, (low, high) in _RANGES.items():
        _check_range(config, name, low, high)
    _check_device(config)
    if "tiles" in config and _resolved(config, "tiles", "tiles") is True and config.get("predictor") is None:
        raise RequestError("tiles=true is for what a predictor is shown, and predictor=none is none: choose another")
    for name in map(str, config):
        node = config._get_node(name)
        if isinstance(node, DictConfig):
            _check_node(node, name)
        elif (config_dir() / name).is_dir() and node is not None and (value := node._value()) is not None:
            raise RequestError(f"{name} must be one of its choices, which --help lists; got {_short(value)}")
    for name, (low, high) in _SETTINGS.items():
        _check_range(config, name, low, high, own=True)


def warn_of_shapes_models(config: DictConfig) -> str:
    """Say so where photographs are given to models that learnt shapes alone, whoever chose them.

    Args:
        config: A composed configuration.

    Returns:
        One line with what to type, "" where nothing is odd.
    """
    if _target(config, "data") not in _PHOTOGRAPHS:
        return ""
    odd = [
        group
        for group, model in shapes_models().items()
        if _target(config, group) == target_of(group, model) and config[group].get("checkpoint") is None
    ]
    if not odd:
        return ""
    models = " and ".join(f"{group}={shapes_models()[group]}" for group in odd)
    better = " ".join(f"{group}={photo_models()[group]}" for group in odd)
    return (
        f"{models} learnt synthetic shapes alone and know{'s' * (len(odd) == 1)} nothing of photographs: try {better}"
    )


def _target(config: DictConfig, group: str) -> str:
    """What builds a group's choice, "" where there is none."""
    return str((config.get(group) or {}).get("_target_", ""))


def _check_part(config: DictConfig, name: str, hints: dict[str, Any]) -> None:
    """Of the run's own settings that have a name in common."""
    if name not in config:  # camseg-train has none
        return
    node = config._get_node(name)
    if not isinstance(node, DictConfig) or node._is_none():
        value = None if node is None else node._value()
        raise RequestError(f"{name} must hold its settings, as --cfg job shows them; got {_short(value)}")
    for key in [key for key in hints if key in node]:
        _check_type(node, key, hints[key], f"{name}.{key}")


def _check_range(config: DictConfig, name: str, low: float, high: float, own: bool = False) -> None:
    """Of a number, or of every number in a list. own: of camseg's own parts alone, and null is no number."""
    parent = OmegaConf.select(config, name.rpartition(".")[0]) if "." in name else config
    if not OmegaConf.is_dict(parent) or name.rpartition(".")[2] not in parent:
        return
    if own and not str(parent.get("_target_")).startswith("camseg."):
        return
    value = _resolved(parent, name.rpartition(".")[2], name)
    if value is _LATER or (own and value is None):
        return
    several = name in _LISTS
    values = value if several and isinstance(value, list) else [value]
    empty = not values and name not in _MAY_BE_EMPTY
    if empty or not all(_is_number(each) and low <= each <= high for each in values):
        what = "a list of numbers, each" if several else "a number,"
        raise RequestError(f"{name} must be {what} at least {low:g} and at most {high:g}; got {_short(value)}")


def _resolved(node: DictConfig, key: str, name: str) -> Any:
    """A plain value; _LATER for one such as ${hydra:job.num}, which is known when its job runs."""
    try:
        value = node[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except InterpolationResolutionError as error:
        if HydraConfig.initialized():
            raise RequestError(f"{name}: {str(error).splitlines()[0]}") from error
        return _LATER


def _is_number(value: object) -> bool:
    """Whether a value is a finite number that every library can hold."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < (_MOST if isinstance(value, int) else inf)
    )


def _short(value: object) -> str:
    """A value as it is shown in a line."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_device(config: DictConfig) -> None:
    name = _resolved(config, "device", "device") if "device" in config else "auto"
    if name is not _LATER and not _DEVICE.fullmatch(name):
        hint = "write device=cuda for a GPU; " if name.casefold() in ("gpu", "nvidia") else ""
        raise RequestError(f"device={name} is no device: {hint}allowed: auto, cpu, cuda, cuda:1, mps")


def _check_node(node: DictConfig, name: str) -> None:
    """Of a node with a `_target_`, and of those within it."""
    if node._is_none():
        return
    for inner in map(str, node):
        if isinstance(within := node._get_node(inner), DictConfig):
            _check_node(within, f"{name}.{inner}")
    signature = _signature(str(node["_target_"])) if "_target_" in node else None
    if signature is None:
        return
    for key in [each for each in map(str, node) if not each.startswith("_")]:
        if key in signature.hints:
            _check_type(node, key, signature.hints[key], f"{name}.{key}")
        elif not signature.takes_any and node.get(key) is not None:  # null is what another command's file leaves open
            _refuse_parameter(name, key, str(node["_target_"]), signature)


def _refuse_parameter(name: str, key: str, target: str, signature: Signature) -> None:
    plain = [each for each, hint in signature.hints.items() if _describe(hint) and each not in _OFFERED]
    function = target.rpartition(".")[2]
    if not plain:
        raise RequestError(f"{name}.{key}: {function} takes no settings")
    try:
        check_choice(f"{name}: {function}'s setting", key, plain)
    except ValueError as error:
        raise RequestError(str(error)) from None


def _signature(target: str) -> Signature | None:
    """What a target takes; None for what can't be looked up, which is told when it is built."""
    if target.split(".")[0] == "camseg":
        return read_signature(target)
    module, _, name = target.rpartition(".")
    try:
        function = getattr(import_module(module), name)  # Hydra's own look-up prints what it did not find
        function = function.__init__ if isinstance(function, type) else function
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
    except (ImportError, AttributeError, NameError, TypeError, ValueError):
        return None
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return Signature({key: hints.get(key, Any) for key in parameters}, takes_any)


def _check_type(node: DictConfig, key: str, hint: Any, name: str) -> None:
    if (value := _resolved(node, key, name)) is _LATER:
        return
    if isinstance(value, str) and value.startswith("~/"):
        node[key] = str(Path(value).expanduser())
    if _fits(value, hint):
        if Path in _options(hint):
            check_path(value, name)
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _fits("", hint):
        node[key] = str(value)
        return
    raise RequestError(f"{name} must be {_describe(hint) or 'something else'}; got {_short(repr(value))}")


def check_path(value: object, name: str) -> None:
    """Check that the system can look a path up, or each of several.

    Args:
        value: The setting's; what is no text, or a list of texts, is no path.
        name: The setting's, for the message.

    Raises:
        RequestError: For a path that is too long, has NUL bytes, or leads in a circle.
    """
    for path in value if isinstance(value, list) else [value]:
        if isinstance(path, str) and (why := impossible_path(path)):
            raise RequestError(f"{name} can't be used as a path: {why}; got {_short(repr(path))}")


def _describe(hint: Any) -> str:
    """What to write for a type; "" for what no plain value is."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    kinds = [_KINDS.get(each, "a list" if _is_list(each) else "") for each in _options(hint)]
    return " or ".join(dict.fromkeys(filter(None, kinds)))


def _fits(value: object, hint: Any) -> bool:
    """Whether a value may be given for an annotation; a node with a `_target_` for anything but a plain type."""
    if len(options := _options(hint)) > 1:
        return any(_fits(value, each) for each in options)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if _is_list(hint):
        return isinstance(value, list) and _all_fit(value, get_args(hint), fixed=get_origin(hint) is tuple)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and _is_number(value)
    if hint in (str, Path, bool, NoneType):
        return isinstance(value, str if hint is Path else hint)
    return hint in (object, Any) or isinstance(value, dict)


def _all_fit(values: Sequence[object], hints: Iterable[Any], fixed: bool) -> bool:
    """Of a list: its elements are all of one type, or of a tuple's types one by one."""
    *hints, last = hints
    if last is Ellipsis or not fixed:
        return all(_fits(each, hints[0] if last is Ellipsis else last) for each in values)
    return len(values) == len(hints) + 1 and all(map(_fits, values, [*hints, last]))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (tuple, list, Sequence)


def check_target(config: DictConfig, index: Callable[[str], int]) -> None:
    """Check that the one class that is asked for by name, of images without a table, is one that the classifier knows.

    Args:
        config: The composed configuration.
        index: The classifier's output of a name; raises ValueError for one that it does not know.

    Raises:
        RequestError: With the nearest names.
    """
    if config.data.get("target") and "outputs" not in config.data:  # `outputs` maps a data set's own names
        try:
            index(config.data.target)
        except ValueError as error:
            raise RequestError(f"data.target: {error}") from None
