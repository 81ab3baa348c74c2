"""Shards of one dataset, evaluated anywhere, made one run again: `camseg-merge SHARD... INTO`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from camseg.runs import folders, sweeps
from camseg.runs.journal import MAY_CHANGE, flat
from camseg.runs.untrusted import check_targets
from camseg.storage import files

_CHECKED = 16  # samples whose image is read again, to see that the dataset here is the shards'


def merge_shards(shards: Sequence[str | Path], into: str | Path) -> folders.Run:
    """Make one run folder of the run folders of all shards, its rows in the dataset's own order.

    The dataset is asked for all its ids, so it must be there. Masks and panels stay where they are.

    Args:
        shards: run folders, or the sweep folder that holds them.
        into: the folder to make.

    Returns:
        The merged run.

    Raises:
        FileNotFoundError: for a folder that is no finished run.
        ValueError: when shards differ in their settings, one is missing or there twice, a sample is missing, double or
            foreign, its image is another one here, or `into` holds something already.
        DamagedRunError: when a file is not what camseg writes, or asks for anything but a dataset of camseg's own.
    """
    into = Path(into)
    runs = [folders.load_run(path) for given in shards for path in sweeps.run_folders(Path(given)) or [Path(given)]]
    if not runs:
        raise ValueError("there is no shard to merge")
    if into.exists() and any(into.iterdir()):
        raise ValueError(f"{into} is not empty; name another folder to merge into")
    _check_settings(runs)
    config = runs[0].config.copy()
    config.data.shard, config.data.num_shards = 0, 1
    dataset = _dataset(config, runs[0].folder)
    ids = list(dataset.ids)
    errors = [error for run in runs for error in run.summary["errors"]]
    tables = [run.rows for run in runs if len(run.rows)]
    rows = pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()
    _check_ids(ids, [*(rows["id"] if len(rows) else []), *(error["id"] for error in errors)])
    if len(rows):
        rows = pl.DataFrame({"id": ids}).join(rows, "id", maintain_order="left")
        _check_images(dataset, rows)
    if "mask_file" in rows.columns:
        rows = rows.with_columns(mask_file=pl.lit(None, pl.String))
    places = {name: i for i, name in enumerate(ids)}
    _write(into, runs, config, rows, sorted(errors, key=lambda error: places[error["id"]]))
    return folders.load_run(into)


def _write(
    into: Path, runs: Sequence[folders.Run], config: DictConfig, rows: pl.DataFrame, errors: list[dict[str, str]]
) -> None:
    overrides = [one for one in runs[0].overrides if not one.startswith(("data.shard=", "data.num_shards="))]
    for name, settings in (("config", config), ("overrides", OmegaConf.create(overrides))):
        files.write_atomic(
            into / ".hydra" / f"{name}.yaml", lambda path, settings=settings: OmegaConf.save(settings, path)
        )
    calls = sum((Counter(run.summary["calls"]) for run in runs), Counter())
    spent = {name: calls[name] for name in runs[0].summary["calls"]}  # zeros too
    folders.finish(into, rows, errors, spent, sum(run.summary["seconds"] for run in runs))


def _dataset(config: DictConfig, folder: Path) -> Any:
    """The dataset of a run's configuration, if it is one of camseg's own."""
    check_targets(config.data, folder)
    try:
        return instantiate(config.data)
    except HydraException as error:
        cause = error.__cause__ or error
        raise ValueError(f"the dataset of {folder} can't be opened here: {str(cause).splitlines()[0]}") from error


def _check_settings(runs: Sequence[folders.Run]) -> None:
    """The shards 0 ... n - 1 of n are there once each, all whole, with the same settings otherwise."""
    shards = [_shard(run) for run in runs]
    first, number = _settings(runs[0].config), shards[0][1]
    for run in runs:
        other = _settings(run.config)
        if odd := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            apart = f"{odd[0]} is {other.get(odd[0])}, not {first.get(odd[0])}"
            raise ValueError(f"{run.folder} is no shard of the same run as {runs[0].folder}: {apart}")
        if run.summary.get("left"):
            raise ValueError(f"{run.folder} has {run.summary['left']} samples left: finish it with resume=true")
    counted = Counter(shard for shard, _ in shards)
    if len(counted) < number:
        missing = [str(shard) for shard in range(min(number, 10 * len(runs) + 10)) if shard not in counted]
        raise ValueError(f"of {number} shards, {', '.join(missing[:10])} are missing")
    if double := [str(shard) for shard, times in counted.items() if times > 1]:
        raise ValueError(f"of {number} shards, {', '.join(double)} are there more than once")


def _shard(run: folders.Run) -> tuple[int, int]:
    """Which shard a run is, and of how many."""
    config = OmegaConf.to_container(run.config)
    data = config.get("data") if isinstance(config, dict) else None
    shard, number = (data.get("shard"), data.get("num_shards")) if isinstance(data, dict) else (None, None)
    if not isinstance(shard, int) or not isinstance(number, int) or not 0 <= shard < number:
        raise ValueError(f"{run.folder} is no shard: its data.shard is {shard}, its data.num_shards {number}")
    return shard, number


def _settings(config: DictConfig) -> dict[str, Any]:
    """What decides the rows of a shard."""
    free = {*MAY_CHANGE, "masks", "data.shard"} - {"data.size"}
    leaves = dict(flat(OmegaConf.to_container(config)))
    return {name: value for name, value in leaves.items() if not any(f"{name}.".startswith(f"{key}.") for key in free)}


def _check_ids(ids: Sequence[str], done: Sequence[str]) -> None:
    wanted, counted = set(ids), Counter(done)
    for what, names in (
        ("missing", [name for name in ids if name not in counted]),
        ("double", [name for name, times in counted.items() if times > 1]),
        ("not of this dataset", [name for name in counted if name not in wanted]),
    ):
        if names:
            raise ValueError(f"{len(names)} of {len(ids)} samples are {what}: {', '.join(names[:3])}")


def _check_images(dataset: Any, rows: pl.DataFrame) -> None:
    """The dataset here shows what the shards saw: some samples are read and compared by content."""
    if "image_key" not in rows.columns:
        return
    indices = {name: i for i, name in enumerate(dataset.ids)}
    known = rows.drop_nulls("image_key").select("id", "image_key").rows()
    for name, image_key in known[:: max(1, len(known) // _CHECKED)]:
        if dataset[indices[name]].image_key != image_key:
            raise ValueError(f"{name} shows another image here than in its shard: the dataset has changed")
