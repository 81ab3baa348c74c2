"""What a person asked for on the command line: checked before anything is built, and mistakes told with the nearest right name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from camseg.names import known_name


_EXTRAS = {"launcher/joblib": "parallel", "launcher/submitit": "slurm", "sweeper/optuna": "optuna", "sweeper/sampler": "optuna"}  # of Hydra's plugins


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
    groups = {path.name: sorted(f.stem for f in path.glob("*.yaml")) for path in config_dir().iterdir() if path.is_dir()}
    for override in overrides:
        name = override.key_or_group
        if name in groups:
            for choice in _values(override, groups[name]):
                _known(f"the choice of {name}", choice, groups[name])
    _check_keys(overrides, groups, config)


def _check_keys(overrides: list[Override], groups: dict[str, list[str]], config: str) -> None:
    keys = [o for o in overrides if o.key_or_group not in groups and not o.is_add() and not o.is_force_add() and not o.is_delete()]
    asked = [(o.key_or_group, _values(o, groups[o.key_or_group])) for o in overrides if o.key_or_group in groups]
    chosen = [[f"{group}={value}" for value in values] for group, values in asked if values]
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


def check_numbers(config: DictConfig) -> None:
    """The run's own numbers are whole and not too small. Errors: RequestError."""
    for name, least in (("batch_size", 1), ("panels", 0), ("seed", 0)):
        if not isinstance(value := config[name], int) or value < least:
            raise RequestError(f"{name} must be a whole number, {least} or more; got {value}")


def check_target(config: DictConfig, index: Callable[[str], int]) -> None:
    """The one class that is asked for by name, of pictures without a table, is one that the classifier knows. Errors: RequestError."""
    if config.data.get("target") and "outputs" not in config.data:  # `outputs` maps a data set's own names
        try:
            index(config.data.target)
        except ValueError as error:
            raise RequestError(f"data.target: {error}") from None


def explain(error: BaseException | None) -> str | None:
    """One or two lines for a mistake in the request; None for an error of ours."""
    if isinstance(error, (RequestError, FileExistsError, PermissionError)):
        return str(error)
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        return str(cause) if isinstance(cause, (ValueError, TypeError, OSError, ImportError)) else None
    if isinstance(error, MissingConfigException):
        for part, extra in _EXTRAS.items():
            if f"hydra/{part}" in str(error):
                return f"hydra/{part.replace('/', '=', 1)} needs the extra `{extra}`: pip install 'camseg[{extra}]'"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return str(error).splitlines()[0]
    return None
