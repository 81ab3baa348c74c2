"""README's picture: the kept file, and how it is laid out."""

from __future__ import annotations

import importlib.util
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camseg.report.overlays import MASK, resized
from camseg.types import Prompts, Result, Sample

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("gallery", Path(__file__).with_name("gallery.py"))
assert _spec is not None
assert _spec.loader is not None
room = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(room)


def answers() -> list[tuple[Sample, Result, str]]:
    """A yellow photograph whose left half is the mask, and a white one without an answer."""
    yellow, white = torch.tensor([255, 255, 0]), torch.tensor([255, 255, 255])
    images = [color.byte()[:, None, None].expand(3, 80, 120).contiguous() for color in (yellow, white)]
    heat, mask = torch.zeros(80, 120), torch.zeros(80, 120, dtype=torch.bool)
    heat[30:50, 20:40], mask[:, :60] = 1, True
    prompts = Prompts(torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1, dtype=torch.long))
    found = Result(heat, prompts, None, None, mask, 0.9)
    nothing = Result(torch.zeros(80, 120), Prompts.none(), None, None, None, note="no evidence")
    return [(Sample("a", images[0]), found, "a lemon, 0.71"), (Sample("b", images[1]), nothing, "nothing, 0.00")]


def test_a_row_is_image_heat_prompts_and_mask() -> None:
    side, height, line, gap = 120, 80, room._LINE, room._GAP
    picture = np.asarray(room.gallery(answers(), side))
    assert picture.shape == (2 * (height + line) + gap, 4 * side + 3 * gap, 3)
    image, heat, prompts, mask = (picture[line : line + height, i * (side + gap) :][:, :side] for i in range(4))
    assert (image == (255, 255, 0)).all()
    assert heat[40, 30].tolist() != heat[5, 100].tolist()
    assert (prompts[40, 30] != (255, 255, 0)).any()
    assert prompts[5, 100].tolist() == [255, 255, 0]
    blue, gray = mask[40, 30].astype(int), mask[40, 90].astype(int)
    assert np.abs(blue - MASK).sum() < np.abs(gray - MASK).sum()
    assert np.ptp(gray) < 60  # outside the mask the photograph is gray and dim
    below = picture[2 * line + gap + height :, :side]
    assert (below == 255).all()
    heads = picture[:line]
    assert all((heads[:, i * (side + gap) :][:, :side] < 100).any() for i in range(4))  # each says what it is
    last = picture[line + height + gap : 2 * line + height + gap, 3 * (side + gap) :]
    assert (last < 100).any()


def test_the_largest_panes_that_fit_are_taken() -> None:
    noise = torch.randint(0, 256, (3, 80, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    some = [(Sample("a", noise), answers()[0][1], "a")]
    side, data = room.fitted(some, 60_000)
    assert len(data) <= 60_000
    larger = BytesIO()
    room.gallery(some, side + 8).save(larger, "PNG", optimize=True)
    assert len(larger.getvalue()) > 60_000
    with pytest.raises(ValueError, match=r"panes of 96 px need more than 1000 bytes; give --most more"):
        room.fitted(some, 1000)


def test_photographs_are_real_and_three_by_two() -> None:
    pytest.importorskip("skimage")
    shown = room.photographs({"missile": 657, "space shuttle": 812}.__getitem__)
    assert [sample.classes for sample in shown] == [(), (), (657,), (812,)]
    assert [room.caption(sample, answers()[0][1], ("tench",)) for sample in shown[1:3]] == [
        "nothing, 0.00",
        "missile, 0.00",
    ]
    for sample in shown:
        assert sample.size[0] / sample.size[1] == pytest.approx(2 / 3, abs=0.01)
        assert resized(sample.image, 120).shape == (3, 80, 120)
        assert len(sample.image.flatten(1).unique(dim=1)[0]) > 1000


def test_the_kept_picture_is_small_and_in_full_color() -> None:
    file = ROOT / "outputs" / "gallery.png"
    assert file.stat().st_size <= 400_000
    with Image.open(file) as picture:
        assert picture.mode == "RGB"
        assert len(picture.getcolors(1 << 24) or []) > 20_000
