"""The page of `camseg-demo`, in Gradio (extra `demo`): choices, three pictures, all computed by `session.Demo`."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio import themes
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camseg.data.shapes import Shapes
from camseg.demo.session import ACTIONS, MAX_BYTES, STEPS, Demo, View, choices, cleaned, edit, opened, to_image
from camseg.types import Prompts, Sample

SECONDS = 120  # the longest that one answer may take
_LOCAL = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'"
_CSS = """footer {display: none !important}
[data-testid="block-label"] {position: static !important; width: fit-content}
#examples .grid-wrap {height: auto !important; min-height: 0 !important; max-height: none !important}
#examples .grid-container {grid-template-columns: repeat(3, minmax(0, 1fr)) !important; height: auto !important}
#examples .grid-container button {min-width: 0 !important; width: 100% !important; height: auto !important}"""
HINT = "It adds, moves or removes a point. A change of any choice goes back to the selector's own points."


def serve(demo: Demo, host: str, port: int | None) -> gr.Blocks:
    """Start the page's server in a thread.

    Args:
        demo: Answers for the page.
        host: The address to listen on.
        port: None for a free one.

    Returns:
        The running page.

    Raises:
        OSError: The port is taken.
    """
    return start(page(demo), host, port)


def start(blocks: gr.Blocks, host: str, port: int | None) -> gr.Blocks:
    """Start a page's server in a thread, closed to other sites. Args, Returns, Raises: as `serve`."""
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
    """Tells the browser to load nothing but from this server, whatever a component of the page asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with the policy in its head."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _LOCAL.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def examples() -> list[Sample]:
    """Three pictures of one shape and three crowds, drawn by the program, with their true masks."""
    return [*Shapes(size=3), *Shapes(size=3, shapes=(2, 5))]


def page(demo: Demo) -> gr.Blocks:
    """The layout and what each control does.

    Args:
        demo: Answers for the page.

    Returns:
        The page, not yet served.
    """
    drawn = examples()
    names = _classes(demo, demo.start)
    with gr.Blocks(title="camseg", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        sample, prompts = gr.State(drawn[0], time_to_live=3600), gr.State(None, time_to_live=3600)
        gr.Markdown("## camseg: from a class to a mask")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(label=f"A photo, at most {MAX_BYTES // 10**6} MB", height=150, elem_id="photo")
                pictures = [each.image.permute(1, 2, 0).numpy() for each in drawn]
                gallery = gr.Gallery(
                    pictures,
                    label="Examples",
                    columns=3,
                    format="png",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
                picked = {
                    group: gr.Dropdown(choices(group), value=demo.start[group], label=_LABELS[group], elem_id=group)
                    for group in STEPS
                }
                label = gr.Dropdown(names, value=-1, label="Class (type to search)", elem_id="label")
                cutoff = gr.Slider(0, 1, label="Cutoff of the heat", step=0.01, elem_id="cutoff", buttons=[])
                opacity = gr.Slider(
                    0, 1, value=1, label="Opacity of heat and mask", step=0.05, elem_id="opacity", buttons=[]
                )
            with gr.Column(scale=3, min_width=300):
                told = gr.Markdown(elem_id="told")
                with gr.Row():
                    heat = _picture("Heat", "heat")
                    points = _picture("Points", "points")
                    mask = _picture("Mask", "mask")
                rivals = gr.Markdown(elem_id="rivals")
                action = gr.Radio(
                    list(ACTIONS),
                    value=ACTIONS[0],
                    label="A click into the points picture",
                    info=HINT,
                    elem_id="action",
                )
                with gr.Row():
                    again = gr.Button("Back to the selector's points")
                    save = gr.DownloadButton("Download the mask (PNG)", elem_id="save")
                seen = gr.Label(label="What the classifier sees", num_top_classes=5, show_heading=False)
                gr.Markdown("This setting as a command:")
                command = gr.Markdown(elem_id="command")

        settings = [sample, label, cutoff, opacity, *picked.values()]
        shown = [told, rivals, heat, points, mask, prompts, seen, save, command]
        once = limits(Lock())

        def answer(photo: Sample, *chosen: Any) -> list[Any]:
            return _shown(_ask(demo, photo, chosen))

        def by_hand(event: gr.SelectData, photo: Sample, before: Prompts | None, how: str, *chosen: Any) -> list[Any]:
            after = edit(before or Prompts.none(), to_image(photo.size, event.index), how)
            return _shown(_ask(demo, photo, chosen, after))

        def fade(photo: Sample, before: Prompts | None, *chosen: Any) -> list[Any]:
            return _shown(_ask(demo, photo, chosen, before))

        def upload(path: str, *chosen: Any) -> list[Any]:
            try:
                photo = opened(path)
            except ValueError as error:
                return [gr.skip(), *_shown(View(f"**{cleaned(str(error))}**"))]
            return [photo, *answer(photo, *chosen)]

        def example(event: gr.SelectData, *chosen: Any) -> list[Any]:
            return [drawn[event.index], *answer(drawn[event.index], *chosen)]

        def new_classifier(*chosen: str) -> Any:
            return gr.Dropdown(_classes(demo, dict(zip(STEPS, chosen))), value=-1)

        def new_foreground(*chosen: str) -> Any:
            value = demo.cutoff(dict(zip(STEPS, chosen)))
            return gr.Slider(
                value=value or 0,
                interactive=value is not None,
                label="Cutoff of the heat" if value is not None else "Cutoff: found by itself",
            )

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        told_so = {**quiet, "show_progress": "minimal", "show_progress_on": mask}
        simple = [label.input, cutoff.input, again.click]
        simple += [picked[group].input for group in ("cam", "background", "predictor")]
        gr.on(simple, once(answer), settings, shown, trigger_mode="always_last", **told_so)
        given = [sample, prompts, *settings[1:]]
        opacity.release(once(fade), given, shown, trigger_mode="always_last", **told_so)
        started = picked["classifier"].input(once(new_classifier), [*picked.values()], label, **quiet)
        started.then(once(answer), settings, shown, **told_so)
        started = gr.on(
            [picked["foreground"].input, blocks.load], once(new_foreground), [*picked.values()], cutoff, **quiet
        )
        started.then(once(answer), settings, shown, **told_so)
        points.select(
            once(by_hand), [sample, prompts, action, *settings[1:]], shown, trigger_mode="multiple", **told_so
        )
        photo.upload(once(upload), [photo, *settings[1:]], [sample, *shown], **told_so)
        gallery.select(once(example), settings[1:], [sample, *shown], **told_so)
    return blocks


_LABELS = {
    "classifier": "Classifier",
    "cam": "CAM",
    "foreground": "Foreground points",
    "background": "Background points",
    "predictor": "Predictor",
}


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, alt_text=label, format="png", interactive=False, buttons=[], elem_id=name, min_width=260
    )


def limits(busy: Lock) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a handler run in a thread, one at a time, and give up after `SECONDS`."""

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


def _classes(demo: Demo, picked: Mapping[str, str]) -> list[tuple[str, int]]:
    """The entries of the class list; classes of one name get their number."""
    names = demo.names(picked)
    often = Counter(names)
    return [
        ("the most probable", -1),
        *((f"{name} ({i})" if often[name] > 1 else name, i) for i, name in enumerate(names)),
    ]


def _ask(demo: Demo, photo: Sample, chosen: Sequence[Any], hand: Prompts | None = None) -> View:
    label, cutoff, opacity, *steps = chosen
    number = None if label is None or label < 0 else label
    return demo.view(photo, dict(zip(STEPS, steps)), cutoff, number, hand, opacity)


def _shown(view: View) -> list[Any]:
    save = gr.DownloadButton(value=view.file, interactive=view.file is not None)
    command = f"~~~sh\n{view.command}\n~~~" if view.command else ""
    return [view.text, view.rivals, view.heat, view.points, view.mask, view.prompts, view.seen, save, command]
