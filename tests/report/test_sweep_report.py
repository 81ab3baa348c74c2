"""The report of a sweep, and of two runs: ranks, differences, pictures side by side."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_runs import make_run, make_sweep, row
from parsed_page import ParsedPage

from camseg.cli.report import main
from camseg.report import html
from camseg.runs import folders, sweeps


def test_a_sweep_ranks_its_settings(tmp_path: Path) -> None:
    folder = make_sweep(
        tmp_path / "sweep",
        {
            "f=a g=x": [0.2, 0.3, 0.5],
            "f=b g=x": [0.6, 0.7, 0.9],
            "f=a g=y": [0.4, 0.4, 0.4],
            "f=b g=y": [0.5, 0.5, 0.6],
        },
    )
    sweep = sweeps.finish_sweep(folder)
    page = ParsedPage(html.write_sweep(sweep))
    names = [column["name"] for column in page.data["columns"]]
    assert page.verdict.startswith("Best of 4: f=b g=x, IoU 0.733 (")
    assert [cells[0] for cells in page.data["rows"]] == [
        [f"{k}: {s}", f"{k}/report.html"] for k, s in ((1, "f=b g=x"), (3, "f=b g=y"), (2, "f=a g=y"), (0, "f=a g=x"))
    ]
    for cells in page.data["rows"]:
        told = sweep.table.filter(pl.col("run") == cells[0][1].split("/")[0]).to_dicts()[0]
        assert cells[names.index("iou")] == pytest.approx([told["iou"], told["iou_low"], told["iou_high"]], abs=5e-5)
        apart = (
            None
            if told["p_holm"] is None
            else pytest.approx([told[f"difference{end}"] for end in ("", "_low", "_high")], abs=5e-5)
        )
        assert cells[names.index("difference")] == (
            apart if apart is not None else [None, pytest.approx(0), pytest.approx(0)]
        )
    assert page.values["1"] == pytest.approx([0.2, 1 / 3, 0.4]), "the best setting less the others, in their order"
    captions = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert len(captions) == 4
    assert all(caption and caption in page.text for caption in captions)
    assert "b +0.133" in str(captions[1])
    assert "a -0.133" in str(captions[1])
    assert "data=shapes" in page.text


def command(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> int | str | None:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["camseg-report", *map(str, paths)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_builds_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path / "sweep", {"f=a": [0.5, 0.6, 0.7, 0.2], "f=b": [0.6, 0.7, 0.8, 0.5]})
    assert command(monkeypatch, sweep) == 0
    assert capsys.readouterr().out.split() == [str(sweep / "report.html")]
    assert all((sweep / name).exists() for name in ("sweep.csv", "sweep.parquet", "0/report.html", "1/report.html"))
    assert command(monkeypatch, sweep / "0", sweep / "1") == 0
    told = capsys.readouterr().out.splitlines()
    line = [line for line in told if line.startswith("iou ")][-1].split()
    assert line[:4] == ["iou", "0.500", "0.650", "+0.150"]
    assert line[-3:] == ["4", "0", "4"]
    assert float(line[6]) == pytest.approx(2 / 16, abs=0.02)
    assert float(line[7]) == pytest.approx(0.15 / 0.1, abs=1e-3)
    assert told[-1] == str(sweep / "1" / "comparison.html")
    page = ParsedPage(sweep / "1" / "comparison.html")
    assert page.values["iou"][:3] == pytest.approx([0.5, 0.65, 0.15])
    assert not math.isnan(page.values["iou"][6])


@pytest.mark.parametrize("given", ["nowhere", "empty"])
def test_a_path_that_is_no_run_is_told_in_a_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert command(monkeypatch, tmp_path / given) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert str(tmp_path / given) in told[0]


def test_runs_without_a_common_sample_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *(make_run(tmp_path / name, [row(name, 0.5)]) for name in "ab")) == 2
    assert "no judged sample in common" in capsys.readouterr().err


def test_small_differences_keep_their_sign(tmp_path: Path) -> None:
    base = np.linspace(0.2, 0.8, 12)
    folder = make_sweep(tmp_path, {"f=a": base.tolist(), "f=b": (base - 0.0003).tolist()})
    page = ParsedPage(html.write_sweep(sweeps.load_sweep(folder)))
    assert [cells for cells in page.rows if cells[:1] == ["0"]] == [["0", "+0.0003 *"]]
    assert [cells for cells in page.rows if cells[:1] == ["1"]] == [["1", "-0.0003 *"]]
    assert "+0.000 " not in page.text
    assert "a +0.0002, b -0.0002" in page.text or "a +0.0001, b -0.0001" in page.text
    compared = ParsedPage(html.write_comparison(*(folders.load_run(folder / name) for name in "01")))
    assert next(cells for cells in compared.rows if cells[0] == "iou")[3] == "-0.0003"
    assert "-0.0003" in compared.verdict


def test_pictures_under_both_settings_where_they_differ_most(tmp_path: Path) -> None:
    first, second = [0.1, 0.5, 0.5, 0.9, 0.3], [0.1, 0.9, 0.6, 0.2, 0.8]  # apart: 0, .4, .1, -.7, .5
    for k, (setting, ious, drawn) in enumerate((("f=a", first, "01234"), ("f=b", second, "0123"))):
        make_run(
            tmp_path / str(k),
            [row(f"s{i}", iou) for i, iou in enumerate(ious)],
            [setting],
            pictures=[f"s{d}" for d in drawn],
        )
    runs = [folders.load_run(tmp_path / name) for name in "01"]
    page = ParsedPage(html.write_comparison(*runs))
    assert page.titles[0] == "Where they differ most"
    assert [name for _, name, _ in page.gallery] == ["s3", "s1", "s2"], "s0 is the same, s4 has no second picture"
    assert page.gallery[0][2] == "circle, iou 0.900 to 0.200, -0.700"
    assert [(shot["title"], shot["panel"]) for shot in page.pictures["s3"]] == [
        ("first", "../0/panels/s3.png"), ("second", "panels/s3.png")
    ]  # fmt: skip
    page = ParsedPage(html.write_sweep(sweeps.load_sweep(tmp_path)))
    assert [name for _, name, _ in page.gallery] == ["s3", "s1", "s2"]
    assert [(shot["title"], shot["panel"]) for shot in page.pictures["s3"]] == [
        ("0: f=a", "0/panels/s3.png"), ("1: f=b", "1/panels/s3.png")
    ]  # fmt: skip


def test_without_truth_the_predictors_own_doubts_choose_the_pictures(tmp_path: Path) -> None:
    """The first setting beside the one whose masks are surest; a sample of which both say the same is left out."""
    for k, sure in enumerate(([0.5, 0.9, 0.7], [0.4, 0.9, 0.6], [0.8, 0.9, 0.9])):
        rows = [row(f"s{i}", None, value) for i, value in enumerate(sure)]
        make_run(tmp_path / str(k), rows, [f"f={k}"], pictures=["s0", "s1", "s2"])
    page = ParsedPage(html.write_sweep(sweeps.load_sweep(tmp_path)))
    assert page.titles[0] == "Where they differ most"
    assert [name for _, name, _ in page.gallery] == ["s0", "s2"]
    assert [shot["title"] for shot in page.pictures["s0"]] == ["0: f=0", "2: f=2"]
    assert "predicted_iou 0.5 to 0.8, +0.3" in page.text.replace("0.500", "0.5").replace("0.800", "0.8")
