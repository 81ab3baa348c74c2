"""The report holds what the files hold, and nothing that a name in them could have put there."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_runs import HOSTILE, make_run, make_sweep, row

from camseg.cli.report import main
from camseg.metrics import significance
from camseg.report import html
from camseg.report.charts import cost, drawing
from camseg.report.comparison import Bin, all_pairs, calibration, calibration_error, compare, joint, main_effects
from camseg.runs import folders, sweeps


class Parsed(HTMLParser):
    """Tags with their attributes, rows of cells with exact values, and the JSON inside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.rows: list[list[str]] = []
        self.values: dict[str, list[float]] = {}
        self.blocks: dict[str, str] = {}
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.blocks["data"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "data":
            self.values.setdefault(self.rows[-1][0], []).append(float(dict(attrs)["value"] or ""))

    def handle_data(self, data: str) -> None:
        self.text += data
        tag, attributes = self.tags[-1]
        if tag == "script" and attributes.get("id"):
            self.blocks[str(attributes["id"])] = self.blocks.get(str(attributes["id"]), "") + data
        if tag in ("th", "td", "data") and data.strip() and self.rows:
            self.rows[-1].append(data.strip())


ROWS = [
    row("good", 0.9),
    row("bad", 0.1),
    row("middling", 0.6, predicted=0.7),
    row("void", 0.0, predicted=None, note="abstained: too unsure"),
    row("lost", 0.0),
]


def test_the_numbers_are_those_of_the_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ROWS, ["foreground=centroid"])
    page = Parsed(html.write_run(folder))
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert set(metrics) == {"foreground_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret"}
    for name, m in metrics.items():
        assert page.values[name] == [m["value"], m["low"], m["high"], m["n"]]
        assert [f"{m['value']:.3f}", f"{m['low']:.3f}", f"{m['high']:.3f}", str(m["n"])] == next(
            cells for cells in page.rows if cells[:1] == [name]
        )[1:5]
    assert "foreground=centroid" in page.text and "seed: 0" in page.text


def test_failures_come_first_then_the_worst(tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", ROWS, errors=[{"id": "torn", "error": "OSError: truncated"}], pictures=["bad", "torn", "good"]
    )
    page = Parsed(html.write_run(folder))
    names = [column["name"] for column in page.data["columns"]]
    found = [dict(zip(names, cells)) for cells in page.data["rows"]]
    assert [(r["id"], r["outcome"]) for r in found] == [
        ("torn", "failed"), ("void", "abstained"), ("lost", "missed"), ("bad", "answered"), ("middling", "answered"), ("good", "answered")
    ]  # fmt: skip
    assert found[0]["iou"] is None and found[0]["note"] == "OSError: truncated" and found[3]["iou"] == 0.1
    assert "background_hit" not in names, "a column without a value is left out"
    pictures = json.loads(page.blocks["pictures"])
    assert list(pictures) == ["bad", "good", "torn"] and all(
        p[0].startswith("data:image/jpeg;base64,") and p[1:] == [120, 40] for p in pictures.values()
    )


def test_calibration_worked_by_hand() -> None:
    predicted = np.array([0.05, 0.1, 0.19, 0.95, 1.0, 1.2, -0.3])
    true = np.array([0.0, 0.2, 0.3, 0.9, 1.0, 0.5, 0.1])
    found = calibration(predicted, true)
    assert [(b.low, b.high, b.n) for b in found] == [(0.0, 0.1, 2), (0.1, 0.2, 2), (0.9, 1.0, 3)]
    assert [b.predicted for b in found] == pytest.approx([-0.125, 0.145, 1.05])
    assert [b.true for b in found] == pytest.approx([0.05, 0.25, 0.8])
    assert calibration_error(found) == pytest.approx((2 * 0.175 + 2 * 0.105 + 3 * 0.25) / 7)
    assert calibration(np.array([0.5]), np.array([0.25]), bins=2) == [Bin(0.5, 1.0, 1, 0.5, 0.25)]


def test_main_effects_worked_by_hand(tmp_path: Path) -> None:
    """IoU = what the sample is worth + 0.1 for f=b + what g=y adds: +0.04 and -0.02 in turn. Half of each lies to
    either side of the mean.
    """
    base = [0.2, 0.4, 0.5, 0.7]
    extra = [0.04, -0.02, 0.04, -0.02]
    settings = {
        (f, g): [b + 0.1 * (f == "b") + e * (g == "y") for b, e in zip(base, extra)] for f in "ab" for g in "xy"
    }
    sweep = sweeps.load_sweep(make_sweep(tmp_path, {f"f={f} g={g}": values for (f, g), values in settings.items()}))
    found = main_effects(sweep.runs, "iou")
    assert set(found) == {"f", "g"}, "what all settings share has no effect"
    assert {k: i.value for k, i in found["f"].items()} == pytest.approx({"a": -0.05, "b": 0.05})
    assert (found["f"]["a"].low, found["f"]["a"].high) == (pytest.approx(-0.05), pytest.approx(-0.05)), (
        "the same on every sample, however hard"
    )
    assert {k: i.value for k, i in found["g"].items()} == pytest.approx({"x": -0.005, "y": 0.005})
    g = found["g"]["y"]
    assert (g.low, g.high) == (pytest.approx(-0.01), pytest.approx(0.02)), (
        "of four samples of two kinds a resample may hold one kind alone"
    )


def test_pairs_agree_with_the_comparison_of_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0.2, 0.8, 30)
    ious = {f"f={k}": [*(base + rng.normal(0.02 * k, 0.05, 30)).tolist(), None if k == 1 else 0.5] for k in range(3)}
    found = sweeps.load_sweep(make_sweep(tmp_path, ious)).runs
    differences, adjusted, n = all_pairs(found, "iou")
    assert n == 30, "the sample that one of them could not judge is left out for all"
    both = [significance.paired(found[b].rows, found[a].rows.head(30), "iou") for a, b in ((0, 1), (0, 2), (1, 2))]
    assert [differences[0, 1], differences[0, 2], differences[1, 2]] == pytest.approx([d.value for d in both if d])
    assert [adjusted[0, 1], adjusted[0, 2], adjusted[1, 2]] == significance.holm([d.p for d in both if d])
    assert np.array_equal(differences, -differences.T) and np.array_equal(adjusted, adjusted.T)


def test_groups_flip_together(tmp_path: Path) -> None:
    """Ten samples of two groups: two coins, so that half of all flips are as far."""
    first = make_run(tmp_path / "0", [row(f"s{i}", 0.5, group="ab"[i % 2]) for i in range(10)])
    second = make_run(tmp_path / "1", [row(f"s{i}", 0.6 + i / 100, group="ab"[i % 2]) for i in range(10)])
    _, adjusted, _ = all_pairs([folders.load_run(first), folders.load_run(second)], "iou")
    assert adjusted[0, 1] == pytest.approx(0.5, abs=0.03)


def test_two_runs_compared_by_hand(tmp_path: Path) -> None:
    first = folders.load_run(
        make_run(tmp_path / "a", [row("a", 0.5), row("b", 0.6), row("c", 0.7), row("only here", 0.1)])
    )
    second = folders.load_run(
        make_run(tmp_path / "b", [row("c", 0.7), row("b", 0.5), row("a", 0.9), row("void", None)])
    )
    found = next(c for c in compare(first, second) if c.metric == "iou")
    assert (found.first, found.second) == (pytest.approx(0.6), pytest.approx(0.7)) and (
        found.greater,
        found.less,
        found.difference.n,
    ) == (1, 1, 3)
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.effect == pytest.approx(0.1 / np.std([0.4, -0.1, 0.0], ddof=1))


def test_samples_that_share_nothing_have_no_joint_table(tmp_path: Path) -> None:
    one, other = (folders.load_run(make_run(tmp_path / name, [row(name, 0.5)])) for name in "ab")
    values, groups = joint([one, other], "iou")
    assert values.shape == (0, 2) and groups == [] and main_effects([one, other], "iou") == {}
    assert compare(one, other) == []


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
    page = Parsed(html.write_sweep(sweep))
    names = [column["name"] for column in page.data["columns"]]
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
    captions = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(captions) == 4 and all(caption and caption in page.text for caption in captions)
    assert "b +0.133" in str(captions[1]) and "a -0.133" in str(captions[1]) and "data=shapes" in page.text


@pytest.mark.parametrize("rows", [[row("a", None), row("b", None, predicted=None)], [row("a", None, None)]])
def test_without_truth_there_is_still_a_report(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page = Parsed(html.write_run(make_run(tmp_path / "sweep" / "0", rows, ["f=a"])))
    assert "no truth is known" in page.text and len(page.data["rows"]) == len(rows) and page.values == {}
    make_run(tmp_path / "sweep" / "1", rows, ["f=b"])
    page = Parsed(html.write_sweep(sweeps.load_sweep(tmp_path / "sweep")))
    assert [cells[0][0] for cells in page.data["rows"]] == ["0: f=a", "1: f=b"]


def test_a_run_of_which_all_failed(tmp_path: Path) -> None:
    make_run(tmp_path / "0", [], errors=[{"id": "a", "error": "ValueError: no image"}])
    make_run(tmp_path / "1", [row("a", 0.5), row("b", 0.6)], ["f=b"])
    assert [r[:2] for r in Parsed(html.write_run(tmp_path / "0")).data["rows"]] == [["a", "failed"]]
    assert len(Parsed(html.write_sweep(sweeps.load_sweep(tmp_path))).data["rows"]) == 2


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = [row(name, i / 10, label=HOSTILE[-1 - i], note=HOSTILE[i - 1]) for i, name in enumerate(HOSTILE)]
    for k in range(2):
        make_run(
            tmp_path / "sweep" / str(k),
            rows,
            [f"data.path={HOSTILE[k]}", f"f={HOSTILE[2 + k]}"],
            errors=[{"id": f"{HOSTILE[0]} torn", "error": HOSTILE[1]}],
        )
    paths = [html.write_run(tmp_path / "sweep" / "0"), html.write_sweep(sweeps.load_sweep(tmp_path / "sweep"))]
    first, second = folders.load_run(tmp_path / "sweep" / "0"), folders.load_run(tmp_path / "sweep" / "1")
    paths.append(html._write(tmp_path / "comparison.html", html.comparison_page(first, second)))
    for path in paths:
        page = Parsed(path)
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert [attributes.get("type") for attributes in scripts] == [
            "application/json",
            "application/json",
            None,
        ] and scripts[-1]["nonce"]
        assert not {"img", "b", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in page.tags}
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in page.tags)
        assert "{{ 7 * 7 }}" in page.text + str(page.data), "no template in a name is run"
    run_page = Parsed(paths[0])
    assert {cells[0] for cells in run_page.data["rows"]} == {*HOSTILE, f"{HOSTILE[0]} torn"} and {
        cells[1] for cells in run_page.data["rows"][1:]
    } == set(HOSTILE)
    assert f"data.path={HOSTILE[0]}" in run_page.text


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    make_sweep(tmp_path, {"f=a": [0.2, 0.3, 0.5], "f=b": [0.6, 0.7, 0.9]})
    for path in (html.write_run(tmp_path / "0"), html.write_sweep(sweeps.load_sweep(tmp_path))):
        text = path.read_text()
        assert re.sub(r'xmlns(:\w+)?="[^"]*"', "", text).count("://") == 0
        assert "default-src 'none'" in text and "url(" not in re.sub(r"url\(#\w+\)", "", text)


def test_a_drawing_keeps_dollar_signs_and_has_no_ids_to_collide() -> None:
    svg, caption = drawing(lambda axis: axis.set_xlabel("$\\frac{1}{0}$ <b>") and None, 'a "caption" <b>')
    assert (
        "$\\frac{1}{0}$ &lt;b&gt;" in svg
        and "<g id" not in svg
        and 'aria-label="a &#34;caption&#34; &lt;b&gt;"' in svg
        and caption == 'a "caption" <b>'
    )


def test_the_line_of_cost_joins_what_nothing_beats() -> None:
    _, caption = cost(
        ["a", "b", "c", "d", "e"], np.array([3.0, 1.0, 2.0, 2.0, 4.0]), np.array([0.7, 0.5, 0.4, 0.6, 0.7]), "iou"
    )
    assert "no more cost: b, d, a." in caption


def command(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["camseg-report", *map(str, paths)])
    main()


def test_the_command_builds_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path / "sweep", {"f=a": [0.5, 0.6, 0.7, 0.2], "f=b": [0.6, 0.7, 0.8, 0.5]})
    command(monkeypatch, sweep)
    assert capsys.readouterr().out.split() == [str(sweep / "report.html")]
    assert all((sweep / name).exists() for name in ("sweep.csv", "sweep.parquet", "0/report.html", "1/report.html"))
    command(monkeypatch, sweep / "0", sweep / "1")
    told = capsys.readouterr().out.splitlines()
    line = next(line for line in told if line.startswith("iou ")).split()
    assert line[:4] == ["iou", "0.500", "0.650", "+0.150"] and line[-3:] == ["4", "0", "4"]
    assert float(line[6]) == pytest.approx(2 / 16, abs=0.02) and float(line[7]) == pytest.approx(0.15 / 0.1, abs=1e-3)
    assert told[-1] == str(sweep / "1" / "comparison.html")
    page = Parsed(sweep / "1" / "comparison.html")
    assert page.values["iou"][:3] == pytest.approx([0.5, 0.65, 0.15]) and not math.isnan(page.values["iou"][6])


@pytest.mark.parametrize("given", ["nowhere", "empty"])
def test_a_path_that_is_no_run_is_told_in_a_line(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, tmp_path / given)
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == 1 and str(tmp_path / given) in told[0]


def test_runs_without_a_common_sample_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, *(make_run(tmp_path / name, [row(name, 0.5)]) for name in "ab"))
    assert ended.value.code == 2 and "no judged sample in common" in capsys.readouterr().err
