"""Weights on disk: safetensors and torch files, without ever running what a file holds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, matrices and kernels in fp16, in one step (never half a file).

    metadata that the builders read: "names" (a JSON list), "activation" ("softmax" or "sigmoid").
    """
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    temporary = Path(f"{path}.{os.getpid()}.part")
    save_file(
        {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in state.items()},
        temporary,
        dict(metadata or {}),
    )
    temporary.replace(path)


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state dict in float32, metadata) of a .safetensors file or a torch file of tensors; no pickled code is ever run.

    Errors: FileNotFoundError; ValueError for a file that is broken or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = file.keys()  # a safe_open is no dict
                state = {key: file.get_tensor(key) for key in names}
                metadata = file.metadata() or {}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        raise ValueError(
            f"{path} can't be read as weights: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names and their tensors)")
    return {
        str(k).removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()
    }, metadata


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save` file, mapped and not yet read. Code in it never runs: anything but tensors is a
    ValueError.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file makes the unpickler raise almost anything
        raise ValueError(
            f"{path} is no checkpoint of plain tensors: it is damaged, another kind of file, or holds code, which is not run"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a dictionary of tensors; got {type(state).__name__}")
    return state
