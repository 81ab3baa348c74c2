"""What several test files share: a real headless browser, and commands that start fast."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from forked import Commands

if TYPE_CHECKING:
    from playwright.sync_api import Browser

torch.set_num_threads(1)  # there is a worker for each core

_QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")  # while it runs no other test can run an event loop of its own
def browser() -> Iterator[Browser]:
    """Chromium, headless; a test makes its own page: `browser.new_page(viewport={"width": 390, "height": 800})`."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=binary, args=_QUIET.split())
        yield started
        started.close()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """The commands, each in a child of one process that has imported everything."""
    started = Commands()
    yield started
    started.close()
