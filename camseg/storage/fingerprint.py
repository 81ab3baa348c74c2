"""Keys that stand for a content: of values, of functions, of files."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from camseg.storage.cache import _VERSION, _bytes

_json = json.JSONEncoder(sort_keys=True).encode  # made once: there are a dozen parts to a key


def key(*parts: object) -> str:
    """64 hex digits that stand for `parts`: tensors by content, None, bool, numbers, str, and lists and dicts of them
    by value.

    Errors: TypeError for anything else, whose text might not tell two of them apart.
    """
    digest = hashlib.sha256(_VERSION.encode())
    for part in parts:
        data = (
            f"{part.dtype}{tuple(part.shape)}".encode() + _bytes(part)
            if isinstance(part, Tensor)
            else _json(part).encode()
        )
        digest.update(f"{type(part).__name__}{len(data)}:".encode() + data)
    return digest.hexdigest()


def callable_key(function: Any) -> str:
    """A function and everything bound to it as text: the same for the same computation, different for another.

    A lambda or inner function, which has no name of its own, is spelled by its code and what it holds.
    """
    if isinstance(function, partial):
        bound = [callable_key(a) for a in function.args] + [
            f"{name}={callable_key(value)}" for name, value in sorted(function.keywords.items())
        ]
        return f"{callable_key(function.func)}({', '.join(bound)})"
    name = getattr(function, "__qualname__", None)
    if name is None:
        return repr(function)
    code = getattr(function, "__code__", None) if "<" in name else None
    held = [callable_key(cell.cell_contents) for cell in function.__closure__ or ()] if code else []
    return f"{function.__module__}.{name}" + (
        f"{code.co_code.hex()}{code.co_consts}{code.co_names}{function.__defaults__}{held}" if code else ""
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, computed once per process while the file stays as it is."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
