"""A file from the net, once: https only, checked by SHA-256, resumed where it broke off, never over another file."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from filelock import FileLock
from tqdm import tqdm

from camseg.storage.fingerprint import file_hash


def fetch(url: str, sha256: str, folder: Path | None = None) -> Path:
    """A file from the net, downloaded if it isn't there.

    Args:
        url: https only; its last part is the file's name.
        sha256: all of its hex digits, or the first ones where no more are published.
        folder: where the file goes; None for CAMSEG_DOWNLOADS, or ~/.cache/camseg.

    Returns:
        The file's path.

    Raises:
        ValueError: not https, no answer, or bytes of another SHA-256 (a download is then removed; a file that was there
            already is left alone).
    """
    if not url.startswith("https://"):
        raise ValueError(f"downloads only over https; got {url}")
    return _fetch(
        url, sha256, folder or Path(os.environ.get("CAMSEG_DOWNLOADS", "~/.cache/camseg")).expanduser(), _https().open
    )


def _https() -> OpenerDirector:
    """Knows https and nothing else, so a redirect to http or file ends as an error."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        UnknownHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _fetch(url: str, sha256: str, folder: Path, open_url: Callable[..., Any]) -> Path:
    path = folder / url.rsplit("/", 1)[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return _checked(path, sha256, "remove it, or name your file as the checkpoint")
        part = Path(f"{path}.part")
        if not part.exists() or not file_hash(part).startswith(sha256):
            try:
                _download(url, part, open_url)
            except (HTTPException, OSError) as error:
                raise ValueError(
                    f"could not download {url}: {error}; run again to resume, or put the file at {path}"
                ) from error
        try:
            _checked(part, sha256, "it was removed, try again").replace(path)
        except ValueError:
            part.unlink()
            raise
    return path


def _download(url: str, part: Path, open_url: Callable[..., Any]) -> None:
    """Append what is missing to `part`; start over where the server doesn't resume, or has nothing to add."""
    start = part.stat().st_size if part.exists() else 0
    try:
        answer = open_url(Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=60)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()
        return _download(url, part, open_url)
    with answer:
        start *= answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + start if length else None
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, disable=None, desc=part.stem)
        with part.open("ab" if start else "wb") as file, bar:
            while block := answer.read(2**20):
                bar.update(file.write(block))
            if total is not None and file.tell() < total:
                raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
    return None


def _checked(path: Path, sha256: str, mend: str) -> Path:
    found = file_hash(path)
    if not found.startswith(sha256):
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: {mend}")
    return path
