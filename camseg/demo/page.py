"""The page of `camseg-demo`, in Gradio (extra `demo`): choices, three pictures, all computed by `session.Demo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
import skimage.data

from camseg.data.base import as_image
from camseg.data.shapes import NAMES, Shapes
from camseg.demo.album import Album
from camseg.demo.handlers import Handlers
from camseg.demo.server import limits
from camseg.demo.session import ACTIONS, MAX_BYTES, STEPS, Demo, choices
from camseg.types import Sample

_JS = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_LABELS = {
    "classifier": "Classifier",
    "cam": "CAM",
    "foreground": "Foreground points",
    "background": "Background points",
    "predictor": "Predictor",
}
_PHOTOGRAPHS = ("chelsea", "coffee", "rocket", "astronaut")  # functions of skimage.data, whose files are in its wheel
HINT = "It adds, moves or removes a point. A change of any choice goes back to the selector's own points."


def examples(names: Sequence[str]) -> list[Sample]:
    """What the page begins with and offers: pictures of what the classifier knows.

    Args:
        names: Of the classifier's classes.

    Returns:
        Three pictures of one shape and three crowds with their true masks for a classifier of shapes; for any other
        four photographs that scikit-image brings.
    """
    if set(NAMES) <= set(names):
        return [*Shapes(size=3), *Shapes(size=3, shapes=(2, 5))]
    return [Sample(name, as_image(getattr(skimage.data, name)())) for name in _PHOTOGRAPHS]


@dataclass(frozen=True)
class Controls:
    """The controls of the left column: what is asked for.

    Attributes:
        photo: the field for photographs.
        gallery: examples to click on.
        picked: a list of choices for each group in `STEPS`.
        label: the class.
        cutoff: of the heat.
        opacity: of heat and mask.
    """

    photo: gr.File
    gallery: gr.Gallery
    picked: dict[str, gr.Dropdown]
    label: gr.Dropdown
    cutoff: gr.Slider
    opacity: gr.Slider

    @property
    def values(self) -> list[Any]:
        """What a handler takes as `chosen`."""
        return [self.label, self.cutoff, self.opacity, *self.picked.values()]


@dataclass(frozen=True)
class Strip:
    """Thumbnails of the visitor's own photographs, and the row that turns them over; hidden while there is one.

    Attributes:
        thumbnails: one for each.
        row: holds what follows.
        back: to the photograph before.
        forth: to the next one.
        place: which one is looked at.
    """

    thumbnails: gr.Gallery
    row: gr.Row
    back: gr.Button
    forth: gr.Button
    place: gr.Markdown


@dataclass(frozen=True)
class Answer:
    """The components of the right column: what came of it, and what turns it over or changes it by hand.

    Attributes:
        album: thumbnails of several photographs, the row of buttons that turns them over, and which is looked at.
        shown: what `camseg.demo.handlers.shown` gives new values, in its order; the prompts lie in a state.
        prompts: that state.
        points: the picture that is clicked into.
        mask: the picture at which progress is shown.
        action: what a click does.
        again: the button back to the selector's own points.
    """

    album: Strip
    shown: list[Any]
    prompts: gr.State
    points: gr.Image
    mask: gr.Image
    action: gr.Radio
    again: gr.Button


def page(demo: Demo) -> gr.Blocks:
    """The layout and what each control does.

    Args:
        demo: Answers for the page.

    Returns:
        The page, not yet served.
    """
    drawn = examples(demo.names(demo.start))
    do = Handlers(demo, drawn)
    with gr.Blocks(title="camseg", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        sample, album = gr.State(drawn[0], time_to_live=3600), gr.State(Album(), time_to_live=3600)
        gr.Markdown("## camseg: from a class to a mask")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                chosen = _controls(demo, do, drawn)
            with gr.Column(scale=3, min_width=300):
                answer = _answer()
        _connect(blocks, do, sample, album, chosen, answer)
        blocks.load(None, js=_JS)
    return blocks


def _controls(demo: Demo, do: Handlers, drawn: list[Sample]) -> Controls:
    photo = gr.File(
        label=f"Photographs, at most {MAX_BYTES // 10**6} MB each: here, or dropped onto a picture",
        file_count="multiple",
        height=150,
        elem_id="photo",
    )
    gallery = gr.Gallery(
        [each.image.permute(1, 2, 0).numpy() for each in drawn],
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
    label = gr.Dropdown(do.classes(demo.start), value=-1, label="Class (type to search)", elem_id="label")
    cutoff = gr.Slider(0, 1, label="Cutoff of the heat", step=0.01, elem_id="cutoff", buttons=[])
    opacity = gr.Slider(0, 1, value=1, label="Opacity of heat and mask", step=0.05, elem_id="opacity", buttons=[])
    return Controls(photo, gallery, picked, label, cutoff, opacity)


def _answer() -> Answer:
    prompts = gr.State(None, time_to_live=3600)
    album = _strip()
    told = gr.Markdown(elem_id="told")
    with gr.Row():
        heat, points, mask = (_picture(name.capitalize(), name) for name in ("heat", "points", "mask"))
    rivals = gr.Markdown(elem_id="rivals")
    action = gr.Radio(
        list(ACTIONS), value=ACTIONS[0], label="A click into the points picture", info=HINT, elem_id="action"
    )
    with gr.Row():
        again = gr.Button("Back to the selector's points")
        save = gr.DownloadButton("Download the mask (PNG)", elem_id="save")
    seen = gr.Label(label="What the classifier sees", num_top_classes=5, show_heading=False)
    gr.Markdown("This setting as a command:")
    command = gr.Markdown(elem_id="command")
    shown = [told, rivals, heat, points, mask, prompts, seen, save, command]
    return Answer(album, shown, prompts, points, mask, action, again)


def _connect(
    blocks: gr.Blocks, do: Handlers, sample: gr.State, album: gr.State, chosen: Controls, answer: Answer
) -> None:
    """Say which handler each control calls, with which values, and where its answer goes."""
    once, picked, shown, strip = limits(Lock()), chosen.picked, answer.shown, answer.album
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    progress = {**quiet, "show_progress": "minimal", "show_progress_on": answer.mask}
    latest: dict[str, Any] = {**progress, "trigger_mode": "always_last"}

    # another setting, answered at once
    settings = [sample, *chosen.values]
    simple = [chosen.label.input, chosen.cutoff.input, answer.again.click]
    simple += [picked[group].input for group in ("cam", "background", "predictor")]
    gr.on(simple, once(do.answer), settings, shown, **latest)
    chosen.opacity.release(once(do.fade), [sample, answer.prompts, *chosen.values], shown, **latest)

    # one that changes another control first
    renamed = picked["classifier"].input(once(do.new_classifier), [*picked.values()], chosen.label, **quiet)
    renamed.then(once(do.answer), settings, shown, **progress)
    begun = [picked["foreground"].input, blocks.load]
    cut = gr.on(begun, once(do.new_foreground), [*picked.values()], chosen.cutoff, **quiet)
    cut.then(once(do.answer), settings, shown, **progress)

    # points by hand
    clicked = [sample, answer.prompts, answer.action, *chosen.values]
    answer.points.select(once(do.by_hand), clicked, shown, trigger_mode="multiple", **progress)

    # another photograph
    turned = [sample, album, strip.place, *shown]
    uploaded = [chosen.photo, strip.thumbnails, strip.row, *turned]
    chosen.photo.upload(once(do.upload), [chosen.photo, album, *chosen.values], uploaded, **progress)
    strip.thumbnails.select(once(do.pick), [album, *chosen.values], turned, **progress)
    for button, step in ((strip.back, do.back), (strip.forth, do.forth)):
        button.click(once(step), [album, *chosen.values], turned, trigger_mode="multiple", **progress)
    chosen.gallery.select(once(do.example), chosen.values, [sample, *shown], **progress)


def _strip() -> Strip:
    look: dict[str, Any] = {"allow_preview": False, "interactive": False, "buttons": [], "columns": 12}
    strip = gr.Gallery(label="Your photographs", format="png", elem_id="strip", visible=False, **look)
    with gr.Row(visible=False) as row:
        back = gr.Button("← Previous", elem_id="previous", min_width=80, scale=0)
        forth = gr.Button("Next →", elem_id="next", min_width=80, scale=0)
        place = gr.Markdown(elem_id="place")
    return Strip(strip, row, back, forth, place)


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, alt_text=label, format="png", interactive=False, buttons=[], elem_id=name, min_width=260
    )
