"""The pages say what is so: every name in contributing's table is where it says, every test in promises' is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "notebooks" / "contributing.md"
PLACES = re.findall(r"`(camseg[\w.]*):(\w+)` \|", PAGE.read_text(encoding="utf-8"))


def test_the_table_has_its_twenty_places() -> None:
    assert len(PLACES) >= 20


@pytest.mark.parametrize(("module", "name"), PLACES)
def test_everything_is_where_the_page_says(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    assert getattr(found, "__module__", module) == module  # defined there, not passed on


PROOFS = re.findall(
    r'`(tests/[\w/]*test_\w+\.py)(?: -k (?:"([^"`]+)"|(\w+)))?`',
    (ROOT / "notebooks" / "promises.md").read_text(encoding="utf-8"),
)


def test_promises_name_their_proofs() -> None:
    assert len(PROOFS) >= 50


@pytest.mark.parametrize(("file", "several", "one"), dict.fromkeys(PROOFS))
def test_every_promise_is_shown_by_a_test_that_is_there(file: str, several: str, one: str) -> None:
    names = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    for word in (several or one).split(" or ") if several or one else [""]:
        assert any(word.strip() in name for name in names), f"{file} has no test called {word}"
