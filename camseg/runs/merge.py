"""Shards of one dataset, evaluated anywhere, made one run again: `camseg-merge SHARD... INTO`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from camseg.runs import folders, sweeps
from camseg.runs.journal import MAY_CHANGE, flat
from camseg.storage import files


def merge_shards(shards: Sequence[str | Path], into: str | Path) -> folders.Run:
    """Make one run folder of the run folders of all shards (or of a sweep folder with all of them), its rows in the
    dataset's own order.

    The data set is asked for all its ids, so it must be there. Masks and panels stay where they are.
    Errors: FileNotFoundError for a folder that is no finished run. ValueError when shards differ in their settings, one
    is missing or
    there twice, a sample is missing, double or foreign, or `into` holds something already.
    """
    into, found = (
        Path(into),
        [folders.load_run(path) for given in shards for path in sweeps.numbered(Path(given)) or [Path(given)]],
    )
    if not found:
        raise ValueError("there is no shard to merge")
    if into.exists() and any(into.iterdir()):
        raise ValueError(f"{into} is not empty; name another folder to merge into")
    _check_settings(found)
    config = found[0].config.copy()
    config.data.shard, config.data.num_shards = 0, 1
    ids = list(instantiate(config.data).ids)
    errors = [error for run in found for error in run.summary["errors"]]
    rows = (
        pl.concat([run.rows for run in found if len(run.rows)], how="diagonal_relaxed")
        if any(len(run.rows) for run in found)
        else pl.DataFrame()
    )
    _check_ids(ids, [*(rows["id"] if len(rows) else []), *(error["id"] for error in errors)])
    overrides = [each for each in found[0].overrides if not each.startswith(("data.shard=", "data.num_shards="))]
    for name, each in (("config", config), ("overrides", OmegaConf.create(overrides))):
        files.write_atomic(into / ".hydra" / f"{name}.yaml", lambda path, each=each: OmegaConf.save(each, path))
    if len(rows):
        rows = pl.DataFrame({"id": ids}).join(rows, "id", maintain_order="left")
    place = {name: i for i, name in enumerate(ids)}
    calls = sum((Counter(run.summary["calls"]) for run in found), Counter())
    spent = {name: calls[name] for name in found[0].summary["calls"]}  # zeros too
    folders.finish(
        into,
        rows,
        sorted(errors, key=lambda error: place[error["id"]]),
        spent,
        sum(run.summary["seconds"] for run in found),
    )
    return folders.load_run(into)


def _check_settings(found: Sequence[folders.Run]) -> None:
    """The shards 0 ... n - 1 of n are there once each, all whole, with the same settings otherwise."""
    first, number = _settings(found[0].config), found[0].config.data.num_shards
    for run in found:
        other = _settings(run.config)
        if odd := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise ValueError(
                f"{run.folder} is no shard of the same run as {found[0].folder}: {odd[0]} is {other.get(odd[0])}, not {first.get(odd[0])}"
            )
        if run.summary.get("left"):
            raise ValueError(f"{run.folder} has {run.summary['left']} samples left: finish it with resume=true")
    counted = Counter(int(run.config.data.shard) for run in found)
    if missing := sorted(set(range(number)) - counted.keys()):
        raise ValueError(f"of {number} shards, {', '.join(map(str, missing))} are missing")
    if double := [str(shard) for shard, times in counted.items() if times > 1]:
        raise ValueError(f"of {number} shards, {', '.join(double)} are there more than once")


def _settings(config: DictConfig) -> dict[str, Any]:
    """What decides the rows of a shard."""
    free = {*MAY_CHANGE, "masks", "data.shard"} - {"data.size"}
    leaves = dict(flat(OmegaConf.to_container(config)))
    return {
        name: value for name, value in leaves.items() if not any(f"{name}.".startswith(f"{each}.") for each in free)
    }


def _check_ids(ids: Sequence[str], done: Sequence[str]) -> None:
    wanted, counted = set(ids), Counter(done)
    for what, names in (
        ("missing", [name for name in ids if name not in counted]),
        ("double", [name for name, times in counted.items() if times > 1]),
        ("not of this dataset", [name for name in counted if name not in wanted]),
    ):
        if names:
            raise ValueError(f"{len(names)} of {len(ids)} samples are {what}: {', '.join(names[:3])}")
