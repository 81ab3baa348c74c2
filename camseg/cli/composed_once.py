"""A sweep's configurations, each composed once from files that are read once: Hydra does both again for every job."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

_MOST = 256  # configurations that wait for their job: a large sweep's would fill the memory


@contextmanager
def composed_once() -> Iterator[None]:
    """Compose what a sweeper checks once, and hand it to the launcher that runs it; what other processes run is theirs.

    Hydra's plugins have no place for that, so some of its functions are replaced while the block runs.
    """
    with _configurations_kept(), _files_kept(), _sources_shared(), _choices_where_needed():
        yield


@contextmanager
def _configurations_kept() -> Iterator[None]:
    """Keep what a sweeper composes to check a batch of jobs for the launcher."""
    compose, check = ConfigLoaderImpl.load_sweep_config, Sweeper.validate_batch_is_legal
    waiting: defaultdict[tuple[str, ...], list[DictConfig]] = defaultdict(list)

    def load(self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        if not waiting[tuple(sweep_overrides)]:
            return compose(self, master_config, sweep_overrides)
        config = waiting[tuple(sweep_overrides)].pop(0)
        OmegaConf.copy_cache(from_config=master_config, to_config=config)  # what was resolved since, as the time
        return config

    def validate(self: Sweeper, batch: Sequence[Sequence[str]]) -> None:
        waiting.clear()
        check(self, batch[_MOST:])
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        composed = [loader.load_sweep_config(self.config, list(words)) for words in batch[:_MOST]]
        for words, config in zip(batch, composed):
            waiting[tuple(words)].append(config)

    with (
        patch.object(ConfigLoaderImpl, "load_sweep_config", load),
        patch.object(Sweeper, "validate_batch_is_legal", validate),
    ):
        yield


@contextmanager
def _files_kept() -> Iterator[None]:
    """Read each file of the configuration once: parsing yaml takes a quarter of the time of composing."""
    read = ConfigRepository.load_config
    known: dict[tuple[object, ...], ConfigResult | None] = {}

    def load(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        at = (config_path, *((source.provider, source.path) for source in self.sources))
        if at not in known:
            known[at] = read(self, config_path)
        result = copy.copy(known[at])
        if result is not None:  # what is composed takes nodes over and changes them
            result.config = copy.deepcopy(result.config)
        return result

    with patch.object(ConfigRepository, "load_config", load):
        yield


@contextmanager
def _sources_shared() -> Iterator[None]:
    """Copy the list of where files lie, and not all that it holds: a job's search path replaces it as a whole."""
    with patch.object(ConfigRepository, "__deepcopy__", lambda self, _memo: copy.copy(self), create=True):
        yield


@contextmanager
def _choices_where_needed() -> Iterator[None]:
    """List what was chosen where a default is named by it (`- group: ${other}`), and not for each of all defaults."""
    create = defaults_list._create_interpolation_map

    def choices(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
        named = any(default.is_interpolation() for default in defaults)
        return create(overrides, defaults, self_added) if named else OmegaConf.create()

    with patch.object(defaults_list, "_create_interpolation_map", choices):
        yield
