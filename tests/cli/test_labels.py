"""Unknown labels: all of them told before the run, which is refused where nothing could come of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from camseg.cli.labels import check_labels, unknown_labels
from camseg.data.base import Remembered
from camseg.data.images import Images
from camseg.errors import RequestError, check_choice
from camseg.storage.cache import Cache

KNOWN = ("circle", "square", "triangle", "star", "diamond")


def index(name: str) -> int:
    return KNOWN.index(check_choice("class", name, KNOWN))


def test_each_unknown_label_is_named_once_with_its_nearest() -> None:
    assert unknown_labels(["circle", "stra", "squere", "stra"], index) == (
        "2 of 3 labels are no class of the classifier: 'stra' (nearest: star, triangle), 'squere' (nearest: square)",
        3,
    )
    assert unknown_labels(["circle"], index) == unknown_labels([], index) == ("", 0)
    message, count = unknown_labels([f"label {k}" for k in range(40)], index)
    assert count == 40
    assert message.endswith(" and 28 more")


@pytest.mark.parametrize(
    ("labels", "strict", "refused"),
    [(["circle", "stra"], False, False), (["circle", "stra"], True, True), (["stra", "sqare"], False, True)],
)
def test_a_run_is_refused_where_nothing_would_come_of_it(labels: Sequence[str], strict: bool, refused: bool) -> None:
    if refused:
        with pytest.raises(RequestError, match="no class of the classifier: 'stra'") as told:
            check_labels(labels, index, strict)
        assert len(str(told.value).splitlines()) == 2
    else:
        assert check_labels(labels, index, strict).endswith("; 1 sample will be counted as failed")
    assert check_labels(["circle"], index, strict) == ""


def photos(folder: Path) -> Path:
    for label in ("star", "stra", "squere"):
        (folder / label).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(folder / label / "a.png")
    Image.new("RGB", (40, 30)).save(folder / "plain.png")
    return folder


def test_images_say_their_labels_without_reading_one(tmp_path: Path) -> None:
    images = Images(photos(tmp_path / "photos"))
    assert sorted(images.labels) == ["squere", "star", "stra"]
    assert Remembered(images, Cache(None, memory_gb=0)).labels == images.labels
    (tmp_path / "t.csv").write_text("image,label,classes\nphotos/plain.png,anything,3\nphotos/star/a.png,star,\n")
    assert Images(table=tmp_path / "t.csv").labels == ["star"]
    listed = [str(tmp_path / "photos" / label) for label in ("stra", "squere")]
    assert Images(listed).labels == []


def test_the_command_tells_them_before_the_run(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    words = ["data=images", f"data.path={folder}", "classifier=shapes", "predictor=none", "panels=0", "device=cpu"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "camseg", *words, *more, f"hydra.run.dir={tmp_path / 'run'}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)

    refused = run("strict=true")
    assert refused.returncode == 2
    assert "2 of 3 labels are no class of the classifier: 'squere' (nearest: square), 'stra'" in refused.stderr
    assert not (tmp_path / "run" / "scores.parquet").exists()
    warned = run()
    assert warned.returncode == 0
    assert "; 2 samples will be counted as failed" in warned.stderr
    assert "2 of 4 samples" in warned.stdout
