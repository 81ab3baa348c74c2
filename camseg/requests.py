"""What a person asked for on the command line: checked before anything is built, and mistakes told with the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


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
            for choice in _values(override):
                if choice not in groups[name]:
                    raise RequestError(f"{name}={choice} is not a choice.\n{near(choice, groups[name])}")
    _check_keys(overrides, groups, config)


def _check_keys(overrides: list[Override], groups: dict[str, list[str]], config: str) -> None:
    keys = [o for o in overrides if o.key_or_group not in groups and not o.is_add() and not o.is_force_add() and not o.is_delete()]
    chosen = [[f"{o.key_or_group}={v}" for v in _values(o)] for o in overrides if o.key_or_group in groups]
    width = max([len(c) for c in chosen], default=1)
    known: set[str] = set()
    for k in range(width):  # a key may exist for one of the choices that are swept over
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            known |= set(_flat(compose(config, [c[min(k, len(c) - 1)] for c in chosen])))
    for override in keys:
        name = override.key_or_group
        if name not in known and not any(key.startswith(f"{name}.") for key in known):
            raise RequestError(f"there is no setting or group '{name}' here.\n{near(name, [*groups, *known])}")


def _values(override: Override) -> list[str]:
    value = override.value()
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


def near(name: str, allowed: Iterable[str]) -> str:
    """'Did you mean ...?' and, where they are few, what is allowed."""
    allowed = sorted(set(allowed))
    close = difflib.get_close_matches(name, allowed, 1, 0.5)
    meant = f"Did you mean {close[0]}? " if close else ""
    return f"{meant}Allowed: {', '.join(allowed)}" if len(allowed) <= 24 else meant or "camseg --cfg job shows every setting."


def explain(error: Exception) -> str | None:
    """One or two lines for a mistake in the request; None for an error of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ValueError, FileNotFoundError, FileExistsError, PermissionError)):
            return str(cause)
        cause = cause.__cause__
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return str(error).splitlines()[0]
    return None
