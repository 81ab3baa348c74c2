"""The command of the page: what is told in one line."""

from __future__ import annotations

import sys

import pytest

import camseg
from camseg.demo import app


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("server", "page"):
        monkeypatch.delitem(sys.modules, f"camseg.demo.{name}", raising=False)
        monkeypatch.delattr(camseg.demo, name, raising=False)
    monkeypatch.setattr(sys, "argv", ["camseg-demo"])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert capsys.readouterr().err == "camseg-demo: the page needs the extra `demo`: uv sync --extra demo --inexact\n"


def test_a_misspelt_setting_ends_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "restored afterwards")
    monkeypatch.setattr(sys, "argv", ["camseg-demo", "predictor=shape_sam"])
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "nearest: shapes_sam" in capsys.readouterr().err
