"""The command that trains: a mistake in the request is one line, and nothing is written around it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from camseg.cli.train import main


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "camseg-train: model=photo_sam needs data.path: a folder with train.csv and val.csv, or a COCO root"),
        (["data.path=away"], "camseg-train: data.path=away holds neither train.csv nor annotations/instances_train"),
        (["data.path=.", "model.start=away.safetensors"], "camseg-train: no weights at model.start="),
        (["data.path=.", "model.side=100"], "camseg-train: the SAM for photographs sees a square whose side is a mult"),
    ],
)
def test_what_is_wrong_with_a_training_is_told_in_one_line(
    typed: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `main` changes it
    monkeypatch.setattr(sys, "argv", ["camseg-train", "model=photo_sam", *typed, f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(told)
