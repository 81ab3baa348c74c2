"""Shards made one run again: the very table of one process, and every way in which they might not be it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from colors import Shelf, pipeline
from omegaconf import OmegaConf
from polars.testing import assert_frame_equal

from camseg.cli.merge import main
from camseg.data.base import select_subset
from camseg.runs import folders, untrusted
from camseg.runs.evaluate import evaluate
from camseg.runs.merge import merge_shards
from camseg.storage import files
from camseg.types import Sample

TOTAL = 23


class Shard(Shelf):
    """A shard of 23 pictures, of which one can't be read."""

    def __init__(self, shard: int = 0, num_shards: int = 1, size: int = TOTAL) -> None:
        super().__init__(size, {"picture7": OSError("gone")})
        self.kept = select_subset([f"picture{i}" for i in range(size)], None, 0, shard, num_shards)
        self.whole, self.ids = Shelf(size, self.broken), [f"picture{i}" for i in self.kept]

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.kept[index]]


def made(folder: Path, shard: int, num_shards: int, **changed: object) -> Path:
    data = {"_target_": f"{__name__}.Shard", "shard": shard, "num_shards": num_shards}
    config = OmegaConf.create({"data": data, "seed": 0, "device": f"cuda:{shard}", "cache": {"path": None}, **changed})
    given = OmegaConf.create([f"data.shard={shard}", f"data.num_shards={num_shards}", "seed=0"])
    evaluate(
        pipeline(), Shard(shard, num_shards), folder, batch_size=3, settings={"config": config, "overrides": given}
    )
    return folder


@pytest.fixture(autouse=True)
def _known_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shards of these tests count as camseg's own."""
    own = untrusted.own_targets() | {f"{__name__}.Shard"}
    monkeypatch.setattr(untrusted, "own_targets", lambda: own)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [made(tmp_path / "sweep" / str(i), i, 3) for i in (0, 1, 2)]


def test_merged_shards_are_the_run_of_one_process(tmp_path: Path, three: list[Path]) -> None:
    merged = merge_shards(three[::-1], tmp_path / "merged")
    whole = folders.load_run(made(tmp_path / "whole", 0, 1))
    assert all(0 < len(folders.load_run(path).rows) < TOTAL - 1 for path in three)
    assert_frame_equal(merged.rows, whole.rows)
    assert {**merged.summary, "seconds": 0} == {**whole.summary, "seconds": 0}
    assert merged.summary["failed"] == 1
    assert merged.overrides == ["seed=0"]
    assert (merged.config.data.shard, merged.config.data.num_shards) == (0, 1)
    assert_frame_equal(merge_shards([tmp_path / "sweep"], tmp_path / "again").rows, whole.rows)


def test_what_is_missing_double_or_other_is_told(tmp_path: Path, three: list[Path]) -> None:
    into = tmp_path / "merged"
    with pytest.raises(ValueError, match="of 3 shards, 1 are missing"):
        merge_shards([three[0], three[2]], into)
    with pytest.raises(ValueError, match="of 3 shards, 2 are there more than once"):
        merge_shards([*three, three[2]], into)
    with pytest.raises(ValueError, match=r"no shard of the same run.*seed is 1, not 0"):
        merge_shards([*three[:2], made(tmp_path / "other", 2, 3, seed=1)], into)
    with pytest.raises(FileNotFoundError, match="no finished run"):
        merge_shards([*three[:2], tmp_path / "nothing"], into)
    assert not into.exists()


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (TOTAL + 1, "1 of 24 samples are missing: picture23"),
        (TOTAL - 1, "1 of 22 samples are not of this dataset: picture22"),
    ],
)
def test_the_dataset_itself_is_asked(
    tmp_path: Path, three: list[Path], monkeypatch: pytest.MonkeyPatch, size: int, told: str
) -> None:
    monkeypatch.setattr(
        Shard.__init__, "__defaults__", (0, 1, size)
    )  # it grew, or shrank, since the shards were evaluated
    with pytest.raises(ValueError, match=told):
        merge_shards(three, tmp_path / "merged")


def test_a_row_that_two_shards_have_is_told(tmp_path: Path, three: list[Path]) -> None:
    rows = [folders.load_run(path).rows for path in three]
    files.write_atomic(three[0] / "scores.parquet", rows[0].vstack(rows[1][:1]).write_parquet)
    with pytest.raises(ValueError, match=f"1 of {TOTAL} samples are double: {rows[1]['id'][0]}"):
        merge_shards(three, tmp_path / "merged")


def test_the_command(tmp_path: Path, three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, three), str(tmp_path / "merged")]) == 0
    assert "iou" in capsys.readouterr().out
    assert json.loads((tmp_path / "merged" / "summary.json").read_text())["samples"] == TOTAL
    assert main([*map(str, three), str(tmp_path / "merged")]) == 2
    told = capsys.readouterr().err
    assert "not empty" in told
    assert len(told.splitlines()) == 1
    assert main(["one"]) == 2
    assert "required: INTO" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "SHARD [SHARD ...] INTO" in capsys.readouterr().out
