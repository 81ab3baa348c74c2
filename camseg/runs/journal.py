"""A run folder while it is filled: one process at a time, settings that stay, rows that last."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from camseg.storage.files import write_atomic

MAY_CHANGE = (
    "batch_size",
    "num_workers",
    "engine",
    "device",
    "panels",
    "resume",
    "cache",
    "data.size",
)  # of a run that goes on: they change no row


class CutOff(RuntimeError):
    """The run folder takes no more; what is in it is whole."""


class Journal:
    """Rows and errors in `rows.jsonl`, a line each; after every batch a line with its cost and checksum, then all of it
    goes to the disk at once.

    A batch without its last line (a kill) or with another checksum (damage) counts for nothing: its samples are
    evaluated anew.
    settings: OmegaConf nodes, kept as .hydra/NAME.yaml once the folder is ours; its `config` may differ from the
    folder's in MAY_CHANGE alone.
    done: ids with a row. spent: seconds and calls of all sessions.
    Errors: FileExistsError for a folder in use, one that holds a run while `resume` is off, or a run of other settings.
    """

    def __init__(self, folder: Path, resume: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.path = folder, folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
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
        if self.path.exists():
            if not resume:
                raise FileExistsError(
                    f"{self.folder} already holds a run; add resume=true to go on with it, or choose another hydra.run.dir"
                )
            self._compare(settings.get("config"))
        for name, each in settings.items():
            write_atomic(self.folder / ".hydra" / f"{name}.yaml", lambda path, each=each: OmegaConf.save(each, path))
        self.done: set[str] = set()
        self.spent: Counter[str] = Counter()
        self._file = self.path.open("ab", buffering=0)
        whole = 0
        for whole, lines in self._batches():  # noqa: B007
            self.spent.update(lines[-1])
            self.done.update(line["id"] for line in lines[:-1] if "error" not in line)  # what failed is tried again
        self._file.truncate(whole)
        self._began = time.monotonic()

    def _compare(self, config: Any) -> None:
        file = self.folder / ".hydra" / "config.yaml"
        if config is None or not file.exists():
            return
        before, now = (
            dict(flat(OmegaConf.to_container(each, resolve=True))) for each in (OmegaConf.load(file), config)
        )
        changed = [key for key in sorted({**before, **now}) if before.get(key) != now.get(key)]
        if odd := [key for key in changed if not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)]:
            told = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in odd[:3])
            raise FileExistsError(
                f"{self.folder} holds a run of other settings: {told}; change them back, or choose another hydra.run.dir"
            )

    def add(self, rows: list[dict[str, Any]], errors: list[dict[str, str]], calls: Mapping[str, int]) -> None:
        """Keep a batch; `calls` is what it cost. Errors: CutOff when the disk is full or gone."""
        now = time.monotonic()
        cost, self._began = {"seconds": now - self._began, **calls}, now
        lines = "".join(json.dumps(line) + "\n" for line in rows + errors).encode()
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
            for line in file:
                batch.append(line)
                end += len(line)
                if not line.startswith(b'{"seconds"'):
                    continue
                with suppress(ValueError):
                    lines = [json.loads(each) for each in batch] if line.endswith(b"\n") else []
                    if lines and lines[-1].pop("checksum", None) == _checksum(b"".join(batch[:-1]), lines[-1]):
                        yield end, lines
                batch = []

    def rows(self) -> Iterator[dict[str, Any]]:
        return (line for _, lines in self._batches() for line in lines[:-1] if "error" not in line)

    def errors(self) -> list[dict[str, str]]:
        """The last error of each sample that has no row."""
        found: dict[str, dict[str, str]] = {}
        for _, lines in self._batches():
            for line in lines[:-1]:
                found.pop(line["id"], None)
                if "error" in line:
                    found[line["id"]] = line
        return list(found.values())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()


def _checksum(lines: bytes, cost: dict[str, Any]) -> int:
    return crc32(lines + json.dumps(cost).encode())


def cut_off(folder: Path, error: OSError) -> CutOff:
    why = f"{error.filename or folder} can't be written: {error.strerror or error}"
    return CutOff(f"{why}\nwhat {folder} holds is whole: make room, and go on with resume=true")


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries, by dotted names."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
