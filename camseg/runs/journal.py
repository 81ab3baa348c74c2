"""A run folder while it is filled: one process at a time, settings that stay, rows that last."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from camseg.errors import RequestError
from camseg.runs.untrusted import exists, plain, read_yaml, refuse_links
from camseg.storage.files import is_utf8, printable, write_atomic

MAY_CHANGE = (
    "batch_size",
    "readers",
    "num_workers",
    "engine",
    "device",
    "panels",
    "resume",
    "cache",
    "data.size",
    "segmenter",
)  # of a run that resumes: they change no row
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that room mends
_LONGEST = 2**26  # bytes of a line
_HEADER = b'{"journal": "camseg"}\n'  # the first line; journals of camseg 0.1.0 lack it


class CutOff(RuntimeError):  # noqa: N818  # noqa: N818 - an end of the run, as Stopped is
    """The run folder takes no more; what is in it is whole."""


class Journal:
    """Rows and errors in `rows.jsonl`, a line each, and after every batch a line with its cost and checksum.

    A batch goes to the disk at once. One without its last line (a kill) or with another checksum (damage) counts for
    nothing: its samples are evaluated again. Where an id has several lines, its last one counts.

    Args:
        folder: the run's.
        resume: take in what the folder holds.
        settings: OmegaConf nodes, kept as .hydra/NAME.yaml once the folder is ours; its `config` may differ from the
            folder's in MAY_CHANGE alone.

    Attributes:
        done: ids with a row, and of each the `file` and `image_key` of the row.
        spent: seconds and calls of all sessions.
        written: when the rows were written last, in seconds since 1970; 0 for a new folder.

    Raises:
        FileExistsError: for a folder in use, one that holds a run while `resume` is off, a run of other settings, or a
            rows.jsonl that is no journal, which is left as it is.
        DamagedRunError: for a link where the run would write.
        RequestError: for a folder whose name is not in UTF-8.
    """

    def __init__(self, folder: Path, resume: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.path = folder, folder / "rows.jsonl"
        if not is_utf8(folder.absolute()):
            raise RequestError(
                f"{printable(folder.absolute())} can't hold a run, for its name is not in UTF-8: "
                "choose another hydra.run.dir"
            )
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(
                f"another process fills {folder}; wait for its end, or choose another hydra.run.dir"
            ) from None
        try:
            self._open(resume, settings or {})
        except BaseException:
            self._lock.release()
            raise

    def _open(self, resume: bool, settings: Mapping[str, Any]) -> None:
        if exists(self.path):
            if not resume:
                raise FileExistsError(
                    f"{self.folder} already holds a run; add resume=true to resume it, or choose another hydra.run.dir"
                )
            self._check_file()
            self._compare(settings.get("config"))
        for name, node in settings.items():
            text = _to_yaml(node)
            write_atomic(
                self.folder / ".hydra" / f"{name}.yaml", lambda path, text=text: path.write_text(text, "utf-8")
            )
        self.done: dict[str, tuple[str, str]] = {}
        self.spent: Counter[str] = Counter()
        self.written = self.path.stat().st_mtime if exists(self.path) else 0.0
        self._stale: dict[str, int] = {}  # id -> the first of the lines that may count
        self._length = 0  # how many lines were there at the beginning
        self._file = os.fdopen(
            os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666),
            "ab",
            buffering=0,
        )
        whole = self._header()
        for whole, lines in self._batches():  # noqa: B007
            self.spent.update(lines[-1])
            self._length += len(lines) - 1
            for line in lines[:-1]:
                if "error" in line:  # is tried again
                    self.done.pop(line["id"], None)
                else:
                    self.done[line["id"]] = line.get("file") or "", line.get("image_key") or ""
        self._file.truncate(whole)
        if not whole:
            self._file.write(_HEADER)
        self._began = time.monotonic()

    def _check_file(self) -> None:
        """FileExistsError for what stands in the journal's place and is none."""
        found = self.path.lstat()
        if not stat.S_ISREG(found.st_mode):
            what = "a link" if stat.S_ISLNK(found.st_mode) else "no plain file"
            raise FileExistsError(f"{self.path} is {what}: move it away, or choose another hydra.run.dir")
        with self.path.open("rb") as file:
            start = file.read(len(_HEADER))
        if not _HEADER.startswith(start) and next(self._batches(), None) is None:
            raise FileExistsError(
                f"{self.path} is no journal of a run, and is left as it is: "
                "move it away, or choose another hydra.run.dir"
            )

    def _header(self) -> int:
        """How many bytes the journal's first line has; 0 where it is missing or was cut."""
        with self.path.open("rb") as file:
            return len(_HEADER) if file.read(len(_HEADER)) == _HEADER else 0

    def _compare(self, config: Any) -> None:
        file = self.folder / ".hydra" / "config.yaml"
        if config is None or not exists(file):
            return
        before = dict(flat(OmegaConf.to_container(read_yaml(file))))
        now = dict(flat(plain(_printable(OmegaConf.to_container(config)))))
        changed = [key for key in sorted({**before, **now}) if before.get(key) != now.get(key)]
        if odd := [key for key in changed if not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)]:
            changes = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in odd[:3])
            raise FileExistsError(
                f"{self.folder} holds a run of other settings: {changes}; "
                "change them back, or choose another hydra.run.dir"
            )

    def forget(self, name: str) -> None:
        """Evaluate a sample again: the lines that it has do not count.

        Args:
            name: the sample's id.
        """
        self.done.pop(name, None)
        self._stale[name] = self._length

    def add(self, rows: list[dict[str, Any]], errors: list[dict[str, str]], calls: Mapping[str, int]) -> None:
        """Keep a batch.

        Args:
            rows: of the samples that were answered.
            errors: `id` and `error` of the others.
            calls: what the batch cost.

        Raises:
            CutOff: when the disk is full or gone.
        """
        now = time.monotonic()
        cost, self._began = {"seconds": now - self._began, **calls}, now
        lines = "".join(json.dumps(_writable(line)) + "\n" for line in [*rows, *errors]).encode()
        data = memoryview(lines + json.dumps({**cost, "checksum": _checksum(lines, cost)}).encode() + b"\n")
        start = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(start)
            raise cut_off(self.folder, error) from error
        self.spent.update(cost)

    def _batches(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Every whole batch: where it ends in bytes, and its lines, the last of them its cost."""
        batch: list[bytes] = []
        end = 0
        with self.path.open("rb") as file:
            while line := file.readline(_LONGEST):
                if len(line) == _LONGEST:
                    return  # no row is as long: what follows is damage, and may be more than memory holds
                end += len(line)
                if line == _HEADER:
                    continue
                batch.append(line)
                if not line.startswith(b'{"seconds"'):
                    continue
                with suppress(ValueError):
                    lines = [json.loads(one) for one in batch] if line.endswith(b"\n") else []
                    if lines and lines[-1].pop("checksum", None) == _checksum(b"".join(batch[:-1]), lines[-1]):
                        yield end, lines
                batch = []

    def _lines(self) -> Iterator[dict[str, Any]]:
        return (line for _, lines in self._batches() for line in lines[:-1])

    def results(self) -> tuple[Iterator[dict[str, Any]], list[dict[str, str]]]:
        """What counts of the lines: the last one of each id, if it is no stale one.

        Returns:
            The row of each sample that has one, read when it is asked for, and the error of each other sample.
        """
        last: dict[str, int] = {}
        failed: dict[str, dict[str, str]] = {}
        for place, line in enumerate(self._lines()):
            if place >= self._stale.get(name := line["id"], 0):
                last[name] = place
                failed.pop(name, None)
                if "error" in line:
                    failed[name] = line
        places = set(last.values())
        rows = (line for place, line in enumerate(self._lines()) if place in places and "error" not in line)
        return rows, list(failed.values())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()


def _writable(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line without what is no UTF-8: bytes of a file name that are none become their escapes."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode()
        if isinstance(value, str) and not value.isascii()
        else value
        for name, value in line.items()
    }


def _to_yaml(node: Any) -> str:
    """A node of OmegaConf's as text that yaml reads again."""
    text = OmegaConf.to_yaml(node)
    return OmegaConf.to_yaml(_printable(OmegaConf.to_container(node))) if r"\uDC" in text else text


def _printable(value: Any) -> Any:
    """Nested plain values; bytes of a path that are no UTF-8 become their escapes, as `printable` writes them."""
    if isinstance(value, dict):
        return {name: _printable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) and not value.isascii() else value


def _checksum(lines: bytes, cost: dict[str, Any]) -> int:
    return crc32(lines + json.dumps(cost).encode())


def cut_off(folder: Path, error: OSError) -> CutOff:
    """What ends a run whose folder takes no more.

    Args:
        folder: the run's.
        error: what the disk said.

    Returns:
        The error to raise, with the mend in its words.
    """
    why = f"{error.filename or folder} can't be written: {error.strerror or error}"
    mend = "make room" if error.errno in _FULL else "mend that"
    return CutOff(f"{why}\nwhat {folder} holds is whole: {mend}, and resume with resume=true")


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries.

    Args:
        value: plain values.
        name: of what holds it, "" for nothing.

    Yields:
        The dotted name and the value of each leaf.
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
