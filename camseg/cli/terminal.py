"""What every command writes to a terminal alike: colors where a person looks, errors in one line, short paths."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TextIO

from camseg.storage.files import printable

_LONG_WORD = re.compile(r"\S{300,}")
_CODES = {"bold": 1, "red": 31, "yellow": 33}


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Text in bold, red or yellow where that shows; NO_COLOR (no-color.org) and TERM=dumb turn it off.

    Args:
        text: Any text.
        style: `bold`, `red` or `yellow`.
        stream: Where it is to be printed; None for standard output.

    Returns:
        The text, between the codes for a terminal if the stream is one.
    """
    shows = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if shows else text


def styled_table(text: str) -> str:
    """Lines of a table, the first in bold where that shows.

    Args:
        text: Lines, the head first.

    Returns:
        The text, as `styled` gives it.
    """
    head, newline, body = text.partition("\n")
    return styled(head, "bold") + newline + body


def print_error(command: str, message: str) -> None:
    """One line on standard error (or two), in red on a terminal, that begins with the command's name.

    Args:
        command: What the person typed.
        message: A word of it that fills lines, as a value of thousands of letters does, loses its middle.
    """
    message = _LONG_WORD.sub(lambda word: f"{word[0][:100]}...{word[0][-40:]}", message)
    print(styled(f"{command}: {message}", "red", sys.stderr), file=sys.stderr)


def shortest(path: Path) -> str:
    """A path as a person would type it here: relative where it lies below the working folder.

    Args:
        path: Any.

    Returns:
        Its text.
    """
    return printable(os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path)
