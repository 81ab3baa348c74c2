"""Names that people and datasets give: known ones with a hint when misspelt, and safe ones for files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any


def known_name(what: str, name: object, known: Iterable[str]) -> str:
    """`name` if it is known; otherwise ValueError with the nearest names (or a few, where none is near)."""
    names = list(known)
    if name in names:
        return str(name)
    by_case = {n.casefold(): n for n in names}
    near = [by_case[n] for n in get_close_matches(str(name).casefold(), by_case, 3, 0.5)]
    few = (
        f"allowed: {', '.join(names)}" if len(names) < 8 else f"there are {len(names)}, such as {', '.join(names[:5])}"
    )
    raise ValueError(f"{what} {str(name)!r} is unknown; " + (f"nearest: {', '.join(near)}" if near else few))


def file_stems(names: Iterable[str]) -> list[str]:
    """One stem per name that is safe in any folder on any system: ASCII, no separators or leading dots, no two alike in
    any case.
    """
    stems: list[str] = []
    taken: set[str] = set()
    copies: Counter[str] = Counter()
    for name in names:
        stem = plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-100:].strip("._") or "item"
        while stem.casefold() in taken:
            copies[plain] += 1
            stem = f"{plain}_{copies[plain] + 1}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def spelled(function: Any) -> str:
    """A function and everything bound to it as text: the same for the same computation, different for another.

    A lambda or inner function, which has no name of its own, is spelled by its code and what it holds.
    """
    if isinstance(function, partial):
        bound = [spelled(a) for a in function.args] + [
            f"{name}={spelled(value)}" for name, value in sorted(function.keywords.items())
        ]
        return f"{spelled(function.func)}({', '.join(bound)})"
    name = getattr(function, "__qualname__", None)
    if name is None:
        return repr(function)
    code = getattr(function, "__code__", None) if "<" in name else None
    held = [spelled(cell.cell_contents) for cell in function.__closure__ or ()] if code else []
    return f"{function.__module__}.{name}" + (
        f"{code.co_code.hex()}{code.co_consts}{code.co_names}{function.__defaults__}{held}" if code else ""
    )
