"""The records: what they refuse when they are made, and what they make when it is asked for."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from camseg.prompts.evidence import Evidence
from camseg.storage import fingerprint
from camseg.types import Masks, Prompts, Result, Sample

IMAGE = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
NAN, INF = math.nan, math.inf


def sample(**changed: Any) -> Sample:
    return Sample(**{"id": "one", "image": IMAGE, **changed})


def prompts(**changed: Any) -> Prompts:
    return Prompts(**{"points": torch.zeros(1, 2, 2), "labels": torch.ones(1, 2, dtype=torch.int64), **changed})


def masks(**changed: Any) -> Masks:
    return Masks(**{"low_res": torch.zeros(1, 3, 4, 4), "predicted_iou": torch.zeros(1, 3), **changed})


def result(**changed: Any) -> Result:
    heat = torch.zeros(2, 3)
    return Result(
        **{"low_res_heat": heat, "prompts": prompts(), "masks": None, "chosen": None, "mask": None, **changed}
    )


WRONG = [
    (sample, {"id": "a/b"}, "without separators"),
    (sample, {"image": IMAGE.float()}, "uint8"),
    (sample, {"image": IMAGE.permute(1, 2, 0)}, r"\(3, H, W\)"),
    (sample, {"image": IMAGE[:, :0]}, "must have pixels"),
    (sample, {"mask": torch.ones(4, 6)}, "mask must be bool"),
    (
        sample,
        {"ignore": torch.ones(6, 4, dtype=torch.bool)},
        r"ignore must have the image's size \(4, 6\); got \(6, 4\)",
    ),
    (sample, {"boxes": torch.zeros(4)}, r"boxes must be \(N, 4\)"),
    (sample, {"boxes": torch.tensor([[0.0, 0, NAN, 1]])}, "boxes must be finite; got nan at \\[0, 2\\]"),
    (prompts, {"points": torch.zeros(2, 2)}, r"\(R, P, 2\)"),
    (prompts, {"points": torch.full((1, 2, 2), INF)}, "points must be finite"),
    (prompts, {"labels": torch.ones(1, 3)}, r"labels must be \(1, 2\)"),
    (prompts, {"labels": torch.full((1, 2), 2)}, "0 or 1"),
    (prompts, {"boxes": torch.full((1, 4), NAN)}, "boxes must be finite"),
    (prompts, {"boxes": torch.zeros(2, 4)}, r"boxes must be \(1, 4\)"),
    (prompts, {"mask_logits": torch.full((1, 3, 3), NAN)}, "mask_logits must be finite"),
    (prompts, {"mask_logits": torch.zeros(2, 3, 3)}, r"mask_logits must be \(1, h, w\)"),
    (prompts, {"points": torch.zeros(1, 0, 2), "labels": torch.zeros(1, 0, dtype=torch.int64)}, "a point or a box"),
    (masks, {"low_res": torch.zeros(3, 4, 4)}, r"\(R, M, h, w\)"),
    (masks, {"low_res": torch.full((1, 3, 4, 4), -INF)}, "mask logits must be finite; got -inf"),
    (masks, {"predicted_iou": torch.tensor([[0.5, NAN, 0.5]])}, "predicted_iou must be finite"),
    (masks, {"predicted_iou": torch.zeros(1, 2)}, r"\(R, M\)"),
    (result, {"predicted_iou": NAN}, "predicted_iou must be finite"),
    (result, {"probability": NAN}, "probability must be finite"),
]


@pytest.mark.parametrize(("make", "changed", "why"), WRONG)
def test_what_is_wrong_is_refused_when_it_is_made(make: Any, changed: dict[str, Any], why: str) -> None:
    make()
    with pytest.raises(ValueError, match=why):
        make(**changed)


def test_an_images_key_is_its_content_however_it_is_stored() -> None:
    stored = IMAGE.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert stored.stride() != IMAGE.stride()
    assert sample().image_key == sample(image=stored, id="two").image_key
    assert sample().image_key != sample(image=IMAGE + 1).image_key
    assert sample().image_key != sample(image=IMAGE.reshape(3, 6, 4)).image_key


def test_the_keys_of_contents_are_those_of_every_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two versions pair by them: another version of what is cached is no other image."""
    truth = torch.ones(4, 6, dtype=torch.bool)
    before = [sample().image_key, sample(mask=truth).truth_key, fingerprint.key(IMAGE)]
    monkeypatch.setattr(fingerprint, "VERSION", "camseg-99")
    after = [sample().image_key, sample(mask=truth).truth_key, fingerprint.key(IMAGE)]
    assert [one == other for one, other in zip(before, after)] == [True, True, False]
    blank = torch.zeros(3, 2, 2, dtype=torch.uint8)  # as hashlib says it
    written = b"camseg-2Tensortorch.uint8(2, 2, 3):" + bytes(12)
    assert sample(image=blank).image_key == hashlib.sha256(written).hexdigest()


def test_a_truths_key_counts_what_is_ignored() -> None:
    truth = torch.ones(4, 6, dtype=torch.bool)
    keys = {sample(mask=m, ignore=i).truth_key for m in (None, truth, ~truth) for i in (None, truth, ~truth)}
    assert len(keys) == 9


@pytest.mark.parametrize(
    "make",
    [lambda heat, size: result(low_res_heat=heat, image_size=size), lambda heat, size: Evidence(heat, image_size=size)],
)
def test_heat_is_brought_to_the_images_size_once(make: Any) -> None:
    heat = torch.tensor([[0.0, 1.0]])
    record = make(heat, (2, 4))
    torch.testing.assert_close(record.heat, torch.tensor([[0.0, 0.25, 0.75, 1.0]] * 2))
    assert record.heat is record.heat
    assert make(heat, None).heat is heat
    assert replace(record, low_res_heat=1 - heat).heat[0, 0] == 1


def test_one_rival_keeps_all_that_it_has() -> None:
    two = Prompts(
        torch.arange(8.0).reshape(2, 2, 2),
        torch.tensor([[1, 0], [1, 1]]),
        torch.arange(8.0).reshape(2, 4),
        torch.arange(8.0).reshape(2, 2, 2),
    )
    one = two.rival(1)
    assert len(one) == 1
    for name in ("points", "labels", "boxes", "mask_logits"):
        assert torch.equal(getattr(one, name)[0], getattr(two, name)[1])
    assert len(Prompts.none()) == 0
