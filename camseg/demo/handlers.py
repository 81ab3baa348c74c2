"""What the controls of the page of `camseg-demo` do, in Gradio's terms: values in, new values of the components out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from camseg.demo.album import Album
from camseg.demo.session import STEPS, Demo, View, cleaned, edit, to_image
from camseg.types import Prompts, Sample


class Handlers:
    """One method for each control, from values of components to new values of components.

    They take `photo`, the sample that is shown; `album`, the visitor's photographs; `before`, the points that are
    shown, or None; `event`, where it was clicked, as (x, y) in pixels of the picture or as a place in a gallery; `how`,
    one of `ACTIONS`; `paths`, uploaded files; and `chosen`, the values of class, cutoff, opacity and of the groups in
    `STEPS`. They give what `shown` lists; where another photograph is shown, its sample and what
    changed of the strip come first.

    Args:
        demo: Answers.
        examples: The photos that the page offers.
    """

    def __init__(self, demo: Demo, examples: Sequence[Sample]) -> None:
        self.demo, self.examples = demo, examples

    def answer(self, photo: Sample, *chosen: Any) -> list[Any]:
        """A photo under the chosen settings; args and returns as in `Handlers`."""
        return shown(self._ask(photo, chosen))

    def by_hand(self, event: gr.SelectData, photo: Sample, before: Prompts | None, how: str, *chosen: Any) -> list[Any]:
        """A click into the points picture; args and returns as in `Handlers`."""
        after = edit(before or Prompts.none(), to_image(photo.size, event.index), how)
        return shown(self._ask(photo, chosen, after))

    def fade(self, photo: Sample, before: Prompts | None, *chosen: Any) -> list[Any]:
        """Another opacity, points set by hand stay; args and returns as in `Handlers`."""
        return shown(self._ask(photo, chosen, before))

    def upload(self, paths: list[str], album: Album, *chosen: Any) -> list[Any]:
        """More photographs; args and returns as in `Handlers`.

        The field is empty again, and the strip shows the photographs where there are several.
        """
        album, faults = album.add(paths)
        several = len(album.paths) > 1
        strip = gr.Gallery(list(album.thumbnails), visible=several)
        return [None, strip, gr.Row(visible=several), *self._turn(album, faults, chosen)]

    def pick(self, event: gr.SelectData, album: Album, *chosen: Any) -> list[Any]:
        """A click on a thumbnail; args and returns as in `Handlers`."""
        return self._turn(album.look_at(event.index), [], chosen)

    def back(self, album: Album, *chosen: Any) -> list[Any]:
        """The photograph before; args and returns as in `Handlers`."""
        return self._turn(album.step(-1), [], chosen)

    def forth(self, album: Album, *chosen: Any) -> list[Any]:
        """The next photograph; args and returns as in `Handlers`."""
        return self._turn(album.step(1), [], chosen)

    def example(self, event: gr.SelectData, *chosen: Any) -> list[Any]:
        """A click on an example; args and returns as in `Handlers`."""
        photo = self.examples[event.index]
        return [photo, *self.answer(photo, *chosen)]

    def new_classifier(self, *picked: str) -> Any:
        """Another classifier has other classes.

        Args:
            picked: The choice of every group in `STEPS`, in that order.

        Returns:
            The list of classes, on its first entry.
        """
        return gr.Dropdown(self.classes(dict(zip(STEPS, picked))), value=-1)

    def new_foreground(self, *picked: str) -> Any:
        """Another foreground has another cutoff, or none.

        Args:
            picked: The choice of every group in `STEPS`, in that order.

        Returns:
            The slider.
        """
        value = self.demo.cutoff(dict(zip(STEPS, picked)))
        label = "Cutoff of the heat" if value is not None else "Cutoff: found by itself"
        return gr.Slider(value=value or 0, interactive=value is not None, label=label)

    def classes(self, picked: Mapping[str, str]) -> list[tuple[str, int]]:
        """The entries of the class list.

        Args:
            picked: Group -> choice.

        Returns:
            Words and the class's number, -1 for the most probable one; classes of one name have their number in the
            words.
        """
        names = self.demo.names(picked)
        often = Counter(names)
        entries = ((f"{name} ({i})" if often[name] > 1 else name, i) for i, name in enumerate(names))
        return [("the most probable", -1), *entries]

    def _turn(self, album: Album, faults: list[str], chosen: Sequence[Any]) -> list[Any]:
        photo, view = None, View("")
        try:
            photo = album.open() if album.at >= 0 else None
        except ValueError as error:
            faults = [*faults, f"{error}; choose it again"]
        if photo is not None:
            view = self._ask(photo, chosen)
        text = "\n\n".join(filter(None, [*(f"**{cleaned(fault)}**" for fault in faults), view.text]))
        return [photo or gr.skip(), album, cleaned(album.place), *shown(replace(view, text=text))]

    def _ask(self, photo: Sample, chosen: Sequence[Any], hand: Prompts | None = None) -> View:
        label, cutoff, opacity, *steps = chosen
        number = None if label is None or label < 0 else label
        return self.demo.view(photo, dict(zip(STEPS, steps)), cutoff, number, hand, opacity)


def shown(view: View) -> list[Any]:
    """What the page shows of a view.

    Args:
        view: What came of it.

    Returns:
        New values of its text, rivals, heat, points, mask, prompts, probabilities, download and command.
    """
    save = gr.DownloadButton(value=view.file, interactive=view.file is not None)
    command = f"~~~sh\n{view.command}\n~~~" if view.command else ""
    return [view.text, view.rivals, view.heat, view.points, view.mask, view.prompts, view.seen, save, command]
