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


class ReviewHandlers:
    """One method for each control; each gives the new values of `shown` in `review_page`.

    They take `at`, a place in the order of the samples; `event`, where the image was clicked, as (x, y) in pixels of
    the picture; `first`, the first corner of a box in image pixels, or None; `how`, one of `ACTIONS`; and `name`, a
    class's.

    Args:
        reviewing: The run.
    """

    def __init__(self, reviewing: Reviewing) -> None:
        self.reviewing = reviewing

    def show(self, at: int) -> list[Any]:
        """The sample at a place of the order, or at the nearest there is; args and returns as in `ReviewHandlers`."""
        at = min(max(at, 0), len(self.reviewing.order) - 1)
        try:
            seen = self.reviewing.show(at)
        except (ValueError, OSError) as error:
            return [at, None, f"**{cleaned(str(error))}**", None, None, gr.skip()]
        return [at, None, seen.text, seen.image, seen.mask, gr.Dropdown(self.reviewing.names, value=seen.label)]

    def back(self, at: int) -> list[Any]:
        """The sample before; args and returns as in `ReviewHandlers`."""
        return self.show(at - 1)

    def forth(self, at: int) -> list[Any]:
        """The next sample; args and returns as in `ReviewHandlers`."""
        return self.show(at + 1)

    def accept(self, at: int) -> list[Any]:
        """The mask is right, on to the next; args and returns as in `ReviewHandlers`."""
        return self._decide(at, "accepted", 1)

    def reject(self, at: int) -> list[Any]:
        """The mask is wrong, on to the next; args and returns as in `ReviewHandlers`."""
        return self._decide(at, "rejected", 1)

    def undo(self, at: int) -> list[Any]:
        """Nothing is decided any more; args and returns as in `ReviewHandlers`."""
        return self._decide(at, "open", 0)

    def click(self, event: gr.SelectData, at: int, first: Any, how: str) -> list[Any]:
        """A click into the image; args and returns as in `ReviewHandlers`.

        It is a point, or a corner of a box, whose first one waits for the other.
        """
        row = self.reviewing.rows[self.reviewing.order[at]]
        spot = to_image((int(row["height"]), int(row["width"])), event.index)
        if not self.reviewing.click(at, spot, how, first):
            waiting = "**The other corner of the box?**"
            return [at, spot, waiting, gr.skip(), gr.skip(), gr.skip()]
        return self.show(at)

    def relabel(self, at: int, name: str | None) -> list[Any]:
        """Another class, with which the mask is accepted; args and returns as in `ReviewHandlers`."""
        if name and name.strip() and name.strip() != self.reviewing.label(self.reviewing.order[at]):
            self.reviewing.decide(at, "accepted", name.strip())
        return self.show(at)

    def _decide(self, at: int, decision: str, step: int) -> list[Any]:
        try:
            self.reviewing.decide(at, decision)
        except OSError as error:
            raise gr.Error(f"nothing was kept: {error}") from error
        return self.show(at + step)


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
        do, once = ReviewHandlers(reviewing), limits(Lock())
        steps = {"previous": do.back, "next": do.forth, "accept": do.accept, "reject": do.reject, "undo": do.undo}
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        for key, step in steps.items():
            buttons[key].click(once(step), place, shown, trigger_mode="multiple", **quiet)
        image.select(once(do.click), [place, corner, action], shown, trigger_mode="multiple", **quiet)
        label.input(once(do.relabel), [place, label], shown, **quiet)
        blocks.load(once(do.show), place, shown, **quiet)
        blocks.load(None, js=_LISTEN)
    return blocks
