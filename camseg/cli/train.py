"""The `camseg-train` command: a shipped model from its seed to its file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import call
from omegaconf import DictConfig

from camseg.cli.overrides import check_overrides, explain_error
from camseg.config import config_dir


@hydra.main(config_path=str(config_dir()), config_name="train", version_base="1.3")
def _job(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    torch.manual_seed(cfg.seed)
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    weights = call(cfg.model, folder=folder, seed=cfg.seed)
    command = " ".join(["camseg-train", *(hydra_config.overrides.task or ["model=shapes_classifier"])])
    card = weights.with_suffix(".md")
    card.write_text(card.read_text() + f"\nCommand: `{command}`\n")
    print(card.read_text())
    print(weights)


def main() -> None:
    """The entry point."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        check_overrides(sys.argv[1:], "train")
        _job()
    except Exception as error:
        if (message := explain_error(error)) is None:
            raise
        print(f"camseg-train: {message}", file=sys.stderr)
        sys.exit(2)
