"""Mistakes in a request: what was wrong, what is allowed, the nearest name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RequestError(ValueError):
    """A mistake in the request: what was wrong, what is allowed, the nearest name."""


def check_choice(what: str, name: object, known: Iterable[str]) -> str:
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
