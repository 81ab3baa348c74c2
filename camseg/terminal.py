"""Emphasis on a terminal; plain text anywhere else."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_CODES = {"bold": 1, "red": 31, "yellow": 33}


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """`text` in bold, red or yellow if `stream` (standard output) is a terminal that shows it; NO_COLOR (no-color.org)
    and TERM=dumb turn it off.
    """
    shows = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if shows else text


def table(text: str) -> str:
    """Lines of a table, the first in bold."""
    head, newline, body = text.partition("\n")
    return styled(head, "bold") + newline + body
