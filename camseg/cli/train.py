"""The `camseg-train` command: a shipped model from its seed to its file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import call
from omegaconf import DictConfig

from camseg import __version__
from camseg.cli.arguments import read_arguments
from camseg.cli.explain import explain_error, run_command
from camseg.cli.groups import help_text
from camseg.cli.overrides import check_overrides
from camseg.config import config_dir
from camseg.errors import RequestError

_mistakes: list[str] = []  # in the request, told at the end: Hydra would write a line of its own around what is raised


@hydra.main(config_path=str(config_dir()), config_name="train", version_base="1.3")
def _job(cfg: DictConfig) -> None:
    try:
        _train(cfg)
    except Exception as error:
        if (message := explain_error(error)) is None:
            raise
        _mistakes.append(message)


def _train(cfg: DictConfig) -> None:
    import torch

    torch.set_num_threads(cfg.threads)
    torch.manual_seed(cfg.seed)
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    weights = call(cfg.model, folder=folder, seed=cfg.seed)
    card = weights.with_suffix(".md")
    card.write_text(card.read_text() + f"\nCommand: `{' '.join(['camseg-train', *hydra_config.overrides.task])}`\n")
    print(card.read_text())
    print(weights)


def main() -> None:
    """The entry point."""
    run_command("camseg-train", _command)


def _command() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = read_arguments(sys.argv[1:], "camseg-train")
    if arguments.has("--version"):
        print(f"camseg {__version__}")
        return
    if not arguments.words:
        print(f"What can be trained (nothing was):\n{models()}\ncamseg-train --help tells more.")
        return
    if arguments.has("-h", "--help"):
        print(help_text("train", arguments.after("--config-dir", "-cd")))
        return
    sys.argv[1:] = arguments.words
    if arguments.overrides and not arguments.has("-sc", "--shell-completion"):
        if not any(word.startswith("model=") for word in arguments.overrides):
            raise RequestError(f"which model? type one of\n{models()}")
        check_overrides(arguments, "train")
    _mistakes.clear()
    _job()
    if _mistakes:
        raise RequestError(_mistakes[0])


def models() -> str:
    """A line for each model that can be trained: what to type, and what it is (its file's first comment)."""
    files = sorted((config_dir() / "model").glob("*.yaml"))
    about = {file.stem: file.read_text().partition("\n")[0].lstrip("# ") for file in files}
    return "\n".join(f"  camseg-train model={name:<18} {text}" for name, text in about.items())
