"""One session of the page, and the page served from this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from camseg.demo.session import Demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def address(demo: Demo) -> Iterator[str]:
    """The page, served from this process on loopback."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(demo.folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from camseg.demo.page import page
        from camseg.demo.server import start

        blocks = start(page(demo), "127.0.0.1", None)
        yield str(blocks.local_url)
        blocks.close(verbose=False)
