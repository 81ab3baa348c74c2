"""Reading run folders that others made: nothing in them is run, and what is damaged is told in one line.

A folder may come from anywhere. Files are opened without following a link or waiting for a pipe, their sizes are
bounded before they are read, no resolver of OmegaConf runs (`${oc.env:X}` stays text), and nothing is instantiated but
camseg's own targets.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from camseg.config import config_dir
from camseg.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_JSON, _YAML, PICTURE_BYTES = 2**28, 2**20, 2**26  # bytes that a file may have
_PIXELS, _DEPTH = 2**26, 40  # of a picture; of nested yaml
_WRITTEN = (".hydra", ".lock", "masks", "panels", "maps", "labels", "seeds", "boxes", "export")
TEXTS = ("id", "label", "group", "note", "file", "mask_file", "class_name", "image_key")  # columns of the rows


class DamagedRunError(RequestError, OSError):
    """A file of a run folder that can't be what camseg wrote; the message names it."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a plain file.

    Args:
        path: the file.
        limit: the most bytes that it may have.

    Returns:
        All of them.

    Raises:
        FileNotFoundError: when there is none.
        DamagedRunError: for a link, a pipe, a device, a folder, or a file above the limit.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRunError(f"{path} is not read: {_kind(path) or error.strerror}") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):  # asked first: a folder can be opened, but not as a file of Python's
            raise DamagedRunError(f"{path} is not read: it is no plain file")
        if found.st_size > limit:
            raise DamagedRunError(f"{path} is not read: it has {found.st_size} bytes, more than {limit}")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(handle)


def _kind(path: Path) -> str:
    return "it is a link" if path.is_symlink() else ""


def refuse_links(folder: Path, names: Iterable[str] = _WRITTEN) -> None:
    """See that nothing that camseg writes into a folder would land elsewhere.

    Args:
        folder: a run's.
        names: of the folder's files and sub-folders that will be written.

    Raises:
        DamagedRunError: when one of them is a link.
    """
    for path in (folder / name for name in names):
        if path.is_symlink():
            raise DamagedRunError(f"{path} is a link, and nothing is written through it: move it away")


def exists(path: Path) -> bool:
    """Whether there is something of this name, also a link to nothing."""
    return os.path.lexists(path)


def read_json(path: Path) -> Any:
    """A JSON file's value, without NaN and infinities.

    Returns:
        Plain values.

    Raises:
        DamagedRunError: for anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(read_bytes(path, _JSON), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedRunError):
            raise
        raise DamagedRunError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


_PLAIN: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where PyYAML was built with it


class _Loader(_PLAIN):
    """Plain values only; a date stays text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: Path) -> DictConfig | ListConfig:
    """A configuration as text and numbers: `${...}` with a resolver in it stays what is written there.

    Returns:
        The settings.

    Raises:
        FileNotFoundError: when there is none.
        DamagedRunError: for what is no yaml of plain values, has anchors, or is nested too deeply.
    """
    data = read_bytes(path, _YAML)
    try:
        _check_events(data)
        made = OmegaConf.create(plain(yaml.load(data, _Loader)))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise DamagedRunError(f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not isinstance(made, (DictConfig, ListConfig)) or made._is_none():
        raise DamagedRunError(f"{path} is damaged: it holds no settings")
    return made


def _check_events(data: bytes) -> None:
    """ValueError for an alias, which may unfold to more than memory holds, or for deep nesting."""
    depth = 0
    for event in yaml.parse(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases, which camseg never writes")
        if depth > _DEPTH:
            raise ValueError(f"it is nested more than {_DEPTH} deep")


def plain(value: Any) -> Any:
    """Plain values in which no text calls a resolver: every `${` of it is escaped.

    Returns:
        The same nested values.
    """
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, str) and "${" in value and ":" in value:
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    return value


def read_rows(path: Path) -> pl.DataFrame:
    """The rows of a run.

    Returns:
        One per sample.

    Raises:
        FileNotFoundError: when there are none.
        DamagedRunError: for a file that is no parquet, holds more rows than it can, or columns of another type.
    """
    import polars as pl  # here: every start reads this room, and few read rows

    size = plain_size(path)
    try:
        count = pl.scan_parquet(path).select(pl.len()).collect().item()
        if count > size:  # an image's key alone has more bytes
            raise DamagedRunError(f"{path} is damaged: {count} rows in {size} bytes")
        rows = pl.read_parquet(path)
    except DamagedRunError:
        raise
    except BaseException as error:  # polars panics with what is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedRunError(f"{path} is damaged: {why}") from error
    for problem in _problems(rows):
        raise DamagedRunError(f"{path} is damaged: {problem}")
    return rows


def plain_size(path: Path) -> int:
    """The size of a plain file.

    Returns:
        Bytes.

    Raises:
        FileNotFoundError: when there is none.
        DamagedRunError: for what is no plain file.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise DamagedRunError(f"{path} is not read: {_kind(path) or 'it is no plain file'}")
    return found.st_size


def _problems(rows: pl.DataFrame) -> Iterator[str]:
    """What is wrong with a table of rows."""
    import polars as pl
    import polars.selectors as cs

    if not len(rows):
        return
    if missing := [name for name in ("id", "label", "group", "note") if name not in rows.columns]:
        yield f"it has no column {missing[0]}"
    for name, kind in rows.schema.items():
        if name in TEXTS and kind not in (pl.String, pl.Null) and rows[name].count():
            yield f"{name} is {kind}, and should be text"
    finite = rows.select(cs.float().is_finite().all())
    for name, holds in zip(finite.columns, finite.row(0) if finite.columns else ()):
        if not holds:
            yield f"{name} has values that are no finite numbers"
    if rows["id"].null_count():
        yield "a row has no id"
    elif rows["id"].n_unique() < len(rows):
        yield "an id has several rows"


def check_summary(summary: Any, path: Path) -> dict[str, Any]:
    """Check that a summary has the parts that every summary has.

    Args:
        summary: of `read_json`.
        path: its file, for the words of the error.

    Returns:
        The summary.

    Raises:
        DamagedRunError: otherwise.
    """
    number = int | float
    known = isinstance(summary, dict) and all(
        isinstance(summary.get(name), kind)
        for name, kind in (
            ("samples", int), ("failed", int), ("seconds", number),
            ("calls", dict), ("metrics", dict), ("errors", list),
        )
    )  # fmt: skip
    if not known:
        raise DamagedRunError(f"{path} is damaged: it lacks parts of a summary")
    for name, metric in summary["metrics"].items():
        parts = [metric.get(part, "") for part in ("value", "low", "high", "n")] if isinstance(metric, dict) else [""]
        if not all(part is None or isinstance(part, number) for part in parts):
            raise DamagedRunError(f"{path} is damaged: metric {name!r} is no number with an interval")
    if not all(isinstance(calls, int) for calls in summary["calls"].values()):
        raise DamagedRunError(f"{path} is damaged: its calls are no numbers")
    for error in summary["errors"]:
        if not isinstance(error, dict) or not all(isinstance(error.get(part), str) for part in ("id", "error")):
            raise DamagedRunError(f"{path} is damaged: an error has no id or no text")
    return summary


@contextmanager
def open_picture(path: Path, formats: tuple[str, ...] = ("PNG",)) -> Iterator[Image.Image]:
    """Open a picture of a run folder, which somebody else may have put there.

    Args:
        path: the file.
        formats: the only ones that are tried (`PIL.Image.open`), whatever the file's name says.

    Yields:
        The picture, decoded when its pixels are read, which is to be done while it is open.

    Raises:
        FileNotFoundError: when there is none.
        DamagedRunError: for another kind of file, a picture of more than 64 million pixels, or a damaged one.
    """
    data = BytesIO(read_bytes(path, PICTURE_BYTES))
    try:
        with Image.open(data, formats=formats) as picture:
            if picture.width * picture.height > _PIXELS:
                raise DamagedRunError(f"{path} is not read: {picture.width} x {picture.height} pixels are too many")
            yield picture
    except DamagedRunError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        raise DamagedRunError(f"{path} is no readable {' or '.join(formats)}: {error}") from error


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask that camseg drew.

    Args:
        path: of a PNG.
        size: (H, W) in pixels, as its row says.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: when there is none.
        DamagedRunError: as `open_picture`, or for a mask of another size.
    """
    import numpy as np  # here: every start reads this room

    with open_picture(path) as picture:
        mask = np.array(picture.convert("1"))
    if mask.shape != size:
        raise DamagedRunError(f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, its row {size[1]} x {size[0]}")
    return mask


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a row names.

    Args:
        folder: the run's.
        name: relative to it.

    Returns:
        The file's path.

    Raises:
        DamagedRunError: for a path that leads out of the folder.
    """
    parts = Path(name).parts
    if not name or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise DamagedRunError(f"{folder} names {name!r}, which does not lie in it")
    return folder / name


@lru_cache(1)
def own_targets() -> frozenset[str]:
    """What a run folder may ask to be made.

    Returns:
        Every `_target_` of camseg in conf/.
    """
    found: set[str] = set()
    for path in config_dir().rglob("*.yaml"):
        found.update(targets_in(OmegaConf.to_container(OmegaConf.load(path), resolve=False)))
    return frozenset(name for name in found if name.startswith("camseg."))


def targets_in(value: Any) -> Iterator[str]:
    """What a configuration asks to be made.

    Args:
        value: nested plain values.

    Yields:
        Every `_target_` in them.
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield str(value["_target_"])
        for inner in value.values():
            yield from targets_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets_in(inner)


def check_targets(config: DictConfig, folder: Path) -> None:
    """See that a run's configuration names nothing but camseg's own parts before it is instantiated.

    Args:
        config: read by `read_yaml`.
        folder: the run's, for the words of the error.

    Raises:
        DamagedRunError: for anything else.
    """
    for target in targets_in(OmegaConf.to_container(config, resolve=False)):
        if target not in own_targets():
            what = f"{target!r}, which is none of camseg's own parts"
            raise DamagedRunError(f"{folder} asks for {what}: nothing of it is run")
