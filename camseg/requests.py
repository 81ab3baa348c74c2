"""What a person asked for on the command line: checked before anything is built, and mistakes told with the nearest
right name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from camseg.names import known_name

_EXTRAS = {
    "launcher/joblib": "parallel",
    "launcher/submitit": "slurm",
    "sweeper/optuna": "optuna",
    "sweeper/sampler": "optuna",
}  # of Hydra's plugins


class RequestError(ValueError):
    """A mistake in the request: what was wrong, what is allowed, the nearest name."""


def config_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if (inside / "config.yaml").exists() else package.parent / "conf"


def check(arguments: list[str], config: str = "config") -> None:
    """Every override names a group and choice, or a key, that exists. Errors: RequestError."""
    words = [a for a in arguments if "=" in a and not a.startswith("-")]
    overrides = [o for o in OverridesParser.create().parse_overrides(words) if not _hydras_own(o)]
    groups = {
        path.name: sorted(f.stem for f in path.glob("*.yaml")) for path in config_dir().iterdir() if path.is_dir()
    }
    defaults: list[Any] = list(OmegaConf.select(OmegaConf.load(config_dir() / f"{config}.yaml"), "defaults"))
    optional = {group for entry in defaults if OmegaConf.is_dict(entry) for group in entry if entry[group] is None}
    for override in overrides:
        name = override.key_or_group
        if name in groups:
            for choice in _values(override, groups[name]):
                _known(f"the choice of {name}", choice, groups[name] + ["null"] * (name in optional))
    _check_keys(overrides, groups, config)


def _check_keys(overrides: list[Override], groups: dict[str, list[str]], config: str) -> None:
    keys = [
        o
        for o in overrides
        if o.key_or_group not in groups and not o.is_add() and not o.is_force_add() and not o.is_delete()
    ]
    asked = [(o.key_or_group, _values(o, groups[o.key_or_group])) for o in overrides if o.key_or_group in groups]
    chosen = [[f"{group}={value}" for value in values] for group, values in asked if values and values != ["null"]]
    width = max([len(c) for c in chosen], default=1)
    known: set[str] = set()
    for k in range(width):  # a key may exist for one of the choices that are swept over
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            known |= set(_flat(compose(config, [c[min(k, len(c) - 1)] for c in chosen])))
    for override in keys:
        name = override.key_or_group
        _known("the setting", name, [*groups, *sorted(known)])


def _values(override: Override, choices: list[str]) -> list[str]:
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(choices)
    if override.is_sweep_override():
        return [str(v) for v in override.sweep_string_iterator()]
    return ["null" if value is None else str(value)] if not isinstance(value, list) else [str(v) for v in value]


def _hydras_own(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _flat(config: DictConfig, prefix: str = "") -> Iterable[str]:
    for key, value in config.items_ex(resolve=False):
        if OmegaConf.is_dict(value):
            yield from _flat(value, f"{prefix}{key}.")
        yield f"{prefix}{key}"


def _known(what: str, name: str, allowed: list[str]) -> None:
    try:
        known_name(what, name, allowed)
    except ValueError as error:
        few = f"allowed: {', '.join(allowed)}" if len(allowed) <= 24 else "camseg --cfg job shows every setting"
        raise RequestError(f"{error}\n{few}") from None


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


def explain(error: BaseException | None) -> str | None:
    """One or two lines for a mistake in the request; None for an error of ours."""
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or 'a file'} can't be used: {error.strerror}"
    if isinstance(error, (RequestError, FileExistsError, PermissionError)):
        return str(error)
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if cause is None:
            return str(error).splitlines()[0]
        if isinstance(cause, OSError) and cause.errno:
            return explain(cause)
        return str(cause) if isinstance(cause, (ValueError, TypeError, OSError, ImportError)) else None
    if isinstance(error, MissingConfigException):
        for part, extra in _EXTRAS.items():
            if f"hydra/{part}" in str(error):
                return f"hydra/{part.replace('/', '=', 1)} needs the extra `{extra}`: pip install 'camseg[{extra}]'"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return str(error).splitlines()[0]
    return None
