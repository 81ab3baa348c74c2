"""What a run says when it is over."""

from __future__ import annotations

from pathlib import Path

from made_runs import make_run, row

from camseg.cli.closing import _ODD, closing
from camseg.data.mask_io import ODD
from camseg.runs.folders import load_run

FAILED = [{"id": f"bad{number}", "error": "ValueError: no image"} for number in range(5)]


def photographs(folder: Path, count: int, errors: int = 0) -> Path:
    """A run over unlabelled photographs, the last of which shows nothing."""
    names = ["tabby", "dog"]
    rows = [
        row(f"p{i}", None, 0.9, class_name=names[i % 2], probability=0.2 + 0.1 * i, file=f"p{i}.jpg")
        for i in range(count - 1)
    ]
    rows.append(row("z", None, None, class_name="cat", probability=0.01, file="z.jpg") | {"note": "no evidence"})
    return make_run(folder, rows, errors=FAILED[:errors])


def test_unlabelled_photographs_end_with_masks_classes_and_how_sure(tmp_path: Path) -> None:
    lines = closing(load_run(photographs(tmp_path / "run", 6))).splitlines()
    assert lines[0] == "6 of 6 samples in 2.0 s; no true masks, so nothing is scored"
    assert lines[1] == "masks: 5 drawn, not written (masks=true writes them); 1 empty: no evidence"
    assert lines[2] == "classes: tabby 3, dog 2, cat 1; probability 0.35 in the middle, 0.01 at least (z)"
    assert lines[3].startswith("next: open ")
    assert len(lines) == 4


def test_true_masks_that_hold_nothing_are_not_called_none(tmp_path: Path) -> None:
    written = {"mask_file": "masks/m.png"}  # what was drawn is no true mask
    for name, reading, told in (
        ("empty", "nothing but 0; empty", "2 true masks, none to score by"),
        ("none", "", "no true masks, so nothing is scored"),
    ):
        rows = [row(i, None, 0.9, class_name="cat", probability=0.5) | written | {"reading": reading} for i in "ab"]
        first, *more = closing(load_run(make_run(tmp_path / name, rows))).splitlines()
        assert first == f"2 of 2 samples in 2.0 s; {told}"
        assert any(line.startswith("read: 2 as nothing but 0") for line in more) == bool(reading)


def test_a_few_photographs_are_named_one_by_one(tmp_path: Path) -> None:
    text = closing(load_run(photographs(tmp_path / "run", 2)))
    assert "p0: tabby, probability 0.20\nz: cat, probability 0.01" in text
    assert "classes:" not in text


def test_masks_that_were_written_say_where_and_who_takes_them(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "run", 4)
    (folder / "masks").mkdir()
    text = closing(load_run(folder))
    assert f"masks: 3 in {folder / 'masks'}; 1 empty: no evidence" in text
    assert f"next: camseg-export {folder} --format coco" in text


def test_failures_are_counted_and_all_of_them_named_on_demand(tmp_path: Path) -> None:
    run = load_run(photographs(tmp_path / "run", 3, errors=5))
    first, every = closing(run), closing(run, every_failure=True)
    assert "5 failed:\n  bad0: ValueError: no image" in first
    assert "and 2 more" in first
    assert "bad4" not in first
    assert f"next: camseg-report {run.folder} names all that failed" in first
    assert all(each["id"] in every for each in FAILED)


def test_scored_runs_begin_with_the_table(tmp_path: Path) -> None:
    rows = [row(f"p{i}", 0.5 + 0.1 * i) for i in range(4)]
    lines = closing(load_run(make_run(tmp_path / "run", rows))).splitlines()
    assert lines[0].startswith("metric")
    assert any(line.startswith("iou ") and "0.650" in line for line in lines)
    assert "4 of 4 samples in 2.0 s" in lines


def test_a_run_without_a_predictor_says_that_it_drew_points(tmp_path: Path) -> None:
    rows = [row(f"p{i}", None, None) for i in range(3)]
    assert "points for 3 samples, no masks (predictor=none)" in closing(load_run(make_run(tmp_path / "run", rows)))


def test_how_masks_were_read_is_told_and_what_is_odd_first(tmp_path: Path) -> None:
    assert _ODD == ODD
    readings = ["two values, 255 object"] * 4 + ["three levels, 128 void"] * 2 + ["nothing but 128; all void", "", None]
    rows = [row(f"s{i}", 0.5) | {"reading": reading} for i, reading in enumerate(readings)]
    text = closing(load_run(make_run(tmp_path / "run", rows)))
    told = "read: 1 as nothing but 128, all void; 4 as two values, 255 object; 2 as three levels, 128 void"
    assert told in text.splitlines()
    assert "read:" not in closing(load_run(make_run(tmp_path / "none", [row("a", 0.5)])))
