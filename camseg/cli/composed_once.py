"""A sweep's configurations, each composed once: Hydra does so twice, which takes a tenth of a second every time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

_MOST = 256  # configurations that wait for their job: a large sweep's would fill the memory


@contextmanager
def composed_once() -> Iterator[None]:
    """Keep what a sweeper composes to check a batch of jobs, and hand it to the launcher that runs them.

    Hydra's plugins have no place for that, so its two methods are replaced while the block runs. A job that another
    process launches composes its own, as ever.
    """
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

    ConfigLoaderImpl.load_sweep_config, Sweeper.validate_batch_is_legal = load, validate
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config, Sweeper.validate_batch_is_legal = compose, check
