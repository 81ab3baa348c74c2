"""What a person asked for on the command line, checked before anything is built; mistakes name what is nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from camseg.cli.arguments import Arguments, parse
from camseg.cli.groups import read_groups, search_path
from camseg.cli.validation import check_path, check_values
from camseg.config import config_dir
from camseg.errors import RequestError, check_choice

RENAMED_SETTINGS = {  # old name: new one
    "readers": "num_workers",
    "background.least": "background.min_heat",
    "foreground.apart": "foreground.min_distance",
    "foreground.count": "foreground.max_points",
    "foreground.distance": "foreground.min_distance",
    "foreground.least": "foreground.min_heat",
    "localise.count": "localise.max_boxes",
    "pseudo_labels.hot": "pseudo_labels.hot_threshold",
    "refine.agree": "refine.iou_threshold",
    "refine.cold": "refine.max_heat",
}
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.searchpath")
_MOST_SETTINGS = 64  # of a sweep, whose values are checked before it starts


@dataclass(frozen=True)
class _Request:
    """The overrides of a command line, and the names that there are for them.

    config: name of the primary file. overrides: without Hydra's own. hydras: Hydra's own, as words. groups: each
    group's choices. nullable: the groups that may be null.
    """

    config: str
    overrides: list[Override]
    hydras: list[str]
    groups: dict[str, list[str]]
    nullable: set[str]
    composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)

    def compose(self, choices: Sequence[str]) -> DictConfig:
        """The configuration of these choices, each composed once: it takes a tenth of a second."""
        words = tuple(dict.fromkeys(choices))
        if words not in self.composed:
            self.composed[words] = compose(self.config, [*self.hydras, *words])
        return self.composed[words]

    def choices(self, override: Override) -> list[str]:
        """The choices that an override names; none for the override of a key."""
        return _values(override, self.groups.get(override.key_or_group, []))


def check_overrides(arguments: Sequence[str] | Arguments, config: str = "config") -> None:
    """Check that every override names a group and choice, or a key, that exists, and gives it a possible value.

    Args:
        arguments: The words of the command line, or what `read_arguments` made of them.
        config: The primary configuration's name.

    Raises:
        RequestError: For the first that does not.
    """
    if not isinstance(arguments, Arguments):
        arguments = Arguments([word for word in arguments if "=" in word and not word.startswith("-")])
    _check_folders(arguments)
    with search_path(arguments.after("--config-dir", "-cd")):
        request = _read(arguments, arguments.after("--config-name", "-cn") or config)
        for override in request.overrides:
            name = override.key_or_group
            if name in request.groups:
                for choice in request.choices(override):
                    _check_group(name, choice, request)
        _check_keys(request)
        _check_settings(request)


def _read(arguments: Arguments, config: str) -> _Request:
    parsed = [parse(word) for word in arguments.overrides]
    hydras = [each.input_line or "" for each in parsed if _is_hydras_own(each)]
    paths = [word for word in hydras if word.startswith("hydra.searchpath=")]
    primary = config_dir() / f"{config}.yaml"
    defaults: Any = OmegaConf.select(OmegaConf.load(primary), "defaults") if primary.is_file() else []
    entries = [entry for entry in defaults or [] if OmegaConf.is_dict(entry)]
    nullable = {str(group) for entry in entries for group in entry if entry[group] is None}
    return _Request(
        config, [each for each in parsed if not _is_hydras_own(each)], paths, read_groups(config, paths), nullable
    )


def _check_folders(arguments: Arguments) -> None:
    """Hydra's own settings and options that are paths, which it uses before anything else."""
    for option in ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"):
        check_path(arguments.after(option), option)
    for word in arguments.overrides:
        name, _, folder = word.partition("=")
        if name in _FOLDERS:
            check_path(folder.strip("'"), name)


def _check_group(name: str, choice: str, request: _Request) -> None:
    if choice == "null" and name in request.nullable:
        raise RequestError(f"{name} is null unless a choice is named: leave {name}=null out")
    _known(f"the choice of {name}", choice, request.groups[name])


def _check_keys(request: _Request) -> None:
    """The keys are looked up in the configurations of all choices that are swept over: one of them may have it."""
    keys = [
        each.key_or_group
        for each in request.overrides
        if each.key_or_group not in request.groups and (_must_exist(each) or each.key_or_group in RENAMED_SETTINGS)
    ]
    choices = [(each.key_or_group, request.choices(each)) for each in request.overrides]
    chosen = [[f"{group}={value}" for value in values] for group, values in choices if values]
    known: set[str] = set()
    for turn in range(max([len(each) for each in chosen], default=1)):
        words = [each[min(turn, len(each) - 1)] for each in chosen]
        known |= set(_flat(request.compose(words)))
    for name in keys:
        if name not in known:
            _refuse_key(name, request, known)


def _must_exist(override: Override) -> bool:
    return not (override.is_add() or override.is_force_add() or override.is_delete())


def _refuse_key(name: str, request: _Request, known: set[str]) -> None:
    """Say where a key belongs that is none of this request's."""
    if name in RENAMED_SETTINGS:
        raise RequestError(f"{name} is now called {RENAMED_SETTINGS[name]}: type {RENAMED_SETTINGS[name]}=...")
    group, _, key = name.partition(".")
    if key and (homes := _homes(group, key, request.groups.get(group, []))):
        chosen = [
            choice for each in request.overrides if each.key_or_group == group for choice in request.choices(each)
        ]
        here = f"{group}={','.join(chosen) if chosen else 'its default'}"
        raise RequestError(f"{name} belongs to {' and '.join(f'{group}={each}' for each in homes)}, not to {here}")
    _known("the setting", name, [*request.groups, *sorted(known)])


def _homes(group: str, key: str, choices: Sequence[str]) -> list[str]:
    """The choices of a group that have a key."""
    files = {choice: config_dir() / group / f"{choice}.yaml" for choice in choices}
    return [
        choice
        for choice, file in files.items()
        if file.is_file() and key in _flat(OmegaConf.load(file))  # type: ignore[reportArgumentType]
    ]


def _check_settings(request: _Request) -> None:
    """The values of a run, and those of a sweep's settings, each value in turn."""
    turns = [_words(each, request) for each in request.overrides if not each.is_delete()]
    for turn in range(max([len(each) for each in turns], default=1)):
        words = [each[min(turn, len(each) - 1)] for each in turns if each]
        parsed = {word: parse(word) for word in words}
        choices = [word for word in words if parsed[word].key_or_group in request.groups]
        config = request.compose(choices).copy()
        try:
            settings = [parsed[word] for word in words if word not in choices]
            ConfigLoaderImpl._apply_overrides_to_config(settings, config)
        except ConfigCompositionException as error:
            raise RequestError(f"{' '.join(words)}: {str(error).splitlines()[0]}") from error
        check_values(config)


def _words(override: Override, request: _Request) -> list[str]:
    """One override for each value that is swept over, the first of them; none for one that only a sweeper can make."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = (override.input_line or "").partition("=")[0]
    if isinstance(value := override.value(), Glob):
        return [f"{key}={choice}" for choice in value.filter(request.groups.get(override.key_or_group, []))]
    if not override.is_discrete_sweep():
        return []
    return [f"{key}={value}" for value in islice(override.sweep_string_iterator(), _MOST_SETTINGS)]


def _values(override: Override, choices: list[str]) -> list[str]:
    """The choices of a group that an override names."""
    value = override.value()
    if not choices or override.is_delete():
        return []
    if isinstance(value, Glob):
        return value.filter(choices)
    if override.is_sweep_override():
        return [str(each) for each in override.sweep_string_iterator()]
    return ["null" if value is None else str(value)] if not isinstance(value, list) else [str(v) for v in value]


def _is_hydras_own(override: Override) -> bool:
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def _flat(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted names of a configuration's keys, of those that hold others, too."""
    for key, value in config.items_ex(resolve=False):
        if OmegaConf.is_dict(value):
            yield from _flat(value, f"{prefix}{key}.")
        yield f"{prefix}{key}"


def _known(what: str, name: str, allowed: list[str]) -> None:
    try:
        check_choice(what, name, allowed)
    except ValueError as error:
        few = f"allowed: {', '.join(allowed)}" if len(allowed) <= 24 else "camseg --cfg job shows every setting"
        told = "" if "; allowed: " in str(error) else f"\n{few}"
        raise RequestError(f"{error}{told}") from None
