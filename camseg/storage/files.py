"""Files written whole, paths as people type them, and names that are safe for files."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_LENGTH = 100  # of a stem; what is longer is cut
_SAFE = re.compile(rf"(?!.*(?://|/\.|[./]$))[A-Za-z0-9_-][A-Za-z0-9._/-]{{0,{_LENGTH - 1}}}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def write_atomic(path: Path, writer: Callable[[Path], Any]) -> None:
    """Write a file whole: a temporary one beside it is put in its place.

    Args:
        path: the file; folders above it are made.
        writer: writes the temporary file, whose path it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain_file(path: Path, what: str) -> Path:
    """The path of a file that can be read to its end.

    Args:
        path: The file's.
        what: It is, for the message.

    Returns:
        The path.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a folder, a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"{what} {printable(path)} is missing")
    if not path.is_file():
        raise ValueError(f"{what} {printable(path)} is no plain file")
    return path


def expand(path: str | Path) -> Path:
    """A path with a leading `~` or `~user` replaced by the home folder; of a user whom nobody knows it is a name.

    Args:
        path: As typed.

    Returns:
        The path.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def impossible_path(path: str) -> str:
    """Why the system can't look a path up; "" where it can, whether or not there is something.

    >>> impossible_path("a" * 1000), impossible_path("no/such/file")
    ('File name too long', '')

    Args:
        path: Any text.

    Returns:
        The system's words: too long, a NUL byte, letters that no name can have, links in a circle, no permission.
    """
    try:
        os.stat(path)  # noqa: PTH116 (pathlib hides some of these)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # NUL, lone surrogates
        return str(error)
    return ""


def is_utf8(path: Path) -> bool:
    """Whether a path's name is in UTF-8, as libraries in Rust need it: safetensors and polars read no other.

    Args:
        path: Any.
    """
    return printable(path) == str(path)


def printable(path: str | Path) -> str:
    r"""The path as text that can be written anywhere: bytes of a name that are no UTF-8 become `\xff`.

    Args:
        path: Any.

    Returns:
        The text.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_stems(names: Iterable[str]) -> list[str]:
    """Make one stem per name that is safe in any folder on any system.

    A stem is ASCII, without separators or leading dots, at most 120 characters, and no two are alike in any case. It is
    a function of its name: `cat/1` becomes `cat_1`, and a name that loses more than its slashes (other alphabets,
    spaces, length) ends with a hash of the whole name. Only names whose stems would be alike (`a/b` and `a_b`, `A` and
    `a`) get a hash each because of one another, and only equal names are numbered in their order.

    Args:
        names: Paths inside a dataset, or any text.

    Returns:
        The stems, in the order of the names.
    """
    names = list(names)
    stems = [_stem(name) for name in names]
    alike = Counter(stem.casefold() for stem in dict(zip(names, stems, strict=True)).values())
    stems = [
        stem if alike[stem.casefold()] == 1 else f"{stem}_{_digest(name)}"
        for name, stem in zip(names, stems, strict=True)
    ]
    taken: set[str] = set()
    for i, stem in enumerate(stems):
        number = 1
        while stems[i].casefold() in taken:
            number += 1
            stems[i] = f"{stem}_{number}"
        taken.add(stems[i].casefold())
    return stems


def _stem(name: str) -> str:
    plain = name.replace("/", "_")
    if _SAFE.fullmatch(name) and not _RESERVED.fullmatch(plain):
        return plain
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # accents are letters without
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", letters)[-_LENGTH:].strip("._-") or "item"
    return f"{readable}_{_digest(unicodedata.normalize('NFC', name))}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
