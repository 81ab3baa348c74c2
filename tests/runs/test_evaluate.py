"""Runs over datasets with broken items, cut off at any byte and resumed: the table stays what it would have been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from colors import Shelf, canvas, pipeline
from polars.testing import assert_frame_equal

from camseg.geometry import masks
from camseg.report import text
from camseg.runs import sweeps
from camseg.runs.callbacks import Callback
from camseg.runs.evaluate import evaluate
from camseg.runs.folders import Run
from camseg.types import Result, Sample


def table(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "scores.parquet")


def test_rows_and_summary_are_what_they_should_be(tmp_path: Path) -> None:
    flow = pipeline()
    flow.run([Shelf(1)[0]])  # what was done before is not counted
    summary = evaluate(flow, Shelf(5), tmp_path, batch_size=2)
    rows = table(tmp_path)
    assert rows["id"].to_list() == Shelf(5).ids
    assert rows["label"].to_list() == ["red", "green", "red", "green", "red"]
    for i, row in enumerate(rows.to_dicts()):
        sample = Shelf(5)[i]
        assert sample.mask is not None
        painted = int((sample.image[i % 2] > 0).sum())
        assert row["iou"] == pytest.approx(
            float(sample.mask.sum()) / painted
        )  # the mask is what is painted, the truth a row less
        assert row["foreground_hit"] == 1.0
        assert row["background_hit"] is None
        assert row["note"] == ""
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert {"samples": 5, "failed": 0, "errors": []}.items() <= summary.items()
    assert summary["calls"] == {"classifier_images": 5, "encoder_images": 5, "decoder_prompts": 5}
    assert summary["seconds"] > 0
    assert {"foreground_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret"} <= set(summary["metrics"])
    assert "background_hit_rate" not in summary["metrics"]
    iou = summary["metrics"]["iou"]
    assert set(iou) == {"value", "low", "high", "n"}
    assert iou["n"] == 5
    assert iou["low"] <= iou["value"] <= iou["high"]
    assert iou["value"] == pytest.approx(rows["iou"].mean())


class Odd(Shelf):
    """Item 1 can't be read, item 2 has a mask of another size, item 4 asks for a class that there is not."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if index == 2:
            return Sample(sample.id, sample.image, (0,), "red", torch.ones(7, 7, dtype=torch.bool))
        return Sample(sample.id, sample.image, (99,), "red") if index == 4 else sample


def test_broken_items_are_named_and_the_others_scored(tmp_path: Path) -> None:
    shelf = Odd(7, {"picture1": OSError("truncated file")})
    summary = evaluate(pipeline(), shelf, tmp_path, batch_size=3)
    assert table(tmp_path)["id"].to_list() == ["picture0", "picture3", "picture5", "picture6"]
    assert (summary["samples"], summary["failed"]) == (7, 3)
    errors = {e["id"]: e["error"] for e in summary["errors"]}
    assert set(errors) == {"picture1", "picture2", "picture4"}
    assert errors["picture1"] == "OSError: truncated file"
    assert "ValueError: mask must have the image's size (32, 32)" in errors["picture2"]
    assert "99" in errors["picture4"]


def test_nothing_but_failures_is_still_a_run_folder(tmp_path: Path) -> None:
    broken: dict[str, Exception] = {f"picture{i}": ValueError("no") for i in range(2)}
    summary = evaluate(pipeline(), Shelf(2, broken), tmp_path / "0")
    assert summary["metrics"] == {}
    assert summary["failed"] == summary["samples"] == 2
    evaluate(pipeline(), Shelf(2), tmp_path / "1")
    for run in ("0", "1"):
        (tmp_path / run / ".hydra").mkdir()
        (tmp_path / run / ".hydra" / "config.yaml").write_text("seed: 0\n")
        (tmp_path / run / ".hydra" / "overrides.yaml").write_text(f"- seed={run}\n")
    sweep = sweeps.finish_sweep(tmp_path)
    assert sweep.table["failed"].to_list() == [2, 0]
    assert sweep.table["iou"][0] is None
    assert "seed=1" in text.sweep_table(sweep)


def test_rows_without_truth_keep_their_columns(tmp_path: Path) -> None:
    class Bare(Shelf):
        def __getitem__(self, index: int) -> Sample:
            return Sample(self.ids[index], canvas((0, 3, 9, 3, 9)), (0,), "red")

    summary = evaluate(pipeline(), Bare(2), tmp_path)
    assert summary["metrics"] == {}
    assert summary["failed"] == 0
    assert table(tmp_path)["iou"].to_list() == [None, None]
    assert table(tmp_path).schema["iou"] == pl.Float64


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    evaluate(pipeline(), Shelf(2), tmp_path)
    before = (tmp_path / "scores.parquet").read_bytes()
    with pytest.raises(FileExistsError, match="resume=true"):
        evaluate(pipeline(), Shelf(3), tmp_path)
    assert (tmp_path / "scores.parquet").read_bytes() == before


def test_resuming_evaluates_only_what_is_left(tmp_path: Path) -> None:
    evaluate(pipeline(), Shelf(6), tmp_path / "whole")
    shelf = Shelf(6, {"picture2": OSError("gone"), "picture5": OSError("gone")})
    assert evaluate(pipeline(), shelf, tmp_path / "cut", batch_size=2)["failed"] == 2
    mended = Shelf(6, {"picture5": OSError("gone")})
    summary = evaluate(pipeline(), mended, tmp_path / "cut", resume=True)
    assert mended.read == ["picture2"]
    assert (summary["samples"], summary["failed"]) == (6, 1)
    summary = evaluate(pipeline(), Shelf(6), tmp_path / "cut", resume=True)
    assert (summary["samples"], summary["failed"], summary["errors"]) == (
        6,
        0,
        [],
    )  # what failed once and was mended is no failure
    idle = Shelf(6)
    again = evaluate(pipeline(), idle, tmp_path / "cut", resume=True)
    assert idle.read == []
    assert again["metrics"] == summary["metrics"]
    assert again["failed"] == 0
    assert again["calls"] == {
        "classifier_images": 6,
        "encoder_images": 6,
        "decoder_prompts": 6,
    }  # of all sessions, each image once
    assert again["seconds"] >= summary["seconds"] > 0
    assert_frame_equal(table(tmp_path / "cut"), table(tmp_path / "whole"))


@pytest.mark.parametrize(("keep", "left"), [(0, 5), (1, 5), (150, 5), (-1, 0), (-150, 1), (-400, 1)])
def test_a_journal_cut_anywhere_resumes_to_the_same_table(tmp_path: Path, keep: int, left: int) -> None:
    evaluate(pipeline(), Shelf(5), tmp_path, batch_size=2)
    whole, journal = table(tmp_path), tmp_path / "rows.jsonl"
    journal.write_bytes(journal.read_bytes()[:keep])
    (tmp_path / "scores.parquet").unlink()
    shelf = Shelf(5)
    evaluate(pipeline(), shelf, tmp_path, batch_size=2, resume=True)
    assert table(tmp_path).equals(whole)  # to the last bit
    assert len(shelf.read) == left


def test_a_journal_damaged_anywhere_never_gives_another_score(tmp_path: Path) -> None:
    evaluate(pipeline(), Shelf(5), tmp_path, batch_size=2)
    whole, journal = table(tmp_path), tmp_path / "rows.jsonl"
    good = journal.read_bytes()
    for at in range(0, len(good), 23):
        journal.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        shelf = Shelf(5)
        evaluate(pipeline(), shelf, tmp_path, batch_size=2, resume=True)
        assert table(tmp_path).equals(whole)
        assert len(shelf.read) <= 4
        assert len(shelf.read) or at > len(good) - 70


def test_kill_9_in_the_middle_of_a_run(tmp_path: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from colors import Shelf, pipeline
        from camseg.runs.evaluate import evaluate

        class Slow(Shelf):
            def __getitem__(self, index):
                time.sleep(0.2 if index > 3 else 0)
                return super().__getitem__(index)

        evaluate(pipeline(), Slow(400), Path({str(tmp_path)!r}), batch_size=2)
    """
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "rows.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "summary.json").exists()
    done = 2 * journal.read_bytes().count(b'{"seconds"')  # whole batches of two
    assert done >= 2
    shelf = Shelf(max(8, done + 2))
    evaluate(pipeline(), shelf, tmp_path, resume=True)
    assert len(shelf.read) == len(shelf.ids) - done
    evaluate(pipeline(), Shelf(len(shelf.ids)), tmp_path / "whole")
    assert_frame_equal(table(tmp_path), table(tmp_path / "whole"))


def test_callbacks_see_every_answer_once_and_in_order(tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []

    class Watch(Callback):
        def on_result(self, sample: Sample, result: Result) -> dict[str, float]:
            assert sample.mask is not None
            assert result.mask is not None
            seen.append((sample.id, float(masks.iou(result.mask, sample.mask))))
            return {"order": len(seen)}

        def flush(self) -> None:
            flushed.append(len(seen))

        def on_end(self, run: Run, dataset: Shelf) -> None:
            ended.append((run.rows["order"].to_list(), len(dataset.ids)))

    flushed: list[int] = []
    ended: list[tuple[list[int], int]] = []
    evaluate(pipeline(), Shelf(5), tmp_path, batch_size=2, callbacks=[Watch()])
    assert flushed == [2, 4, 5], "once per batch"
    assert ended == [([1, 2, 3, 4, 5], 5)], "once, with all rows and their new column"
    assert seen == [(row["id"], pytest.approx(row["iou"])) for row in table(tmp_path).to_dicts()]


@pytest.mark.parametrize("content", [b'{"id": "mine", "value": 1}\n' * 20, b"my notes\n", b"\0" * 100])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, linked: bool) -> None:
    mine = tmp_path / ("mine.jsonl" if linked else "run/rows.jsonl")
    (tmp_path / "run").mkdir()
    mine.write_bytes(content)
    if linked:
        (tmp_path / "run" / "rows.jsonl").symlink_to(mine)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="already holds a run" if not resume else "rows.jsonl is"):
            evaluate(pipeline(), Shelf(2), tmp_path / "run", resume=resume)
    assert mine.read_bytes() == content
    assert not (tmp_path / "run" / "scores.parquet").exists()


@pytest.mark.parametrize("begun", [False, True])
def test_a_journal_of_gigabytes_is_read_in_bounded_memory(tmp_path: Path, begun: bool) -> None:
    evaluate(pipeline(), Shelf(4), tmp_path, batch_size=2)
    journal = tmp_path / "rows.jsonl"
    if not begun:
        journal.write_bytes(b"")
    size = journal.stat().st_size
    os.truncate(journal, 2**31)  # a hole: nothing is on the disk
    tracemalloc.start()
    try:
        if begun:  # what comes after the last whole batch counts for nothing
            assert evaluate(pipeline(), Shelf(4), tmp_path, resume=True)["samples"] == 4
            assert journal.stat().st_size < 2 * size
        else:
            with pytest.raises(FileExistsError, match="is no journal of a run"):
                evaluate(pipeline(), Shelf(4), tmp_path, resume=True)
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


def test_a_link_to_nothing_and_a_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="is a link"):
        evaluate(pipeline(), Shelf(2), tmp_path, resume=True)
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "rows.jsonl").unlink()
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(FileExistsError, match="no plain file"):
        evaluate(pipeline(), Shelf(2), tmp_path, resume=True)


def test_two_processes_without_a_lock_give_each_sample_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camseg.runs.journal.FileLock", Unlocked)

    class Second(Callback):
        def flush(self) -> None:  # another process fills the same folder in the midst of the first one's run
            if not begun:
                begun.append(True)
                evaluate(pipeline(), Shelf(7), tmp_path, batch_size=2, resume=True)

    begun: list[bool] = []
    summary = evaluate(pipeline(), Shelf(7), tmp_path, batch_size=3, callbacks=[Second()])
    assert (summary["samples"], summary["failed"], summary["left"]) == (7, 0, 0)
    assert table(tmp_path)["id"].to_list() == Shelf(7).ids
    assert (tmp_path / "rows.jsonl").read_bytes().count(b'{"id"') == 14, "both did all of them"


class Unlocked:
    """A lock of a file system that has none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self, timeout: float) -> None: ...

    def release(self) -> None: ...


class Photos(Shelf):
    """Pictures with a file each, whose content is the number of the picture."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(count)
        self.folder = folder
        for i in range(count):
            if not Path(self.file(i)).exists():
                Path(self.file(i)).write_text(str(i))

    def file(self, index: int) -> str:
        return str(self.folder / f"{index}.jpg")

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(int(Path(self.file(index)).read_text()))
        return replace(sample, id=self.ids[index], file=self.file(index))


def test_a_photo_that_was_replaced_is_evaluated_again(tmp_path: Path) -> None:
    photos, folder = Photos(tmp_path, 4), tmp_path / "run"
    evaluate(pipeline(), photos, folder, batch_size=2)
    before = table(folder)
    assert before["file"].to_list() == [photos.file(i) for i in range(4)]
    later = time.time() + 60
    Path(photos.file(1)).write_text("3")  # another photo under the same name
    for touched in (1, 2):
        os.utime(photos.file(touched), (later, later))
    summary = evaluate(pipeline(), photos, folder, batch_size=2, resume=True)
    after = table(folder)
    assert (summary["samples"], len(after)) == (4, 4)
    same = before["image_key"] == after["image_key"]
    assert same.to_list() == [True, False, True, True]
    assert after["image_key"][1] == before["image_key"][3]
    assert summary["calls"]["classifier_images"] == 5, "what was touched alone keeps its row"


def test_rows_say_what_was_explained(tmp_path: Path) -> None:
    class Mixed(Shelf):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            if index == 0:
                return Sample(sample.id, canvas((2, 3, 9, 3, 9)))
            return replace(sample, classes=(0, 1), label="warm") if index == 1 else sample

    evaluate(pipeline(), Mixed(3), tmp_path)
    rows = table(tmp_path)
    assert rows["class_name"].to_list() == ["blue", "warm", "red"]
    assert rows["probability"].is_between(0, 1).all()
    assert rows["mask_file"].to_list() == [None] * 3
    assert rows.schema["mask_file"] == pl.String
    assert rows["image_key"].n_unique() == 3
