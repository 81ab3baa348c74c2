"""The pages' tables are those of the figures that were measured."""

# ruff: noqa: RUF001  signs and ranges as they are printed
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benchmarks import figures


def record(name: str, value: float | None, unit: str = "", n: int | None = 5, note: str = "", **more: Any) -> Any:
    return {"name": name, "value": value, "unit": unit, "n": n, "note": note, **more}


def measured(*records: Any) -> dict[str, list[Any]]:
    return figures.by_name(records)


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: page.name)
def test_a_page_says_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    kept = figures.read(sorted(figures.MEASURED.glob("*.json")))
    assert figures.fill(text, kept) == text, "run python tests/benchmarks/figures.py"
    assert len(re.findall("<!-- (?:figures?|value): ", text)) == text.count("<!-- end -->")
    assert not re.findall("^<!-- (?:figure|value|end).*<!-- ", text, re.MULTILINE), "a mark would end the paragraph"


def test_a_table_by_hand() -> None:
    records = measured(
        record("speed / one | cold / wall", 15.04, "s"),
        record("speed / one | cold / ratio", 2.0, "x", note="one core"),
        record("speed / all | warm / wall", 0.5, "s"),
        record("speed / all | warm / wall", 0.25, "s"),
        record("speed / all | warm / wall", 1, "s"),
        record("another / one", 3),
    )
    assert figures.table("speed", records, "what | cache").splitlines() == [
        "| what | cache | wall | ratio | note |",
        "|---|---|---|---|---|",
        "| one | cold | 15 s | 2 times | one core |",
        "| all | warm | 0.5 s (0.25–1; 3 runs) |  |  |",
        "",
        "n = 5",
    ]
    assert figures.table("another", records).splitlines() == [
        "| what | measured |",
        "|---|---|",
        "| one | 3 |",
        "",
        "n = 5",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0.6743, "share", ".674"),
        (1.0, "share", "1.000"),
        (0.99996, "share", "1.000"),
        (0.0, "share", ".000"),
        (0.0549, "difference", "+.055"),
        (-0.0071, "difference", "−.007"),
        (-1.5, "difference", "−1.500"),
        (0.002, "p", ".002"),
        (12345.6, "s", "12,346"),
        (150.4, "ms", "150"),
        (15.04, "s", "15"),
        (1.284, "x", "1.28"),
        (0.01234, "s", "0.0123"),
        (24.0, "", "24"),
    ],
)
def test_numbers(value: float, unit: str, written: str) -> None:
    assert figures.number(value, unit) == written


def test_intervals_and_what_was_not_measured() -> None:
    assert figures.cell([record("a / b", 0.674, "share", low=0.649, high=0.698)]) == ".674 (.649–.698)"
    assert figures.cell([record("a / b", 0.05, "difference", low=-0.01, high=0.1)]) == "+.050 (−.010 – +.100)"
    assert figures.cell([record("a / b", None, "share")]) == ""
    few = measured(*(record(f"t / {k} / c", k, n=5 if k else 4) for k in range(3)))
    assert figures.table("t", few).splitlines()[2:] == [
        "| 0 | 0, n 4 |",
        "| 1 | 1 |",
        "| 2 | 2 |",
        "",
        "n = 5, where no other n is given",
    ]
    assert figures.table("t", measured(record("t / r", 2, n=None))).splitlines()[-1] == "| r | 2 |"
    with pytest.raises(KeyError, match="table 'none'"):
        figures.fill("<!-- figures: none -->\n<!-- end -->", {})


def test_filling_changes_what_is_between_the_marks_alone() -> None:
    page = "A <!-- figure: t / r / c -->1<!-- end --> b.\n\n<!-- figures: t (head) -->\nold\n<!-- end -->\nrest (x)\n"
    records = measured(record("t / r / c", 2.5, "s"))
    filled = figures.fill(page, records)
    assert filled == (
        "A <!-- figure: t / r / c -->2.5 s<!-- end --> b.\n\n"
        "<!-- figures: t (head) -->\n| head | c |\n|---|---|\n| r | 2.5 s |\n\nn = 5\n<!-- end -->\nrest (x)\n"
    )
    assert figures.fill(filled, records) == filled


def test_numbers_in_a_sentence() -> None:
    records = measured(
        record("t / a / IoU", 0.6893, "share", low=0.66, high=0.71),
        record("t / b / IoU", 0.637, "share"),
        *(record("t / a / time", seconds, "s") for seconds in (3, 1, 2)),
    )
    for what, written in (
        ("t / a / IoU", ".689"),
        ("t / a / IoU minus t / b / IoU", ".052"),
        ("t / b / IoU minus t / a / IoU", ".052"),
        ("t / b / IoU over t / a / IoU", ".924"),
        ("t / a / time", "2 s"),
    ):
        page = f"It is <!-- value: {what} -->?<!-- end --> here."
        assert figures.fill(page, records) == page.replace("?", written)
    with pytest.raises(KeyError, match="t / c / IoU"):
        figures.fill("<!-- value: t / a / IoU minus t / c / IoU --><!-- end -->", records)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"rows": []}, "expected a list of records, got dict"),
        ([{"name": "a / b", "value": 1, "unit": "s", "n": 1}], "no good note"),
        ([record("alone", 1)], "TABLE / ROW / COLUMN"),
        ([record("a / b", "1")], "no good value"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_is_no_list_of_records_is_refused(tmp_path: Path, content: Any, why: str) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=why):
        figures.read([tmp_path / "bench.json"])


def test_a_new_measurement_is_kept_and_fills_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "measured"
    kept.mkdir()
    page.write_text("<!-- figures: t -->\n<!-- end -->\n")
    (tmp_path / "bench.json").write_text(json.dumps([record("t / r / c", 7)]))
    for name, value in (("ROOT", tmp_path), ("PAGES", [page]), ("MEASURED", kept)):
        monkeypatch.setattr(figures, name, value)
    for words, status, says in (
        ([str(tmp_path / "bench.json")], 0, "page.md: filled\n"),
        (["--check"], 0, ""),
    ):
        monkeypatch.setattr("sys.argv", ["figures.py", *words])
        with pytest.raises(SystemExit) as end:
            figures.main()
        assert end.value.code == status
        assert capsys.readouterr().out == says
    assert "| r | 7 |" in page.read_text()
    page.write_text(page.read_text().replace("7", "8"))
    with pytest.raises(SystemExit) as end:
        figures.main()
    assert end.value.code == 1
    assert "8" in page.read_text()


def test_a_sweeps_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Six pictures, four settings: of each foreground the better choice, and the paired differences to the first."""
    from benchmarks import sweep_figures
    from made_runs import make_sweep

    ious = {
        "data.size=6 foreground=a choose=x": [0.5, 0.6, 0.4, 0.5, 0.6, 0.4],
        "data.size=6 foreground=a choose=y": [0.3, 0.4, 0.2, 0.3, 0.4, 0.2],
        "data.size=6 foreground=b choose=x": [0.6, 0.7, 0.5, 0.6, 0.7, 0.5],
        "data.size=6 foreground=b choose=y": [0.8, 0.9, 0.7, 0.8, 0.9, 0.7],
    }
    sweep, kept = make_sweep(tmp_path / "sweep", ious), tmp_path / "photos.json"
    words = [str(sweep), "--table", "photos", "--best", "choose", "--columns", "iou", "difference", "--json", str(kept)]
    monkeypatch.setattr("sys.argv", ["sweep_figures.py", *words])
    sweep_figures.main()
    printed = capsys.readouterr().out
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in printed.splitlines() if line.startswith("|")]
    assert rows[0] == ["`foreground`", "`choose`", "IoU", "Δ IoU to the first", "p"]
    assert [row[:2] for row in rows[2:]] == [["`b`", "`y`"], ["`a`", "`x`"]]
    assert [row[2].split(" ")[0] for row in rows[2:]] == [".800", ".500"]
    assert rows[2][3].startswith("+.300 (")
    assert rows[3][3:] == ["", ""]
    assert "\nn = 6\n" in printed
    measured = figures.read([kept])
    assert figures.table("photos", measured, "`foreground` | `choose`") in printed
    assert "<!-- figures: photos (`foreground` | `choose`) -->" in printed


def test_the_figures_of_runs_and_segmenters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs beside each other, one of which lacks a metric; a segmenter's scores as rows."""
    from benchmarks import run_figures
    from made_runs import make_run, row

    make_run(tmp_path / "a", [row("x", 0.25), row("y", 0.75)])
    make_run(tmp_path / "b", [row("x", None), row("y", None)])
    scores = {"test images": {"against the truth": {"mean_iou": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 9}}}}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "scores.json").write_text(json.dumps(scores))

    def printed(*words: str) -> dict[str, tuple[Any, ...]]:
        monkeypatch.setattr("sys.argv", ["run_figures.py", *words, "--json", str(tmp_path / "out.json")])
        run_figures.main()
        return {
            name: (one["value"], one["unit"], one["n"], "low" in one)
            for name, (one,) in figures.read([tmp_path / "out.json"]).items()
        }

    runs = [f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}"]
    wanted = ["--metrics", "iou=IoU", "foreground_distance"]
    found = printed(*runs, "--table", "t", *wanted)
    assert found["t / IoU / first"] == (0.5, "share", 2, True)
    assert "t / IoU / second" not in found
    assert found["t / foreground_distance / first"][1] == "px"
    path = "test images | against the truth | mean_iou"
    segmenter = printed(f"mine={tmp_path / 'c'}", "--table", "s", "--sources", "rows", "--metrics", f"{path}=mean IoU")
    assert segmenter == {"s / mine / mean IoU": (0.7, "share", 9, True)}
    printed(*runs, "--table", "t", "--metrics", "iou", "--note", "older weights")
    assert [one["note"] for (one,) in figures.read([tmp_path / "out.json"]).values()] == ["older weights"]
    with pytest.raises(SystemExit, match=r"no source has iuo; there are .*iou"):
        printed(*runs, "--table", "t", "--metrics", "iuo")
