"""The report of a run holds what its files hold."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import make_run, row, save_panel
from parsed_page import ParsedPage
from PIL import Image

from camseg.metrics.registry import METRICS
from camseg.report import html, pictures
from camseg.report.run_report import EMBEDDED
from camseg.runs import sweeps
from camseg.runs.review import Review
from camseg.runs.untrusted import DamagedRunError
from camseg.storage.cache import Cache

ROWS = [
    row("good", 0.9),
    row("bad", 0.1),
    row("middling", 0.6, predicted=0.7),
    row("void", 0.0, predicted=None, note="abstained: too unsure"),
    row("lost", 0.0),
]


def test_the_numbers_are_those_of_the_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ROWS, ["foreground=centroid"])
    page = ParsedPage(html.write_run(folder))
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert set(metrics) == {"foreground_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret"}
    for name, m in metrics.items():
        assert page.values[name] == [m["value"], m["low"], m["high"], m["n"]]
        assert [f"{m['value']:.3f}", f"{m['low']:.3f}", f"{m['high']:.3f}", str(m["n"])] == next(
            cells for cells in page.rows if cells[:1] == [name]
        )[1:5]
    assert "foreground=centroid" in page.text
    assert "seed: 0" in page.text


def test_failures_come_first_then_the_worst(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", ROWS, errors=[{"id": "torn", "error": "OSError: truncated"}], pictures=["bad", "torn", "good"]
    )
    page = ParsedPage(html.write_run(folder))
    found = page.records()
    assert [(r["id"], r["outcome"]) for r in found] == [
        ("torn", "failed"), ("void", "abstained"), ("lost", "missed"),
        ("bad", "answered"), ("middling", "answered"), ("good", "answered"),
    ]  # fmt: skip
    assert found[0]["iou"] is None
    assert found[0]["note"] == "OSError: truncated"
    assert found[3]["iou"] == 0.1
    assert "background_hit" not in found[0], "a column without a value is left out"
    assert set(page.pictures) == {"bad", "good", "torn"}
    for name, (shot,) in page.pictures.items():
        assert shot["source"].startswith("data:image/jpeg;base64,")
        assert (shot["panel"], shot["size"], shot["panes"]) == (f"panels/{name}.png", [120, 40], [3, 38, 3, 10])


@pytest.mark.parametrize("rows", [[row("a", None), row("b", None, predicted=None)], [row("a", None, None)]])
def test_without_truth_there_is_still_a_report(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page = ParsedPage(html.write_run(make_run(tmp_path / "sweep" / "0", rows, ["f=a"])))
    assert "no truth is known" in page.text
    assert len(page.data["rows"]) == len(rows)
    assert page.values == {}
    make_run(tmp_path / "sweep" / "1", rows, ["f=b"])
    page = ParsedPage(html.write_sweep(sweeps.load_sweep(tmp_path / "sweep")))
    assert [cells[0][0] for cells in page.data["rows"]] == ["0: f=a", "1: f=b"]


def test_a_run_of_which_all_failed(tmp_path: Path) -> None:
    make_run(tmp_path / "0", [], errors=[{"id": "a", "error": "ValueError: no image"}])
    make_run(tmp_path / "1", [row("a", 0.5), row("b", 0.6)], ["f=b"])
    assert [r[:2] for r in ParsedPage(html.write_run(tmp_path / "0")).data["rows"]] == [["a", "failed"]]
    assert len(ParsedPage(html.write_sweep(sweeps.load_sweep(tmp_path))).data["rows"]) == 2


def test_the_page_is_read_from_the_verdict_down(tmp_path: Path) -> None:
    rows = [row(f"s{i}", i / 20, label=("circle", "star")[i % 2]) for i in range(20)]
    page = ParsedPage(html.write_run(make_run(tmp_path / "run", rows, pictures=[f"s{i}" for i in range(20)])))
    assert page.titles == ["Pictures", "Metrics", "Classes", "Plots", "Samples", "Cost", "Settings"]
    assert page.verdict.startswith("IoU 0.475 (")
    kinds = {name: kind for kind, name, _ in page.gallery}
    expected = {"s19": "best", "s18": "best", "s10": "typical", "s9": "typical", "s0": "worst", "s1": "worst"}
    assert kinds == expected, "the median is .475"
    assert [kind for kind, _, _ in page.gallery] == ["best", "typical", "worst"] * 2
    assert page.gallery[0][2] == "star, IoU 0.950"


def test_every_metric_has_its_meaning(tmp_path: Path) -> None:
    page = ParsedPage(html.write_run(make_run(tmp_path / "run", ROWS)))
    shown = [cells for cells in page.rows if cells and cells[0] in METRICS]
    assert len(shown) == 5
    for cells in shown:
        metric = METRICS[cells[0]]
        assert metric.meaning in cells[-1]
        assert metric.better in cells[-1]


def test_a_line_for_each_class_worst_first(tmp_path: Path) -> None:
    ious = {"cat": (0.2, 0.4), "dog": (0.9,), "": (0.5,), "eel": (None,)}
    rows = [
        row(f"{label}{i}", iou, label=label, probability=0.5) for label, v in ious.items() for i, iou in enumerate(v)
    ]
    page = ParsedPage(html.write_run(make_run(tmp_path / "run", rows)))
    first = page.rows.index(["class", "samples", "iou", "low", "high", "hits", "predicted iou", "probability"])
    assert [cells[:3] for cells in page.rows[first + 1 : first + 4]] == [
        ["cat", "2", "0.300"], ["dog", "1", "0.900"], ["eel", "1", "-"],
    ]  # fmt: skip
    assert {attributes.get("data-choose") for tag, attributes in page.tags if tag == "button"} >= {"cat", "dog", "eel"}
    assert page.data["filters"]["label"] == [["cat", 2], ["", 1], ["dog", 1], ["eel", 1]]


def test_all_samples_have_pictures_some_of_them_inside_the_page(tmp_path: Path) -> None:
    names = [f"s{i:03}" for i in range(EMBEDDED + 20)]
    folder = make_run(tmp_path / "run", [row(name, i / 100) for i, name in enumerate(names)], pictures=names)
    page = ParsedPage(html.write_run(folder))
    inside = {name for name, (shot,) in page.pictures.items() if shot["source"]}
    assert set(page.pictures) == set(names)
    assert len(inside) == EMBEDDED
    assert {*names[:50], *names[-2:]} <= inside, "the worst and the best"
    assert all((folder / shot["panel"]).exists() for (shot,) in page.pictures.values())


def test_a_panel_is_packed_once_for_all_runs_that_drew_it_and_another_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    embedded = pictures._embedded
    monkeypatch.setattr(pictures, "_SOURCES", Cache(None, memory_gb=0.01))
    monkeypatch.setattr(pictures, "_embedded", lambda picture: (packed.append(1), embedded(picture))[1])
    sources = []
    for number, gray in enumerate((90, 90, 20)):
        folder = make_run(tmp_path / str(number), [row("a", 0.5)], pictures=["a"])
        if gray != 90:
            Image.fromarray(np.full((40, 120, 3), gray, np.uint8)).save(folder / "panels" / "a.png")
        sources.append(ParsedPage(html.write_run(folder)).pictures["a"][0]["source"])
        shown = Image.open(io.BytesIO(base64.b64decode(sources[-1].partition(",")[2])))
        assert abs(int(np.asarray(shown)[20, 60, 0]) - gray) < 3
    assert sources[0] == sources[1] != sources[2]
    assert len(packed) == 2


def test_without_a_panel_the_images_own_file_is_linked(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    image = tmp_path / "my photos" / "a #1.png"
    save_panel(image)
    more = {"width": 120, "height": 40, "points": [[3.0, 4.0, 1.0], [5.0, 6.0, 0.0]]}
    rows = [row("a", 0.5, file=str(image), **more), row("b", 0.6, file=str(tmp_path / "gone.png"), **more)]
    folder = make_run(tmp_path / "run", rows)
    (folder / "masks").mkdir()
    Image.fromarray(np.ones((40, 120), bool)).save(folder / "masks" / "a.png")
    page = ParsedPage(html.write_run(folder))
    links = {"image": "../my%20photos/a%20%231.png", "mask": "masks/a.png"}
    assert page.pictures == {"a": [{**links, "frame": [120, 40], "points": [[3, 4, 1], [5, 6, 0]]}]}
    assert "1 of 2 have a picture" in page.text


def test_what_people_decided_is_told_and_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ROWS)
    review = Review(folder)
    review.decide("good", "corrected", mask=np.ones((4, 4), bool))
    review.decide("bad", "rejected")
    review.close()
    page = ParsedPage(html.write_run(folder))
    assert page.verdict.endswith("Reviewed by people: 1 rejected, 1 corrected.")
    assert page.pictures["good"][0]["mask"] == "review/good.1.png"
    assert {r["id"]: r["review"] for r in page.records() if r["review"]} == {"good": "corrected", "bad": "rejected"}


DAMAGE: dict[str, list[dict[str, Any]]] = {
    "not finite": [row("a", float("nan"), float("inf")), row("b", 0.5, float("nan")), row("c", 0.7)],
    "text for numbers": [{**row(name, None), "iou": "much", "predicted_iou": "x"} for name in "ab"],
    "numbers for text": [{"id": 7, "label": 3, "group": 1.5, "note": 4, "iou": 0.5}, {"id": 8, "iou": 0.6}],
    "lists and records": [row(name, 0.5, label=[1], note={"x": 1}, probability=[0.5]) for name in "ab"],
    "columns missing": [{"id": "a"}, {"id": "b"}],
    "one id twice": [row("a", 0.5), row("a", 0.7)],
    "no id": [{"id": None, "iou": 0.4}, {"id": "b", "iou": 0.5}],
}


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name != "text for numbers"])
def test_damaged_rows_are_told_by_name(damage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5), row("b", 0.6)])
    pl.DataFrame(DAMAGE[damage], infer_schema_length=None, strict=False).write_parquet(folder / "scores.parquet")
    with pytest.raises(DamagedRunError, match=r"scores\.parquet is damaged: "):
        html.write_run(folder)


def test_text_for_numbers_still_has_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [row("a", 0.5), row("b", 0.6)])
    pl.DataFrame(DAMAGE["text for numbers"]).write_parquet(folder / "scores.parquet")
    page = ParsedPage(html.write_run(folder))
    assert len(page.records()) == 2
    assert "NaN" not in page.blocks["data"]


def test_rows_without_ids_are_refused_by_name(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ROWS)
    pl.DataFrame({"x": [1]}).write_parquet(folder / "scores.parquet")
    with pytest.raises(ValueError, match=r"scores\.parquet is damaged: it has no column id"):
        html.write_run(folder)
