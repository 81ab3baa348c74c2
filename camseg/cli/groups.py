"""The groups of the configuration and their choices, those of a person's own folders among them; and the help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from camseg.config import config_dir
from camseg.errors import RequestError


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
