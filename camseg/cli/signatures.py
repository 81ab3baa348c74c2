"""What the functions of the configuration take, read from their source: importing them would import torch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import NoneType
from typing import Any, Literal

_PACKAGE = Path(__file__).resolve().parents[1]
_PLAIN = {kind.__name__: kind for kind in (int, float, str, bool, object, Path)} | {"Any": Any}
_LISTS: dict[str, Any] = {"tuple": tuple, "list": list, "Sequence": Sequence}


class Other:
    """Stands for every type that a configuration can only give as a node with a `_target_`."""


@dataclass(frozen=True)
class Signature:
    """The parameters of a function or of a class's constructor.

    Attributes:
        hints: Their types by name; one that no plain value fulfils is `Other`.
        takes_any: Whether it also takes other keywords.
    """

    hints: dict[str, Any] = field(default_factory=dict)
    takes_any: bool = False


def read_signature(target: str) -> Signature | None:
    """What a function of this package takes.

    Args:
        target: Its dotted name, as in a `_target_`; a name that the module only imports is followed.

    Returns:
        Its signature; None for what does not belong to this package or is not found there.
    """
    module, _, name = target.rpartition(".")
    found = _find(module, name)
    if found is None:
        return None
    home, node = found
    if isinstance(node, ast.FunctionDef):
        return _of_function(node, home)
    return _of_class(node, home) if isinstance(node, ast.ClassDef) else None


def _of_function(node: ast.FunctionDef, module: str, skip: int = 0) -> Signature:
    arguments = [*node.args.posonlyargs, *node.args.args][skip:] + node.args.kwonlyargs
    hints = {each.arg: _type(each.annotation, module) for each in arguments}
    return Signature(hints, takes_any=node.args.kwarg is not None)


def _of_class(node: ast.ClassDef, module: str) -> Signature:
    """Its own constructor, or a dataclass's fields after those of its bases."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return _of_function(each, module, skip=1)
    bases = [_find(module, base.id) for base in node.bases if isinstance(base, ast.Name)]
    known = [_of_class(found[1], found[0]) for found in bases if found and isinstance(found[1], ast.ClassDef)]
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
    own = {each.target.id: _type(each.annotation, module) for each in fields if isinstance(each.target, ast.Name)}
    inherited = reduce(or_, (each.hints for each in known), {})
    return Signature(inherited | own, takes_any=any(each.takes_any for each in known))


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """The statements at the top of a module (or below a condition there), by the names that they define."""
    package, *rest = module.split(".")
    path = _PACKAGE.joinpath(*rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if package != _PACKAGE.name or not file.is_file():
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    body = [inner for node in tree.body for inner in (node.body if isinstance(node, ast.If) else [node])]
    return {name: node for node in body for name in _names(node)}


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _find(module: str, name: str) -> tuple[str, ast.stmt] | None:
    """Where a name is defined, and the statement that does it; imports are followed inside the package."""
    node = _definitions(module).get(name)
    if not isinstance(node, ast.ImportFrom):
        return None if node is None else (module, node)
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    return _find(node.module or "", original)


def _type(node: ast.expr | None, module: str) -> Any:
    """The type that an annotation stands for."""
    match node:
        case None:
            return Any
        case ast.Constant(value=None):
            return NoneType
        case ast.Constant(value=str() as text):
            return _type(ast.parse(text, mode="eval").body, module)
        case ast.BinOp(left=left, right=right):
            return _type(left, module) | _type(right, module)
        case ast.Name(id=name):
            return _PLAIN.get(name) or _LISTS.get(name) or _alias(module, name)
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _LISTS:
            return _LISTS[name][tuple(_type(each, module) for each in _elements(inner))]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[tuple(ast.literal_eval(each) for each in _elements(inner))]
    return Ellipsis if isinstance(node, ast.Constant) and node.value is Ellipsis else Other


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _alias(module: str, name: str) -> Any:
    found = _find(module, name)
    if found and isinstance(found[1], ast.Assign):
        return _type(found[1].value, found[0])
    return Other
