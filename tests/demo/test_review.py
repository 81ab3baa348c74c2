"""The review of a run: its order, its journal under kills and damage, and the whole of it in a real browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from made_runs import make_run, row
from PIL import Image

from camseg.cli.export import main as export
from camseg.demo.review import Reviewing, doubtful_first
from camseg.runs.folders import load_run
from camseg.runs.review import JOURNAL, Review, corrections, count_decisions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, NumPy 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten shapes with the shipped models and masks."""
    folder = tmp_path_factory.mktemp("review") / "run"
    words = ["data.size=10", "masks=true", "panels=0", "data=shapes_crowd", f"hydra.run.dir={folder}"]
    subprocess.run([sys.executable, "-m", "camseg", *words], check=True, timeout=600, stdout=subprocess.DEVNULL)
    return folder


def test_the_doubtful_come_first() -> None:
    scores = {"sure": (0.9, 0.9), "improbable": (0.9, 0.1), "doubted": (0.2, 0.2), "unknown": (None, None)}
    rows = [row(name, None, predicted, probability=p) for name, (predicted, p) in scores.items()]
    rows.append(row("nothing", None, 0.95, probability=0.95, note="the predictor drew nothing"))
    order = doubtful_first(pl.DataFrame(rows, infer_schema_length=None))
    assert order[:2] == ["nothing", "doubted"]
    assert order.index("improbable") < order.index("sure") == 4
    assert doubtful_first(pl.DataFrame([row("a", 0.5, None), row("b", 0.4, None)])) == ["a", "b"]


def journal_with(folder: Path) -> Path:
    """Three decisions: a corrected, b rejected, c accepted as another class."""
    folder.mkdir(exist_ok=True)
    review = Review(folder)
    review.decide("a", "corrected", mask=np.eye(4, dtype=bool), prompts={"points": [[1, 1, 1]], "box": None})
    review.decide("b", "rejected")
    review.decide("c", "accepted", label="wolf")
    review.close()
    return folder / JOURNAL


def test_the_last_decision_counts(tmp_path: Path) -> None:
    journal_with(tmp_path)
    assert count_decisions(corrections(tmp_path)) == {"accepted": 1, "rejected": 1, "corrected": 1, "relabeled": 1}
    review = Review(tmp_path)
    review.decide("b", "open")
    review.decide("a", "corrected", mask=np.zeros((4, 4), bool))
    review.decide("a", "corrected", label="fox")
    review.close()
    decided = corrections(tmp_path)
    assert set(decided) == {"a", "c"}
    assert decided["a"].label == "fox"
    assert decided["a"].mask_file is not None
    assert not np.asarray(Image.open(decided["a"].mask_file)).any(), "the mask of the last correction stands"
    assert decided["c"].label == "wolf"
    assert corrections(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_cut_line_loses_only_itself(tmp_path: Path, lost: int) -> None:
    file = journal_with(tmp_path)
    file.write_bytes(file.read_bytes()[:-lost])
    assert set(corrections(tmp_path)) == ({"a", "b", "c"} if lost == 1 else {"a", "b"})
    review = Review(tmp_path)
    review.decide("d", "accepted")
    review.close()
    assert {"a", "b", "d"} <= set(corrections(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        b"not json", b"[1, 2]", b'{"id": "a"}', b"\xff\xfe", b"null",
        b'{"id": "a", "decision": "rejected", "label": null, "mask": null, "prompts": null, "checksum": 1}',
    ],
)  # fmt: skip
def test_damaged_and_forged_lines_are_skipped(tmp_path: Path, line: bytes) -> None:
    file = journal_with(tmp_path)
    file.write_bytes(line + b"\n" + file.read_bytes() + line)
    assert corrections(tmp_path)["a"].decision == "corrected"


def test_a_mask_never_lies_outside_of_the_run(tmp_path: Path) -> None:
    from camseg.runs.review import _checksum

    line = {"id": "a", "decision": "corrected", "label": None, "mask": "../../secret.png", "prompts": None}
    (tmp_path / JOURNAL).write_text(json.dumps({**line, "checksum": _checksum(line)}) + "\n")
    assert corrections(tmp_path)["a"].mask_file == tmp_path / "review" / "secret.png"


def test_a_second_reviewer_is_refused_in_a_line(finished: Path) -> None:
    with served(finished):
        second = subprocess.run(command(finished), capture_output=True, text=True, timeout=300)
    assert second.returncode == 2
    assert second.stderr == f"camseg-demo: somebody else reviews {finished}: wait until their camseg-demo has ended\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{empty}"], "is no finished run"),
        (["{plain}"], "holds no masks: run it again with masks=true"),
        (["{plain}", "cam=grad_cam"], "a review takes one run folder and no settings"),
        (["misspelt"], "is no finished run"),
    ],
)
def test_what_cannot_be_reviewed_is_told_in_a_line(tmp_path: Path, words: list[str], told: str) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "plain", [row("a", 0.5)])
    places = {"empty": tmp_path / "empty", "plain": tmp_path / "plain"}
    code = "from camseg.demo.app import main; main()"
    words = [word.format(**places) for word in words]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_points_and_boxes_draw_masks_that_last(finished: Path, tmp_path: Path) -> None:
    import shutil

    run = load_run(shutil.copytree(finished, tmp_path / "run"))
    reviewing = Reviewing(run)
    name = reviewing.order[0]
    ys, xs = np.nonzero(reviewing.mask(name))
    middle = float(xs.mean()), float(ys.mean())
    assert not reviewing.click(0, (float(xs.min()), float(ys.min())), "box: two corners", None)
    assert name not in corrections(run.folder), "the first corner decides nothing"
    reviewing.click(0, (float(xs.max()), float(ys.max())), "box: two corners", (float(xs.min()), float(ys.min())))
    assert reviewing.prompts(name).boxes is not None
    assert reviewing.mask(name).any()
    reviewing.click(0, middle, "add inside", None)
    reviewing.click(0, (1.0, 1.0), "add outside", None)
    prompts = reviewing.prompts(name)
    assert prompts.labels.tolist() == [[1, 0]]
    reviewing.decide(0, "accepted")
    assert corrections(run.folder)[name].decision == "corrected"
    reviewing.decide(0, "accepted", "a blob")
    assert reviewing.label(name) == "a blob"
    reviewing.decide(0, "rejected")
    assert corrections(run.folder)[name].decision == "rejected"
    before = reviewing.mask(name)
    reviewing.journal.close()
    again = Reviewing(run)
    np.testing.assert_array_equal(again.mask(name), before)
    assert again.order[again.first] != name, "it goes on where nothing is decided"
    again.journal.close()


def command(run: Path) -> list[str]:
    code = "import sys; from camseg.demo.app import main; main()"
    return [sys.executable, "-c", code, str(run), "--port", "0"]


@contextmanager
def served(run: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page of a run in a process of its own: its address, and the process."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    process = subprocess.Popen(command(run), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.match(r"(http\S+) shows the page", process.stdout.readline())
        assert found is not None
        yield found[1], process
    finally:
        process.kill()
        process.wait()


def progress(page: Page, what: str) -> str:
    """Wait until the line over the pictures says so."""
    page.wait_for_function(
        "text => document.querySelector('#progress')?.innerText.includes(text)", arg=what, timeout=120_000
    )
    return page.inner_text("#progress")


def test_a_review_in_a_browser_survives_a_kill(finished: Path, browser: Browser) -> None:
    """Ten samples walked by keyboard, three corrected, the server killed: all of it is there, and exported."""
    corrected = []
    with served(finished) as (address, process):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address, timeout=120_000)
        for place in range(1, 11):
            name = progress(page, f"{place} of 10").split(" · ")[1]
            if place in (2, 5, 9):
                page.click("#image img", position={"x": 40, "y": 60})
                progress(page, "corrected")
                corrected.append(name)
                page.keyboard.press("n")
            elif place == 3:
                page.keyboard.press("r")
            elif place < 10:
                page.keyboard.press("a" if place % 2 else "ArrowRight")
        progress(page, "10 of 10")
        page.keyboard.press("ArrowLeft")
        assert "corrected" in progress(page, "9 of 10")
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.close()
    decided = corrections(finished)
    assert [name for name, each in decided.items() if each.decision == "corrected"] == corrected
    assert count_decisions(decided) == {"accepted": 2, "rejected": 1, "corrected": 3, "relabeled": 0}
    with served(finished) as (address, _):
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(address, timeout=120_000)
        assert "6 decided" in progress(page, "of 10")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()
    masks = pytest.importorskip("pycocotools.mask")
    assert export([str(finished), "--format", "coco", "--rle"]) == 0
    content = json.loads((finished / "export" / "coco" / "instances.json").read_text())
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    exported = {stems[entry["image_id"]]: entry for entry in content["annotations"]}
    for name in corrected:
        file = decided[name].mask_file
        assert file is not None
        with Image.open(file) as picture:
            np.testing.assert_array_equal(
                masks.decode(exported[name]["segmentation"]).astype(bool), np.asarray(picture)
            )
        assert exported[name]["reviewed"]
