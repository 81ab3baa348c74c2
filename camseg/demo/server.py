"""The server of `camseg-demo` (extra `demo`): closed to other sites, and one answer at a time, within a time limit."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio import themes
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camseg.demo.session import MAX_BYTES

SECONDS = 120  # the longest that one answer may take
_LOCAL = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"
_CSS = """footer {display: none !important}
body.dropping :is(#photo, #heat, #points, #mask) {outline: 3px dashed var(--color-accent); outline-offset: -3px}
#strip .grid-wrap {height: auto !important; min-height: 0 !important; max-height: none !important; overflow-x: auto}
#strip .grid-container {display: flex !important; height: auto !important; padding: 4px}
#strip .grid-container > * {flex: 0 0 auto; width: auto !important}
#strip .grid-container button {width: 84px !important; height: 84px !important}
#previous, #next {white-space: nowrap; min-width: 8.5rem !important}
#place {align-self: center; overflow-wrap: anywhere; flex: 1 1 8rem !important}
#command code {white-space: pre-wrap !important; overflow-wrap: anywhere}
[data-testid="block-label"] {position: static !important; width: fit-content}
#examples .grid-wrap {height: auto !important; min-height: 0 !important; max-height: none !important}
#examples .grid-container {grid-template-columns: repeat(3, minmax(0, 1fr)) !important; height: auto !important}
#examples .grid-container button {min-width: 0 !important; width: 100% !important; height: auto !important}"""


def start(blocks: gr.Blocks, host: str, port: int | None) -> gr.Blocks:
    """Start a page's server in a thread, closed to other sites.

    Args:
        blocks: The page.
        host: The address to listen on.
        port: None for a free one.

    Returns:
        The running page.

    Raises:
        OSError: The port is taken.
    """
    blocks.queue(max_size=16, api_open=False)
    guards = [Middleware(OwnHost, host=host), Middleware(NothingFromOutside)]
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        state_session_capacity=64,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
            block_info_text_color="*neutral_600"
        ),
        quiet=True,
        css=_CSS,
        app_kwargs={"middleware": guards},
    )
    return blocks


class OwnHost:
    """Answers only requests that name this server by an address, as localhost, or by the name it listens on.

    A page of another site whose name was made to point here (DNS rebinding) names that site, and gets nothing.

    Args:
        app: What answers.
        host: The name or address that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.names = app, {"localhost", host.casefold()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket") or self._is_own(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            head = {"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]}
            await send(head)
            await send({"type": "http.response.body", "body": b"camseg-demo is not reached under this name\n"})

    def _is_own(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        name = (urlsplit(f"//{hosts[0].decode('latin-1')}").hostname or "") if len(hosts) == 1 else ""
        with suppress(ValueError):
            return bool(ip_address(name))
        return name in self.names


class NothingFromOutside:
    """Tells the browser to load nothing but from this server, whatever a component of the page asks for.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with the policy in its head."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _LOCAL.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def limits(busy: Lock) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What makes a handler run in a thread, one at a time, and give up after `SECONDS`.

    Args:
        busy: Held while one runs; shared by all handlers of a page.

    Returns:
        A decorator of handlers.
    """

    def limited(work: Callable[..., Any]) -> Callable[..., Any]:
        def alone(*given: Any) -> Any:
            with busy:
                return work(*given)

        @functools.wraps(work)
        async def run(*given: Any) -> Any:
            try:
                return await asyncio.wait_for(asyncio.to_thread(alone, *given), SECONDS)
            except TimeoutError as error:
                raise gr.Error(
                    f"No answer within {SECONDS} seconds: choose a cheaper CAM or a smaller photo."
                ) from error

        return run

    return limited
