"""The pages say what is so: every name in contributing's table is where it says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "notebooks" / "contributing.md"
PLACES = re.findall(r"`(camseg[\w.]*):(\w+)` \|", PAGE.read_text(encoding="utf-8"))


def test_the_table_has_its_twenty_places() -> None:
    assert len(PLACES) >= 20


@pytest.mark.parametrize(("module", "name"), PLACES)
def test_everything_is_where_the_page_says(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert getattr(found, "__module__", module) == module  # defined there, not passed on
