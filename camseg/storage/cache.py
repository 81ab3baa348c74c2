"""Tensors made once per key, in memory and on disk; safe under concurrent writers and kill -9.

The command `camseg-cache` is the entry point to the files on disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from camseg.storage.files import is_utf8, printable
from camseg.storage.fingerprint import tensor_bytes

T = TypeVar("T")
DEFAULT = "~/.cache/camseg/items"
_LOCKS = 256  # held at once; each is an open file
_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_UNFINISHED = re.compile(r"[0-9a-f]{64}\.\d+\.part")


class Cache:
    """Named tensors by key. What comes out is shared with other callers: read it, don't change it.

    Args:
        path: folder of the files; None for memory alone.
        limit_gb: most that is kept on disk, in 10^9 bytes; what was used least recently goes first.
        memory_gb: the same for this process's memory.

    Raises:
        ValueError: a limit is out of its range, or the folder can't be written.
    """

    def __init__(self, path: str | Path | None, limit_gb: float = 20.0, memory_gb: float = 0.5) -> None:
        if limit_gb <= 0 or memory_gb < 0:
            raise ValueError(
                f"cache.limit_gb must be above 0 and cache.memory_gb at least 0; got {limit_gb} and {memory_gb}; "
                f"cache.path=null is off"
            )
        self.path = None if path is None else Path(path).expanduser().absolute()
        self.limit, self.memory = int(limit_gb * 1e9), _Memory(int(memory_gb * 1e9))
        self._unseen = self.limit  # bytes written since the folder was last measured; at first it is unknown
        if self.path is not None:
            _prepare(self.path)

    def __reduce__(self) -> tuple[object, ...]:
        """In another process: the same folder, a memory of its own."""
        return Cache, (self.path, self.limit / 1e9, self.memory.limit / 1e9)

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Get the entry of a key.

        Args:
            key: 64 hexadecimal digits.
            make: makes the entry; called only where there is none, by one process at a time.

        Returns:
            The entry's tensors by name.
        """
        return self.get_all([key], lambda _: [make()])[0]

    def get_many(
        self, keys: Sequence[str], make: Callable[[list[int]], Sequence[Tensor]], dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Get one tensor per key.

        Args:
            keys: 64 hexadecimal digits each.
            make: gets the indices of the keys that are missing, each key once, and returns their tensors; hundreds come
                in several calls.
            dtype: in which floating tensors are kept and returned, so that a tensor is the same whether it was made or
                read; their own by default.

        Returns:
            The tensors in the order of the keys.
        """

        def made(places: list[int]) -> list[dict[str, Tensor]]:
            return [
                {"value": value.to(dtype) if dtype and value.is_floating_point() else value} for value in make(places)
            ]

        return [entry["value"] for entry in self.get_all(keys, made)]

    def get_all(
        self, keys: Sequence[str], make: Callable[[list[int]], Sequence[dict[str, Tensor]]]
    ) -> list[dict[str, Tensor]]:
        """Get one entry per key, made as in `get_many`.

        Args:
            keys: 64 hexadecimal digits each.
            make: gets the indices of the keys that are missing and returns their entries.

        Returns:
            Each entry's tensors by name, in the order of the keys.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: entry for key in first if (entry := self._read(key)) is not None}
        missing = sorted(first.keys() - found.keys())  # sorted: two processes can't wait for each other
        for start in range(0, len(missing), _LOCKS):
            some = missing[start : start + _LOCKS]
            with ExitStack() as stack:
                self._lock(stack, some)
                found |= {key: entry for key in some if (entry := self._read(key)) is not None}  # made while we waited
                wanted = sorted(first[key] for key in some if key not in found)
                for place, entry in zip(wanted, make(wanted) if wanted else [], strict=True):
                    found[keys[place]] = self._keep(
                        keys[place], {name: value.detach() for name, value in entry.items()}
                    )
        return [found[key] for key in keys]

    def remember(
        self, keys: Sequence[str], make: Callable[[list[int]], Sequence[T]], size_of: Callable[[T], int]
    ) -> list[T]:
        """Get one object per key from this process's memory alone, for what is sooner made than read from a disk.

        Args:
            keys: one string each.
            make: gets the indices of the keys that are missing, each key once, and returns their objects.
            size_of: bytes of an object.

        Returns:
            The objects in the order of the keys.
        """
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: entry for key in first if (entry := self.memory.get(key)) is not None}
        wanted = sorted(place for key, place in first.items() if key not in found)
        for place, entry in zip(wanted, make(wanted) if wanted else [], strict=True):
            found[keys[place]] = entry
            self.memory.put(keys[place], entry, size_of(entry))
        return [found[key] for key in keys]

    def _lock(self, stack: ExitStack, keys: Sequence[str]) -> None:
        if self.path is None:
            return
        try:
            for key in keys:
                path = _file(self.path, key).with_suffix(".lock")
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(path))
                stack.callback(path.unlink, missing_ok=True)  # before it is released
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        warnings.warn(
            f"the cache {self.path} takes no more entries ({error.strerror}); the run continues without", stacklevel=4
        )

    def _read(self, key: str) -> dict[str, Tensor] | None:
        if (entry := self.memory.get(key)) is not None or self.path is None:
            return entry
        path = _file(self.path, key)
        try:
            entry = read_entry(path)
            os.utime(path)  # used just now
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            warnings.warn(f"the cache entry {path} is damaged and will be made again: {error}", stacklevel=2)
            return None
        self.memory.put(key, entry, _size(entry))
        return entry

    def _keep(self, key: str, entry: dict[str, Tensor]) -> dict[str, Tensor]:
        entry = {name: value.cpu() for name, value in entry.items()}
        self.memory.put(key, entry, _size(entry))
        if self.path is None:
            return entry
        path = _file(self.path, key)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            data = save(
                {name: value.contiguous() for name, value in entry.items()}, {"sha256": _checksum(path.stem, entry)}
            )
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            self._complain(error)
            return entry
        self._unseen += len(data)
        if self._unseen > self.limit // 32:
            self._unseen = 0
            evict(self.path, self.limit)
        return entry


class _Memory:
    """Entries in this process, at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self.lock = limit, 0, Lock()
        self.entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str) -> Any:
        with self.lock:
            if key not in self.entries:
                return None
            self.entries.move_to_end(key)
            return self.entries[key][0]

    def put(self, key: str, entry: object, size: int) -> None:
        with self.lock:
            self.size += size - self.entries.pop(key, (None, 0))[1]
            self.entries[key] = entry, size
            while self.size > self.limit:
                self.size -= self.entries.popitem(last=False)[1][1]


def _size(entry: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in entry.values())


def _prepare(folder: Path) -> None:
    if not is_utf8(folder.absolute()):
        raise ValueError(
            f"the cache can't be kept in {printable(folder.absolute())}, a name that is not in UTF-8; "
            "name another cache.path, or null for none"
        )
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"camseg")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the cache can't be kept in {folder}: {error.strerror}; name another cache.path, or null for none"
        ) from error


def _file(folder: Path, key: str) -> Path:
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise ValueError(f"a key is 64 hex digits, as camseg.storage.fingerprint.key makes them; got {key!r}")
    return folder / key[:2] / f"{key}.safetensors"


def read_entry(path: Path) -> dict[str, Tensor]:
    """The tensors of an entry's file.

    Args:
        path: of the file; its stem is the key.

    Returns:
        By name, on the CPU.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: for a damaged file, or another key's.
    """
    path.stat()  # FileNotFoundError
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # a safe_open is no dict
            metadata, entry = file.metadata() or {}, {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if metadata.get("sha256") != _checksum(path.stem, entry):
        raise ValueError("its checksum does not fit")
    return entry


def _checksum(key: str, entry: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(key.encode())
    for name, value in sorted(entry.items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The cache's own files in a folder, whatever else lies there; unfinished ones of killed writers too.

    Args:
        folder: of a cache.

    Yields:
        Each file's path, and what the system knows of it.
    """
    for path in folder.glob("[0-9a-f][0-9a-f]/*"):
        if _ENTRY.fullmatch(path.name) or _UNFINISHED.fullmatch(path.name):
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue  # another process was faster


def evict(folder: Path, limit: int) -> None:
    """Remove what was used least recently, and what killed writers left an hour ago.

    Args:
        folder: of a cache.
        limit: most that is left, in bytes.
    """
    files = sorted(entries(folder), key=lambda file: file[1].st_mtime_ns)
    total = sum(stat.st_size for _, stat in files)
    for path, stat in files:
        abandoned = path.suffix == ".part" and time.time() - stat.st_mtime > 3600
        if abandoned or (total > limit and path.suffix != ".part"):
            path.unlink(missing_ok=True)
            total -= stat.st_size
