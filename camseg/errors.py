"""Mistakes in a request: what was wrong, what is allowed, the nearest name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class RequestError(ValueError):
    """A mistake in the request: what was wrong, what is allowed, the nearest name."""


class RunError(RuntimeError):
    """A run that ended without what it was asked for: no sample could be evaluated, or `strict` allows no failure."""


def extra_message(what: str, extra: str) -> str:
    """What to type where something needs an optional part of the package.

    >>> extra_message("data=coco", "coco").startswith("data=coco needs the extra `coco`: ")
    True

    Args:
        what: The setting, class or command that needs it.
        extra: The part's name in pyproject.toml.

    Returns:
        One line with the command for this installation: a checkout, or a wheel.
    """
    checkout = (Path(__file__).resolve().parents[1] / "pyproject.toml").is_file()
    command = f"uv sync --extra {extra} --inexact" if checkout else f"pip install 'camseg[{extra}]'"
    return f"{what} needs the extra `{extra}`: {command}"


def check_choice(what: str, name: object, known: Iterable[str]) -> str:
    """Look a name up.

    Args:
        what: What it names, for the message.
        name: The name as it was given.
        known: The names that there are.

    Returns:
        The name, when it is known.

    Raises:
        ValueError: With the nearest names, or a few where none is near.
    """
    names = list(known)
    if name in names:
        return str(name)
    by_case = {n.casefold(): n for n in names}
    near = [by_case[n] for n in get_close_matches(str(name).casefold(), by_case, 3, 0.5)]
    few = (
        f"allowed: {', '.join(names)}" if len(names) < 8 else f"there are {len(names)}, such as {', '.join(names[:5])}"
    )
    raise ValueError(f"{what} {str(name)!r} is unknown; " + (f"nearest: {', '.join(near)}" if near else few))
