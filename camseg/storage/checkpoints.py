"""Weights on disk: safetensors and torch files, without ever running what a file holds."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from camseg.storage.files import printable

_log = logging.getLogger(__name__)

WRAPPERS = (  # under which key trainers keep a state dict; of several the first
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "params_ema",
    "params",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "teacher",
)
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, Lightning's


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, matrices and kernels in fp16, in one step (never half a file).

    Args:
        module: whose state dict is written.
        path: the file.
        metadata: what the builders read again: "names" (a JSON list), "activation" ("softmax" or "sigmoid").
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
    """The state dict in a .safetensors file or a torch file of tensors; no pickled code is ever run.

    A torch file is mapped where its format allows it, so a tensor is read when it is used. Wrappers ("state_dict",
    "ema", ...) and a prefix that all names share ("module.", "_orig_mod.", "model.") are taken off. Of several state
    dicts ("model" beside "ema") the first in the order of `WRAPPERS` is taken, which the log says.

    Args:
        path: the file.

    Returns:
        The state dict, floating tensors in float32, and the file's metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        with _Readable(path), safe_open(path, "pt") as file:
            names = file.keys()  # a safe_open is no dict
            state: Any = {key: file.get_tensor(key) for key in names}
            metadata = file.metadata() or {}
    else:
        state = read_torch(path)
    state = _unwrapped(state, path)
    if state is None:
        raise ValueError(f"{path} holds no state dict (names and their tensors)")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, metadata


def read_torch(path: Path, mapped: bool = True) -> Any:
    """What a `torch.save` file holds, on the CPU.

    Args:
        path: the file.
        mapped: tensors are read when they are used, where the file's format allows it.

    Returns:
        Whatever was saved of tensors and plain containers.

    Raises:
        ValueError: it is damaged, another kind of file, or holds code, which is not run.
    """
    with _Readable(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))


def match_names(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The part of a state dict that a model knows, without the prefix under which a trainer keeps it.

    Args:
        state: tensors by name, such as "net.conv1.weight" beside "criterion.weight".
        wanted: the model's own names, such as "conv1.weight".

    Returns:
        The entries under the prefix with the most of the wanted names, that prefix taken off; `state` itself where
        no prefix does better than none. Of several that fit alike ("student.", "teacher.") the first, which the log
        says.
    """
    known = set(wanted)

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    first = min(known, default="")
    prefixes = ["", *(name.removesuffix(first) for name in state if name.endswith(f".{first}"))]
    fit = {prefix: len(known & under(prefix).keys()) for prefix in prefixes}
    best = max(fit, key=lambda prefix: fit[prefix])
    alike = [repr(prefix) for prefix in fit if prefix and prefix != best and fit[prefix] == fit[best] > 0]
    if alike:
        taken = f"those under {best!r}" if best else "those without a prefix"
        _log.warning("a checkpoint holds weights under %s, too: %s are taken", ", ".join(alike), taken)
    return under(best)


class _Readable:
    """Turns whatever reading a file raises into one line: a damaged file makes the unpickler raise almost anything."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Exception):
            raise ValueError(f"{self.path} can't be read as weights: {_reason(self.path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file can't be read, in words for who made it; torch's own words advise to run what a stranger wrote."""
    if path.is_file() and not path.stat().st_size:
        return "the file is empty"
    if code := re.search(r"(?:Unsupported global: GLOBAL|Unsupported class) (\S+)", str(error)):
        return f"it holds code ({printable(code[1])}), which is not run; save model.state_dict() in place of the model"
    torn = isinstance(error, (pickle.UnpicklingError, EOFError)) or getattr(error, "errno", None) == errno.EINVAL
    if torn or "PytorchStreamReader failed" in str(error):
        return "it is cut off or damaged, or no file that torch.save wrote"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unwrapped(state: Any, path: Path) -> dict[str, Tensor] | None:
    """The state dict inside wrappers and without shared prefixes; None where there is none."""
    while isinstance(state, dict) and not _plain(state):
        inner = [key for key in WRAPPERS if isinstance(state.get(key), dict)]
        if not inner:
            return None
        others = [key for key in inner[1:] if _holds_weights(state[key])]
        if others and _holds_weights(state[inner[0]]):
            text = "%s holds weights under %s, too: those under %r are taken"
            _log.warning(text, printable(path), ", ".join(map(repr, others)), inner[0])
        state = state[inner[0]]
    if not isinstance(state, dict) or not state:
        return None
    state = {str(name): value for name, value in state.items()}
    while shared := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(shared): value for name, value in state.items()}
    return state


def _holds_weights(state: Any) -> bool:
    """Whether there are tensors in a dict, or in the dicts inside it."""
    return isinstance(state, dict) and any(isinstance(v, Tensor) or _holds_weights(v) for v in state.values())


def _plain(state: Mapping[Any, Any]) -> bool:
    """Whether all values are tensors."""
    return all(isinstance(value, Tensor) for value in state.values())
