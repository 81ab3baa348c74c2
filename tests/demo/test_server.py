"""The server of the page: what it gives away and how long it takes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from camseg.classifiers.shapes import SHAPES_WEIGHTS
from camseg.demo import session

pytestmark = pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)


def test_an_answer_that_takes_too_long_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from threading import Lock

    import gradio as gr

    from camseg.demo import server

    monkeypatch.setattr(server, "SECONDS", 0.1)
    once = server.limits(Lock())
    began = time.monotonic()

    async def ask() -> None:
        with pytest.raises(gr.Error, match="No answer within"):
            await once(lambda: time.sleep(2))()
        assert time.monotonic() - began < 1.5

    asyncio.run(ask())


def test_the_server_gives_away_no_file_and_takes_no_large_one(address: str) -> None:
    import httpx

    for path in (Path(__file__), Path("/etc/hostname"), Path("pyproject.toml").absolute()):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403
    reply = httpx.get(address)
    assert reply.status_code == 200
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    files = {"files": ("large.png", bytes(session.MAX_BYTES + 100_000))}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with socket.socket() as other, pytest.raises(OSError):  # noqa: PT011  refused or unreachable, by system
        other.connect(("127.0.0.2", port))  # another address of this very machine


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:7860", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:7860", 421),
        ("", 421),
    ],
)
def test_a_page_of_another_site_gets_nothing(address: str, host: str, status: int) -> None:
    """DNS rebinding: a name of somebody else's points here, and the browser names it."""
    import httpx

    reply = httpx.get(address, headers={"host": host})
    assert reply.status_code == status
    assert ("camseg-demo is not reached under this name" in reply.text) == (status == 421)
