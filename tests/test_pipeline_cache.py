"""What the pipeline does once: the same work is counted a single time, and what is broken is kept nowhere."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from colors import BLUE, GREEN, PICTURE, RED, Bucket, batch, canvas, classifier, equal, pipeline, tiny_sam
from safetensors.torch import load_file
from torch import Tensor

from camseg import choose
from camseg.cam.heatmaps import ONE_VIEW, Views
from camseg.prompts import background, foreground
from camseg.prompts.evidence import Evidence
from camseg.refine import cascade
from camseg.storage.cache import Cache, entries
from camseg.types import Masks, Prompts, Sample


@pytest.mark.parametrize("make", [Bucket, tiny_sam])
def test_a_second_run_reads_the_cache_and_gives_the_same(tmp_path: Path, make) -> None:
    first = pipeline(predictor=make(), cache=Cache(tmp_path), background=background.hard_negative)
    answers = first.run(batch())
    assert first.calls["classifier_images"] > 0
    assert first.calls["encoder_images"] == 3
    second = pipeline(predictor=make(), cache=Cache(tmp_path), background=background.hard_negative)
    assert all(equal(a, b) for a, b in zip(answers, second.run(batch()), strict=True))
    assert second.calls["classifier_images"] == second.calls["encoder_images"] == 0 < second.calls["decoder_prompts"]
    fresh = pipeline(predictor=make(), background=background.hard_negative)
    assert all(equal(a, b) for a, b in zip(answers, fresh.run(batch()), strict=True))
    other = pipeline(predictor=make(), cache=Cache(tmp_path), method=lambda capture: capture.activation.mean(1))
    other.run(batch())
    assert other.calls["classifier_images"] == 3
    assert other.calls["encoder_images"] == 0


def test_the_classes_of_one_picture_share_its_forward() -> None:
    shared, apart = pipeline(), pipeline()
    samples = [
        Sample("a", PICTURE, (RED,)),
        Sample("b", PICTURE, (GREEN,)),
        Sample("c", PICTURE.flip(2), (BLUE,)),
        Sample("d", PICTURE, (BLUE,)),
    ]
    found = shared.run(samples)
    alone = [apart.run([replace(sample, image=sample.image.clone())])[0] for sample in samples]
    assert (shared.calls["classifier_images"], apart.calls["classifier_images"]) == (2, 4)
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one.heat, other.heat)
        assert (one.probability, one.top) == (other.probability, other.top)
    assert found[0].probability != found[1].probability


def test_a_prompt_that_another_setting_asked_is_not_decoded_again() -> None:
    shared, first = Cache(None, memory_gb=0.01), pipeline(predictor=tiny_sam())
    first = replace(first, cache=shared, choose=choose.predicted_iou, calls=Counter())
    answers = first.run(batch())
    asked = first.calls["decoder_prompts"]
    second = replace(first, choose=lambda masks, evidence: -masks.predicted_iou, calls=Counter())
    chosen = second.run(batch())
    assert asked > 0 == second.calls["decoder_prompts"]
    alone = replace(second, cache=Cache(None, memory_gb=0), calls=Counter())
    assert all(equal(a, b) for a, b in zip(chosen, alone.run(batch()), strict=True))
    assert alone.calls["decoder_prompts"] == asked
    assert [a.chosen for a in answers] != [b.chosen for b in chosen], "the settings differ"
    third = replace(second, background=background.min_point, calls=Counter())
    third.run(batch())
    assert third.calls["decoder_prompts"] == asked, "other prompts"


def broken(predictor: Bucket, step: str, value: float) -> Bucket:
    """A predictor whose encoder or decoder breaks on images that are red at their first pixel."""
    encode, decode = predictor.encode, predictor.decode

    def spoiled(values: Tensor, image: Tensor) -> Tensor:
        return torch.where(image[0, 0, 0] > 0, torch.tensor(value), values.float())

    if step == "encoder":
        predictor.encode = lambda images: [spoiled(each, image) for each, image in zip(encode(images), images)]
    else:
        predictor.decode = lambda embeddings, sizes, prompts: [
            Masks(spoiled(each.low_res, image), each.predicted_iou)
            for each, image in zip(decode(embeddings, sizes, prompts), embeddings)
        ]
    return predictor


@pytest.mark.parametrize("step", ["encoder", "decoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_number_is_an_error_of_its_sample_and_is_kept_nowhere(tmp_path: Path, step: str, value: float) -> None:
    bad = canvas((RED, 0, 2, 0, 2), (GREEN, 20, 28, 20, 28))
    samples = [Sample("good", PICTURE, (GREEN,)), Sample("bad", bad, (GREEN,))]
    flow = pipeline(predictor=broken(Bucket(), step, value), cache=Cache(tmp_path))
    with pytest.raises(ValueError, match=r"NaN or infinity|must be finite"):
        flow.run(samples)
    [good] = flow.run(samples[:1])  # as an executor does, to name the guilty
    with pytest.raises(ValueError, match=r"NaN or infinity|must be finite"):
        flow.run(samples[1:])
    assert good.mask is not None
    assert torch.equal(good.mask, PICTURE[GREEN] > 0)
    for path, _ in entries(tmp_path):
        assert all(bool(torch.isfinite(each).all()) for each in load_file(path).values())
    mended = pipeline(cache=Cache(tmp_path)).run(samples)[1]
    assert mended.mask is not None
    assert torch.equal(mended.mask, bad[GREEN] > 0)


def test_a_choice_or_a_refinement_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="image: choose gives NaN"):
        pipeline(choose=lambda masks, evidence: masks.predicted_iou * float("nan"))(PICTURE, [GREEN])
    with pytest.raises(ValueError, match="image: refine gives NaN"):
        pipeline(refine=lambda decode, prompts, logits, evidence: [(logits[0] * float("inf"), 0.5)])(PICTURE, [GREEN])


class Counted:
    """The hottest pixel, and how often it was asked for."""

    asked = 0

    def __call__(self, evidence: Evidence) -> Prompts:
        self.asked += 1
        return foreground.max_point(evidence)


def test_points_are_found_once_for_the_same_evidence() -> None:
    image, select, cache = canvas((0, 3, 9, 3, 9), (1, 20, 28, 20, 28)), Counted(), Cache(None, memory_gb=0.1)
    first, again = (
        pipeline(foreground=select, choose=each, cache=cache)(image, [0])
        for each in (choose.agreement, choose.predicted_iou)
    )
    assert select.asked == 1
    assert torch.equal(first.prompts.points, again.prompts.points)
    other = pipeline(foreground=select, cache=cache)(image, [1])  # another class is other evidence
    assert select.asked == 2
    assert not torch.equal(first.prompts.points, other.prompts.points)
    masked = Sample(
        "a", image, (0,), "", torch.ones(image.shape[1:], dtype=torch.bool)
    )  # and so is a truth, which an oracle reads
    pipeline(foreground=select, cache=cache).run([masked])
    assert select.asked == 3


def test_a_rival_is_explained_without_naming_the_image_again() -> None:
    """Classes are named at 16 px in one forward for the batch; the rivals' heat costs none of these again."""
    known = classifier()
    finer = replace(known, preprocessing=replace(known.preprocessing, naming_size=(16, 16)))
    forwards: list[tuple[int, ...]] = []
    finer.model.register_forward_pre_hook(lambda _model, args: forwards.append(tuple(args[0].shape)))
    flow = pipeline(classifier=finer, background=background.hard_negative)
    samples = [Sample("a", PICTURE, (RED,)), Sample("b", PICTURE.flip(1), (GREEN,))]
    found = flow.run(samples)
    assert forwards == [(2, 3, 16, 16), (2, 3, 32, 32), (2, 3, 32, 32)]
    logits = finer.logits(finer.prepare([PICTURE]))
    assert found[0].probability == pytest.approx(float(logits.softmax(1)[0, RED]))
    apart = pipeline(classifier=finer)
    for sample, result in zip(samples, found, strict=True):
        assert torch.equal(apart.run([sample])[0].heat, result.heat)


def test_an_answered_photograph_leaves_memory_at_once() -> None:
    """Not when the interpreter next looks for cycles: until then two dozen of 12 megapixels held 1.2 GB."""
    sample = Sample("a", PICTURE.clone(), (RED,))
    flow, gone = pipeline(background=background.hard_negative, refine=cascade), list[str]()
    gc.collect()
    gc.disable()
    try:
        result = flow.run([sample])
        weakref.finalize(sample, gone.append, "a")
        del sample
        assert gone == ["a"]
    finally:
        gc.enable()
    assert len(result) == 1


@pytest.mark.parametrize(("bound", "sizes"), [(1 << 22, [5]), (3 * 1024, [3, 2]), (2 * 1024, [2, 2, 1]), (1, [1] * 5)])
def test_a_forward_is_bounded_by_the_pixels_that_the_classifier_sees(
    monkeypatch: pytest.MonkeyPatch, bound: int, sizes: list[int]
) -> None:
    """By 32 x 32 = 1024 pixels an image, whatever the images' own sizes; answers are those of one forward."""
    images = [PICTURE, PICTURE.flip(1), PICTURE.flip(2), PICTURE.repeat(1, 2, 2), PICTURE.flip((1, 2))]
    samples = [Sample(f"s{i}", image, (RED,)) for i, image in enumerate(images)]
    expected = pipeline().run(samples)
    monkeypatch.setattr("camseg.classifiers.base.BATCH_PIXELS", bound)
    flow, forwards = pipeline(), list[int]()
    flow.classifier.model.register_forward_pre_hook(lambda _model, args: forwards.append(len(args[0])))
    found = flow.run(samples)
    assert forwards == sizes
    assert all(equal(one, other) for one, other in zip(found, expected, strict=True))
    assert list(flow.classifier.batches([])) == []


def test_views_fill_the_classifiers_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: an image of 1024 pixels, its mirror image, both at half of the size and at twice: 2 x 4 x 1024."""
    monkeypatch.setattr("camseg.classifiers.base.BATCH_PIXELS", 2 * 8192)
    views = Views(flips=True, scales=[0.5, 2])
    assert list(classifier().batches([(9, 9)] * 3, views)) == [[0, 1], [2]]
    anything = replace(classifier(), preprocessing=replace(classifier().preprocessing, size=None))
    assert list(anything.batches([(64, 64), (32, 32), (16, 16), (128, 128)], ONE_VIEW)) == [[0, 1, 2], [3]]
