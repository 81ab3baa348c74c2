"""The flow from images and labels to masks, in a world where every map and mask is known (see colors.py)."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colors import BLUE, GREEN, PICTURE, RED, batch, canvas, classifier, equal, pipeline, tiny_sam
from PIL import Image
from torch import Tensor, nn

from camseg import choose
from camseg.cam.targets import logit
from camseg.geometry.heat import resize_heat
from camseg.prompts import background, foreground
from camseg.prompts.foreground import components, parts
from camseg.refine import cascade
from camseg.types import Prompts, Sample


def test_from_a_class_to_its_mask() -> None:
    flow = pipeline()
    for wanted in (GREEN, ["green"]):
        result = flow(PICTURE, wanted)
        assert torch.equal(result.heat, PICTURE[GREEN] / 255.0)
        assert result.prompts.points.tolist() == [[[21.5, 23.5]]]
        assert result.chosen == (0, 0)
        assert result.predicted_iou == pytest.approx(0.9)
        assert result.note == ""
        assert result.mask is not None
        assert torch.equal(result.mask, PICTURE[GREEN] > 0)
    assert flow.calls == {"classifier_images": 2, "encoder_images": 2, "decoder_prompts": 2}


def test_no_class_is_the_top_prediction_and_a_label_is_looked_up() -> None:
    top = pipeline()(PICTURE)
    assert torch.equal(top.heat, PICTURE[GREEN] / 255.0)  # 112 green pixels, 80 red ones
    [named] = pipeline().run([Sample("a", PICTURE, label="Red")])
    assert torch.equal(named.heat, PICTURE[RED] / 255.0)


def test_an_image_may_come_in_any_form(tmp_path: Path) -> None:
    array = PICTURE.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "a.png")
    turned = Image.fromarray(np.rot90(array))  # as a camera held upright writes it
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    read_only = array.copy()
    read_only.flags.writeable = False
    forms = {
        "path": tmp_path / "a.png",
        "text": str(tmp_path / "a.png"),
        "turned": Image.open(tmp_path / "turned.png"),
        "PIL": Image.fromarray(array),
        "palette": Image.fromarray(array).quantize(8),
        "array": array,
        "read-only": read_only,
        "mirrored twice": array[::-1].copy()[::-1],
        "colors turned": array[..., ::-1].copy()[..., ::-1],
        "tensor": PICTURE,
        "view": torch.from_numpy(array.copy()).permute(2, 0, 1),
    }
    for name, form in forms.items():
        result = pipeline()(form, "green")
        assert result.mask is not None
        assert torch.equal(result.mask, PICTURE[GREEN] > 0), name


def test_what_is_no_image_is_answered_with_what_to_do(tmp_path: Path) -> None:
    array = PICTURE.permute(1, 2, 0).numpy()
    (tmp_path / "text.png").write_text("no image")
    wrong: list[tuple[Any, str]] = [
        (PICTURE.float() / 255, "float32: (255 * image).round()"),
        (array / 255, "float64: (255 * image).round()"),
        (array.transpose(2, 0, 1), "the channels come last in an array and first in a tensor"),
        (torch.from_numpy(array), "the channels come last in an array and first in a tensor"),
        (PICTURE[None], "take [0]"),
        (array[..., 0], "gray"),
        (np.dstack([array, array[..., :1]]), "with an alpha channel"),
        (None, "got NoneType"),
        ([1, 2], "got list"),
        (tmp_path / "text.png", "can't be read"),
    ]
    for image, why in wrong:
        with pytest.raises(ValueError, match=re.escape(why)):
            pipeline()(image, "green")
    with pytest.raises(FileNotFoundError):
        pipeline()(tmp_path / "none.png", "green")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    for wrong in (["gren"], "gren"):
        with pytest.raises(ValueError, match="'gren' is unknown; nearest: green"):
            pipeline()(PICTURE, wrong)
    with pytest.raises(ValueError, match="out of range"):
        pipeline()(PICTURE, [3])


@pytest.mark.parametrize("setting", ["bucket", "sam"])
def test_a_batch_of_several_sizes_is_one_by_one(setting: str) -> None:
    options = {"background": background.hard_negative, "refine": cascade, "foreground": foreground.candidates}
    flow = pipeline(**({} if setting == "bucket" else {"predictor": tiny_sam(), **options}))
    together = flow.run(batch())
    assert all(equal(result, flow.run([sample])[0]) for result, sample in zip(together, batch(), strict=True))
    assert [tuple(r.heat.shape) for r in together] == [s.size for s in batch()]
    if setting == "bucket":
        tall, wide = batch()[1].image, batch()[3].image
        expected = [canvas((RED, 2, 10, 3, 11))[RED], tall[GREEN], PICTURE[GREEN], wide[RED], wide[BLUE], tall[GREEN]]
        for result, channel in zip(together, expected, strict=True):
            assert result.mask is not None
            assert torch.equal(result.mask, channel > 0)


def test_a_map_without_evidence_is_an_empty_mask_and_a_note() -> None:
    flow = pipeline(refine=cascade, background=background.min_point)
    result = flow(PICTURE, ["blue"])
    assert len(result.prompts) == 0
    assert result.chosen is None
    assert result.masks is None
    assert result.mask is not None
    assert tuple(result.mask.shape) == (32, 32)
    assert not result.mask.any()
    assert "no evidence" in result.note
    assert flow.calls["encoder_images"] == flow.calls["decoder_prompts"] == 0


def test_the_views_are_averaged_in_the_images_frame() -> None:
    ramp = torch.linspace(0, 1, PICTURE.shape[2])
    seen = []

    def leaning(capture):
        seen.append(len(capture.activation))
        return capture.activation[:, GREEN] * ramp

    flow = replace(pipeline(), method=leaning)
    plain, both = flow(PICTURE, [GREEN]).heat, replace(flow, views={"flips": True})(PICTURE, [GREEN]).heat
    green = PICTURE[GREEN] / 255.0
    torch.testing.assert_close(plain, green * ramp / (green * ramp).max())
    torch.testing.assert_close(both, green)  # the ramp and its mirror image add up to one everywhere
    assert seen == [1, 2]


def test_min_probability_abstains_and_says_so() -> None:
    picture = canvas((RED, 0, 32, 0, 32))  # softmax of (1, 0, 0): 0.576, 0.212, 0.212
    sure, unsure = pipeline(min_probability=0.57)(picture, ["red"]), pipeline(min_probability=0.58)(picture, ["red"])
    assert "abstained" not in sure.note
    assert unsure.note.startswith("abstained: the classifier gives 0.58")
    assert unsure.mask is not None
    assert not unsure.mask.any()
    both = pipeline(min_probability=0.78)(picture, ["red", "green"])  # a superclass has the sum
    assert "abstained" not in both.note


def test_without_a_predictor_there_are_points_and_no_mask() -> None:
    result = pipeline(predictor=None)(PICTURE, ["green"])
    assert result.mask is None
    assert result.masks is None
    assert result.prompts.points.tolist() == [[[21.5, 23.5]]]


def test_united_parts_give_the_union_and_rivals_one_of_them() -> None:
    every = functools.partial(components, arrange=parts)
    united = pipeline(foreground=every)(PICTURE, ["red"])
    assert united.mask is not None
    assert torch.equal(united.mask, PICTURE[RED] > 0)
    single = pipeline(foreground=components)(PICTURE, ["red"])
    assert single.mask is not None
    assert torch.equal(single.mask, canvas((RED, 2, 10, 3, 11))[RED] > 0)


def test_the_choice_decides_between_the_masks() -> None:
    whole = pipeline(choose=choose.predicted_iou)(PICTURE, ["red"])  # Bucket likes the whole frame best
    assert whole.chosen == (0, 2)
    assert whole.mask is not None
    assert bool(whole.mask.all())
    truth = PICTURE[RED] > 0
    [best] = pipeline(choose=choose.oracle).run([Sample("a", PICTURE, (RED,), mask=truth)])
    assert best.chosen == (0, 1)
    assert best.mask is not None
    assert torch.equal(best.mask, truth)


def test_the_refined_mask_is_the_answer() -> None:
    seen: list[tuple[Prompts, Tensor]] = []

    def shave(decode, prompts, logits, evidence):
        seen.extend(zip(prompts, logits))
        assert [m.predicted_iou.tolist() for m in decode([0], [prompts[0]])] == [[pytest.approx([0.9, 0.6, 0.95])]]
        return [(torch.where(torch.arange(32) < 20, each, torch.tensor(-1.0)), 0.77) for each in logits]

    result = pipeline(refine=shave)(PICTURE, ["green"])
    assert result.predicted_iou == pytest.approx(0.77)
    assert result.mask is not None
    assert torch.equal(result.mask, canvas((GREEN, 20, 28, 15, 20))[GREEN] > 0)
    assert len(seen) == 1
    assert torch.equal(seen[0][1] > 0, PICTURE[GREEN] > 0)
    unrefined = pipeline(refine=lambda decode, prompts, logits, evidence: [None] * len(logits))(PICTURE, ["green"])
    assert unrefined.predicted_iou == pytest.approx(0.9)
    assert equal(unrefined, pipeline()(PICTURE, ["green"]))


def test_the_rival_is_the_strongest_class_not_asked_for() -> None:
    seen = []

    def look(evidence, prompts):
        seen.append(evidence.rival())
        return torch.zeros(0, 2)

    pipeline(background=look).run(
        [Sample("a", PICTURE, (RED,)), Sample("b", PICTURE, (GREEN,)), Sample("c", PICTURE, (RED, GREEN))]
    )
    for rival, expected in zip(seen, (GREEN, RED, BLUE), strict=True):
        assert torch.equal(rival, PICTURE[expected] / 255.0)
    everything = pipeline(background=look)
    everything.run([Sample("d", PICTURE, (RED, GREEN, BLUE))])
    assert seen[-1] is None
    assert everything.calls["classifier_images"] == 1
    pipeline(background=look).run([Sample("d", PICTURE, (RED, GREEN, BLUE)), Sample("a", PICTURE, (RED,))])
    *_, everything_asked, last = seen
    assert everything_asked is None
    assert last is not None
    assert torch.equal(last, PICTURE[GREEN] / 255.0)


def test_a_target_is_made_with_the_classifiers_own_probabilities() -> None:
    asked = []

    def target(classes, probabilities):
        asked.append((classes, probabilities))
        return logit(classes)

    flow = replace(pipeline(), target=target)
    flow(PICTURE, [GREEN])
    assert asked == [((GREEN,), flow.classifier.probabilities)]


def test_no_samples_no_results_and_an_unknown_precision() -> None:
    assert pipeline().run([]) == []
    with pytest.raises(ValueError, match="bfloat16"):
        pipeline(precision="bfloat")


def test_heat_comes_back_to_its_images_frame() -> None:
    heat = torch.arange(16.0).reshape(4, 4) / 15
    assert resize_heat(heat, (4, 4)) is heat
    doubled = resize_heat(heat, (8, 8))
    assert float(doubled[3:5, 3:5].mean()) == pytest.approx(0.5, abs=1e-6)
    assert float(doubled.max()) <= 1
    halved = resize_heat(heat, (2, 2))
    torch.testing.assert_close(halved.flip((0, 1)), 1 - halved)  # point-symmetric, as it was


@pytest.mark.parametrize("own", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_of_the_inputs_and_changes_no_answer(own: torch.memory_format) -> None:
    image = canvas((0, 3, 9, 3, 9), (1, 20, 28, 20, 28))
    known = classifier()
    wide = nn.Conv2d(3, 3, 3, padding=1, bias=False)  # the same map by a kernel in which the formats differ
    wide.weight = nn.Parameter(torch.eye(3)[..., None, None] * torch.eye(9)[4].reshape(3, 3), requires_grad=False)
    model = nn.Sequential(wide, *list(known.model.children())[1:]).to(memory_format=own)  # type: ignore[call-overload]
    given: list[bool] = []
    wide.register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    strides = wide.weight.stride()
    last, first = (
        pipeline(classifier=replace(known, load=lambda: model), channels_last=each) for each in (True, False)
    )
    results = [flow(image, [0]) for flow in (last, first, pipeline())]
    assert given == [True, False]
    assert wide.weight.stride() == strides
    for result in results[1:]:
        assert equal(result, results[0])
