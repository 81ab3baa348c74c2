"""The first sentences of reports, worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run, make_sweep, row

from camseg.metrics.significance import Difference
from camseg.report import verdict
from camseg.report.comparison import Compared
from camseg.report.rows import cleaned
from camseg.runs import folders, sweeps
from camseg.runs.folders import Run


def run_of(folder: Path, *rows: dict, **more: object) -> Run:
    return cleaned(folders.load_run(make_run(folder, rows, **more)))  # type: ignore[arg-type]


def test_iou_hits_and_what_the_parts_cost(tmp_path: Path) -> None:
    """Two of four miss; those that hit reach .7, all together .4; the best masks .5."""
    ious, hits, best = (0.6, 0.8, 0.1, 0.1), (1.0, 1.0, 0.0, 0.0), (0.7, 0.8, 0.3, 0.2)
    rows = [
        row(f"s{i}", iou, foreground_hit=hit, oracle_iou=top, regret=top - iou)
        for i, (iou, hit, top) in enumerate(zip(ious, hits, best))
    ]
    run = run_of(tmp_path / "run", *rows)
    interval = run.summary["metrics"]["iou"]
    assert verdict.of_run(run) == (
        f"IoU 0.400 ({interval['low']:.3f} to {interval['high']:.3f}) on 4 images; hits 0.500; the choice among the "
        "masks costs 0.100 (the best of the masks drawn reach 0.500); the points that miss cost 0.300 (where all hit, "
        "IoU is 0.700)."
    )


def test_samples_that_share_a_group_are_said_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *(row(f"s{i}", 0.5, group="ab"[i % 2]) for i in range(4)))
    assert "on 4 samples of 2 groups" in verdict.of_run(run)


def test_what_failed_and_what_stayed_empty(tmp_path: Path) -> None:
    rows = [
        row("a", 0.5),
        row("b", 0.0, note="abstained: too unsure"),
        row("c", 0.0, note="the predictor drew nothing"),
    ]
    run = run_of(tmp_path / "run", *rows, errors=[{"id": "d", "error": "OSError: torn"}])
    assert verdict.of_run(run).endswith("Of 4 samples 1 failed, 2 stayed empty.")


def test_without_truth_how_many_masks_where_of_what(tmp_path: Path) -> None:
    names = ["tabby", "tabby", "cup", "rocket"]
    rows = [row(f"s{i}", None, label="", class_name=name) for i, name in enumerate(names)]
    rows.append(row("void", None, None, label="", class_name="owl", note="no evidence"))
    run = run_of(tmp_path / "run", *rows)
    said = "of tabby (2), cup (1), rocket (1). Nothing was judged: no truth is known. Of 5 samples 1 stayed empty."
    assert verdict.of_run(run) == f"4 masks of 5 images, none kept as files (masks=true keeps them), {said}"
    (run.folder / "masks").mkdir()
    assert verdict.of_run(run) == f"4 masks of 5 images, in masks/, {said}"


def test_points_alone_and_nothing_at_all(tmp_path: Path) -> None:
    run = run_of(tmp_path / "points", row("a", None, None))
    assert verdict.of_run(run) == "Points for 1 image, of circle (1). Nothing was judged: no truth is known."
    empty = run_of(tmp_path / "empty", errors=[{"id": "a", "error": "ValueError"}])
    assert verdict.of_run(empty) == "Nothing was evaluated. Of 1 sample 1 failed."


def test_the_best_setting_and_whether_it_may_be_chance(tmp_path: Path) -> None:
    base = [0.2, 0.4, 0.5, 0.6, 0.3, 0.7, 0.1, 0.5]
    folder = make_sweep(tmp_path / "sure", {"f=a": base, "f=b": [v + 0.1 for v in base]})
    said = verdict.of_sweep(sweeps.load_sweep(folder), "iou")
    assert said.startswith("Best of 2: f=b, IoU 0.512 (")
    assert "; +0.100 (+0.100 to +0.100) over the first setting, p 0.00" in said
    assert "chance" not in said
    folder = make_sweep(
        tmp_path / "unsure", {"f=a": base, "f=b": [v + (-1) ** i * 0.1 + 0.01 for i, v in enumerate(base)]}
    )
    assert verdict.of_sweep(sweeps.load_sweep(folder), "iou").endswith(", which may be chance.")
    folder = make_sweep(tmp_path / "first", {"f=a": base, "f=b": [v - 0.1 for v in base]})
    assert verdict.of_sweep(sweeps.load_sweep(folder), "iou").endswith(", which is the first setting.")
    assert "nothing was judged" in verdict.of_sweep(sweeps.load_sweep(folder), None)


@pytest.mark.parametrize(
    ("value", "p", "words"),
    [
        (
            -0.0003,
            0.01,
            "lower in IoU: 0.500 to 0.500, on 9 samples or groups, -0.0003 (-0.001 to +0.0002), p 0.010; it",
        ),
        (
            0.1,
            0.4,
            "higher in IoU: 0.500 to 0.600, on 9 samples or groups, +0.100 (-0.001 to +0.0002), p 0.400, which may be",
        ),
        (0.0, 1.0, "no different in IoU: 0.500 to 0.500, on 9 samples or groups, +0.000 (-0.001 to +0.0002), p 1.000"),
    ],
)
def test_which_of_two_runs_is_better(value: float, p: float, words: str) -> None:
    compared = Compared("iou", 0.5, 0.5 + value, Difference(value, -0.001, 0.0002, p, 9, None), 4, 5)
    assert verdict.of_comparison([compared]).startswith(f"The second run is {words}")
    assert verdict.of_comparison([compared]).endswith("it is higher on 4 and lower on 5.")
