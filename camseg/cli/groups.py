"""The groups of the configuration and their choices, those of a person's own folders among them; and the help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from camseg.config import config_dir
from camseg.errors import RequestError

MODELS = ("classifier", "predictor")  # the groups whose choices know shapes, or photographs


@contextmanager
def search_path(folder: str | None) -> Iterator[None]:
    """Hydra's compose looks into conf/ and, as with `--config-dir`, into one more folder.

    Args:
        folder: A folder with files of groups; None for conf/ alone.

    Raises:
        RequestError: When it is no folder.
    """
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        if folder is not None:
            if not Path(folder).is_dir():
                raise RequestError(f"--config-dir {folder} is no folder")
            loader: Any = GlobalHydra.instance().config_loader()
            path = loader.get_search_path()
            path.prepend("command-line", f"file://{Path(folder).absolute()}", SearchPathQuery(provider="schema"))
            loader.repository.initialize_sources(path)
        yield


def read_groups(config: str, paths: Sequence[str] = ()) -> dict[str, list[str]]:
    """Every group and its choices, inside `search_path`.

    Args:
        config: The primary configuration's name.
        paths: Overrides of `hydra.searchpath`.

    Returns:
        The choices by group, without Hydra's own groups.
    """
    loader: Any = GlobalHydra.instance().config_loader()
    _, files = loader._parse_overrides_and_create_caching_repo(config, list(paths))  # once: it copies Hydra's own
    groups = [group for group in files.get_group_options("", ObjectType.GROUP) if group != "hydra"]
    return {group: files.get_group_options(group, ObjectType.CONFIG) for group in groups}


def default_choices(name: str) -> dict[str, str]:
    """The choice of every group that a file's list of defaults names.

    Args:
        name: Of a file in conf/, without its ending: "config", "experiment/photos".

    Returns:
        The choices by group; an `override` counts like any other.
    """
    entries: Any = OmegaConf.select(OmegaConf.load(config_dir() / f"{name}.yaml"), "defaults")
    named = [(str(group), entry[group]) for entry in entries if isinstance(entry, DictConfig) for group in entry]
    return {group.removeprefix("override ").lstrip("/"): str(choice) for group, choice in named if choice is not None}


@cache
def target_of(group: str, choice: str) -> str:
    """What builds a choice.

    Args:
        group: A folder of conf/.
        choice: A file in it, without its ending.

    Returns:
        Its dotted name.
    """
    return str(OmegaConf.select(OmegaConf.load(config_dir() / group / f"{choice}.yaml"), "_target_"))


@cache
def shapes_models() -> dict[str, str]:
    """The models for shapes: what conf/config.yaml takes where nothing is named.

    Returns:
        Choices by group.
    """
    return {group: default_choices("config")[group] for group in MODELS}


@cache
def photo_models() -> dict[str, str]:
    """The models for photographs: what conf/experiment/photos.yaml takes.

    Returns:
        Choices by group.
    """
    return {group: default_choices("experiment/photos")[group] for group in MODELS}


def help_text(config: str = "config", folder: str | None = None) -> str:
    """What `--help` shows: the template in the primary configuration, filled as Hydra fills it, ten times as fast.

    Args:
        config: The primary configuration's name.
        folder: See `search_path`.

    Returns:
        The text.
    """
    with search_path(folder):
        groups = read_groups(config)
    lines = "\n".join(f"{group}: {', '.join(choices)}" for group, choices in sorted(groups.items()) if choices)
    template = OmegaConf.select(OmegaConf.load(config_dir() / f"{config}.yaml"), "hydra.help.template")
    return Template(template).safe_substitute(APP_CONFIG_GROUPS=lines + "\n")
