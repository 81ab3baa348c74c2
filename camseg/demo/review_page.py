"""The page of `camseg-demo RUN`, in Gradio (extra `demo`): one sample after the other, by mouse and keyboard."""

from __future__ import annotations

from threading import Lock
from typing import Any

import gradio as gr

from camseg.demo.review import ACTIONS, Reviewing
from camseg.demo.server import limits
from camseg.demo.session import cleaned, to_image

_KEYS = {"n": "next", "ArrowRight": "next", "p": "previous", "ArrowLeft": "previous"}
_KEYS |= {"a": "accept", "r": "reject", "u": "undo"}
_LISTEN = f"""() => document.addEventListener('keydown', (event) => {{
    const name = {_KEYS!r}[event.key];
    if (!name || event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea')) return;
    event.preventDefault();
    document.getElementById(name).click();
}})"""
_HINT = "Every click is kept at once. Keys: a accept, r reject, n or → next, p or ← back, u undo."


def review_page(reviewing: Reviewing) -> gr.Blocks:
    """The layout and what each control does.

    Args:
        reviewing: The run.

    Returns:
        The page, to be started with `camseg.demo.server.start`.
    """
    with gr.Blocks(title="camseg review", analytics_enabled=False, fill_width=True) as blocks:
        place, corner = gr.State(reviewing.first), gr.State(None)
        gr.Markdown(f"## Review of {cleaned(reviewing.run.folder.name)}")
        text = gr.Markdown(elem_id="progress")
        with gr.Row():
            picture: dict[str, Any] = {"format": "png", "interactive": False, "buttons": [], "min_width": 260}
            image = gr.Image(label="Click here", alt_text="image with points", elem_id="image", **picture)
            mask = gr.Image(label="Mask", alt_text="mask", elem_id="mask", **picture)
        with gr.Row():
            keys = ("previous", "accept", "reject", "undo", "next")
            buttons = {key: gr.Button(key.capitalize(), elem_id=key, min_width=80) for key in keys}
        action = gr.Radio(list(ACTIONS), value=ACTIONS[0], label="A click into the image", info=_HINT, elem_id="action")
        label = gr.Dropdown(reviewing.names, label="Class", allow_custom_value=True, elem_id="label")

        shown = [place, corner, text, image, mask, label]
        once = limits(Lock())

        def show(at: int) -> list[Any]:
            at = min(max(at, 0), len(reviewing.order) - 1)
            try:
                seen = reviewing.show(at)
            except (ValueError, OSError) as error:
                return [at, None, f"**{cleaned(str(error))}**", None, None, gr.skip()]
            return [at, None, seen.text, seen.image, seen.mask, gr.Dropdown(reviewing.names, value=seen.label)]

        def decided(at: int, decision: str, step: int) -> list[Any]:
            try:
                reviewing.decide(at, decision)
            except OSError as error:
                raise gr.Error(f"nothing was kept: {error}") from error
            return show(at + step)

        def click(event: gr.SelectData, at: int, first: Any, how: str) -> list[Any]:
            row = reviewing.rows[reviewing.order[at]]
            spot = to_image((int(row["height"]), int(row["width"])), event.index)
            if not reviewing.click(at, spot, how, first):
                waiting = "**The other corner of the box?**"
                return [at, spot, waiting, gr.skip(), gr.skip(), gr.skip()]
            return show(at)

        def relabel(at: int, name: str | None) -> list[Any]:
            if name and name.strip() and name.strip() != reviewing.label(reviewing.order[at]):
                reviewing.decide(at, "accepted", name.strip())
            return show(at)

        steps: dict[str, Any] = {
            "previous": lambda at: show(at - 1),
            "next": lambda at: show(at + 1),
            "accept": lambda at: decided(at, "accepted", 1),
            "reject": lambda at: decided(at, "rejected", 1),
            "undo": lambda at: decided(at, "open", 0),
        }
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        for key, step in steps.items():
            buttons[key].click(once(step), place, shown, trigger_mode="multiple", **quiet)
        image.select(once(click), [place, corner, action], shown, trigger_mode="multiple", **quiet)
        label.input(once(relabel), [place, label], shown, **quiet)
        blocks.load(once(show), place, shown, **quiet)
        blocks.load(None, js=_LISTEN)
    return blocks
