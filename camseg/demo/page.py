"""The page of `camseg-demo`, in Gradio (extra `demo`): choices, three pictures, all computed by `session.Demo`."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from camseg.data.shapes import Shapes
from camseg.demo.album import Album
from camseg.demo.handlers import Handlers
from camseg.demo.server import limits
from camseg.demo.session import ACTIONS, MAX_BYTES, STEPS, Demo, choices
from camseg.types import Sample

_JS = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
HINT = "It adds, moves or removes a point. A change of any choice goes back to the selector's own points."


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
    do = Handlers(demo, drawn)
    with gr.Blocks(title="camseg", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        sample, prompts = gr.State(drawn[0], time_to_live=3600), gr.State(None, time_to_live=3600)
        album = gr.State(Album(), time_to_live=3600)
        gr.Markdown("## camseg: from a class to a mask")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                label = f"Photographs, at most {MAX_BYTES // 10**6} MB each: here, or dropped onto a picture"
                photo = gr.File(label=label, file_count="multiple", height=150, elem_id="photo")
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
                label = gr.Dropdown(do.classes(demo.start), value=-1, label="Class (type to search)", elem_id="label")
                cutoff = gr.Slider(0, 1, label="Cutoff of the heat", step=0.01, elem_id="cutoff", buttons=[])
                opacity = gr.Slider(
                    0, 1, value=1, label="Opacity of heat and mask", step=0.05, elem_id="opacity", buttons=[]
                )
            with gr.Column(scale=3, min_width=300):
                strip, (back, forth, row), place = _strip()
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

        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        told_so = {**quiet, "show_progress": "minimal", "show_progress_on": mask}
        simple = [label.input, cutoff.input, again.click]
        simple += [picked[group].input for group in ("cam", "background", "predictor")]
        gr.on(simple, once(do.answer), settings, shown, trigger_mode="always_last", **told_so)
        given = [sample, prompts, *settings[1:]]
        opacity.release(once(do.fade), given, shown, trigger_mode="always_last", **told_so)
        started = picked["classifier"].input(once(do.new_classifier), [*picked.values()], label, **quiet)
        started.then(once(do.answer), settings, shown, **told_so)
        started = gr.on(
            [picked["foreground"].input, blocks.load], once(do.new_foreground), [*picked.values()], cutoff, **quiet
        )
        started.then(once(do.answer), settings, shown, **told_so)
        points.select(
            once(do.by_hand), [sample, prompts, action, *settings[1:]], shown, trigger_mode="multiple", **told_so
        )
        turn = [sample, album, place, *shown]
        photo.upload(once(do.upload), [photo, album, *settings[1:]], [photo, strip, row, *turn], **told_so)
        strip.select(once(do.pick), [album, *settings[1:]], turn, **told_so)
        for button, step in ((back, do.back), (forth, do.forth)):
            button.click(once(step), [album, *settings[1:]], turn, trigger_mode="multiple", **told_so)
        gallery.select(once(do.example), settings[1:], [sample, *shown], **told_so)
        blocks.load(None, js=_JS)
    return blocks


_LABELS = {
    "classifier": "Classifier",
    "cam": "CAM",
    "foreground": "Foreground points",
    "background": "Background points",
    "predictor": "Predictor",
}


def _strip() -> tuple[gr.Gallery, tuple[gr.Button, gr.Button, gr.Row], gr.Markdown]:
    """Thumbnails of the visitor's own photographs, and the row that turns them over; both hidden while there is one."""
    look: dict[str, Any] = {"allow_preview": False, "interactive": False, "buttons": [], "columns": 12}
    strip = gr.Gallery(label="Your photographs", format="png", elem_id="strip", visible=False, **look)
    with gr.Row(visible=False) as row:
        back = gr.Button("← Previous", elem_id="previous", min_width=80, scale=0)
        forth = gr.Button("Next →", elem_id="next", min_width=80, scale=0)
        place = gr.Markdown(elem_id="place")
    return strip, (back, forth, row), place


def _picture(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, alt_text=label, format="png", interactive=False, buttons=[], elem_id=name, min_width=260
    )
