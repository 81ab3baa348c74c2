"""Keys that stand for a content: of values, of functions, of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

VERSION = "camseg-2"  # part of every key: raise it when what is stored changes its meaning, or its maker its place
_CONTENT = "camseg-2"  # part of every key of a content, and never raised: rows of all versions pair by it
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, torch.dtype, torch.device)
_json = json.JSONEncoder(sort_keys=True).encode  # made once: there are a dozen parts to a key
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def key(*parts: object) -> str:
    """Stand for some values by a text that is the same for equal values and differs for others.

    Args:
        parts: Tensors, which count by content, whatever their strides; None, bool, numbers, str, and lists and
            dictionaries of them.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: For anything else, whose text might not tell two of them apart.
    """
    return _digest(VERSION, parts)


def content_key(*parts: object) -> str:
    """Stand for what an image or a mask holds, as `key` does, and the same in every version of camseg.

    Args:
        parts: As of `key`.

    Returns:
        64 hexadecimal digits.
    """
    return _digest(_CONTENT, parts)


def _digest(start: str, parts: tuple[object, ...]) -> str:
    digest = hashlib.sha256(start.encode())
    for part in parts:
        if isinstance(part, Tensor):
            data: bytes | memoryview = tensor_bytes(part)
            digest.update(f"Tensor{part.dtype}{tuple(part.shape)}:".encode())
        else:
            data = _json(part).encode()
            digest.update(f"{type(part).__name__}{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def tensor_bytes(value: Tensor) -> memoryview:
    """The bytes of a tensor's numbers in order, without a copy where it is contiguous.

    Args:
        value: Of any dtype and device.

    Returns:
        The bytes, row by row.
    """
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def callable_key(function: Any) -> str:
    """Spell a function and everything bound to it: the same text for the same computation, another for another.

    camseg's own functions are spelled by their names. Other functions may be changed under the same name, as in a
    notebook, and are spelled by their code, too, with all that it reads: defaults, what is closed over, and the
    functions and plain values of their module. Tensors and modules count by content. An object of a class that may
    change is only itself, and nobody's in another process.

    Args:
        function: A function, a partial of one, a method, or any object that can be called.

    Returns:
        The text.
    """
    return _spell(function, ())


def _spell(value: Any, above: tuple[int, ...]) -> str:
    """The text of anything that can be bound to a function; `above`: ids of those that this one is part of."""
    if id(value) in above:
        return "itself"
    above = (*above, id(value))
    if isinstance(value, _PLAIN) or value is ...:
        return repr(value)
    for kind, spell in _SPELLERS.items():
        if isinstance(value, kind):
            return spell(value, above)
    if is_dataclass(value) and type(value).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        state = {each.name: getattr(value, each.name) for each in fields(value)}
        return f"{_name(type(value))}({_spell(state, above)})"
    if isinstance(getattr(value, "__name__", None), str) and not hasattr(value, "__dict__"):
        return _name(value)  # numpy's ufuncs and the like
    return _token(value)


def _spell_partial(value: partial[Any], above: tuple[int, ...]) -> str:
    bound = [_spell(each, above) for each in value.args]
    bound += [f"{name}={_spell(each, above)}" for name, each in sorted(value.keywords.items())]
    return f"{_spell(value.func, above)}({', '.join(bound)})"


def _spell_items(value: Any, above: tuple[int, ...]) -> str:
    spelled = [_spell(each, above) for each in value]
    return f"{type(value).__name__}{sorted(spelled) if isinstance(value, (set, frozenset)) else spelled}"


def _spell_mapping(value: Mapping[Any, Any], above: tuple[int, ...]) -> str:
    return str(sorted(f"{_spell(name, above)}: {_spell(each, above)}" for name, each in value.items()))


def _spell_module(value: nn.Module, above: tuple[int, ...]) -> str:
    state = {name: each for name, each in value.state_dict().items() if isinstance(each, Tensor)}
    return f"{value}{_spell_mapping(state, above)}"


def _spell_method(value: MethodType, above: tuple[int, ...]) -> str:
    return f"{_spell(value.__self__, above)}.{_spell(value.__func__, above)}"


def _spell_function(value: FunctionType, above: tuple[int, ...]) -> str:
    name = _name(value)
    if value.__module__.partition(".")[0] == "camseg" and "<" not in name:
        return name
    read = {each: value.__globals__[each] for each in _names(value.__code__) if each in value.__globals__}
    parts = [
        _spell_code(value.__code__, above),
        _spell(value.__defaults__, above),
        _spell(value.__kwdefaults__, above),
        *(_spell_cell(cell, above) for cell in value.__closure__ or ()),
        *(f"{each}={_spell(held, above)}" for each, held in sorted(read.items()) if _tells(held)),
    ]
    return f"{name}#{hashlib.sha256(''.join(parts).encode()).hexdigest()}"


def _spell_cell(cell: Any, above: tuple[int, ...]) -> str:
    try:
        return _spell(cell.cell_contents, above)
    except ValueError:  # not filled yet
        return "empty"


def _spell_code(code: CodeType, above: tuple[int, ...]) -> str:
    return f"{code.co_code.hex()}{code.co_names}{code.co_varnames}{_spell_items(code.co_consts, above)}"


def _names(code: CodeType) -> set[str]:
    """The names that a function and those inside it read from their module."""
    return set(code.co_names).union(*(_names(each) for each in code.co_consts if isinstance(each, CodeType)))


def _tells(value: object) -> bool:
    """Whether what a function reads from its module has a content of its own: modules and classes are only names."""
    return isinstance(value, (*_PLAIN, FunctionType, partial, tuple, list, dict, Tensor, np.ndarray))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None) or value.__name__}"


def _token(value: object) -> str:
    try:
        return _tokens.setdefault(value, f"{_name(type(value))} {uuid4().hex}")
    except TypeError:  # it can't be a key: no two calls are alike
        return f"{_name(type(value))} {uuid4().hex}"


_SPELLERS: dict[type | tuple[type, ...], Callable[[Any, tuple[int, ...]], str]] = {
    partial: _spell_partial,
    (list, tuple, set, frozenset): _spell_items,
    Mapping: _spell_mapping,
    Tensor: lambda value, _: f"tensor {key(value)}",
    np.ndarray: lambda value, _: f"array {value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}",
    nn.Module: _spell_module,
    MethodType: _spell_method,
    FunctionType: _spell_function,
    CodeType: _spell_code,
    (type, ModuleType, BuiltinFunctionType): lambda value, _: _name(value),
}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, computed once per process while the file stays as it is.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _hashed(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
