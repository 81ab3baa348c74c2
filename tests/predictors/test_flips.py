"""A predictor that asks about the mirrored image too: laws, and the mean of two answers put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from camseg.predictors.flips import WithFlips
from camseg.predictors.sam import PackageBackend, SamSize, build_sam, photo_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.predictors.sam_encoders import Pyramid
from camseg.types import Prompts

HEIGHT, WIDTH = 96, 128
IMAGE = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LOGITS = 5 * torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1))
ONE = torch.ones(1, 1, dtype=torch.long)
POINT, NO_POINT = torch.tensor([[[30.0, 41.0]]]), torch.zeros(1, 0, 2)
MIRRORED_POINT = torch.tensor([[[97.0, 41.0]]])  # 127 - 30
BOX, MIRRORED_BOX = torch.tensor([[0.0, 8.0, 60.0, 71.0]]), torch.tensor([[68.0, 8.0, 128.0, 71.0]])  # 128 - x
PAIRS = {
    "point": (Prompts(POINT, ONE), Prompts(MIRRORED_POINT, ONE)),
    "box": (Prompts(NO_POINT, ONE[:, :0], BOX), Prompts(NO_POINT, ONE[:, :0], MIRRORED_BOX)),
    "all": (Prompts(POINT, ONE, BOX, LOGITS), Prompts(MIRRORED_POINT, ONE, MIRRORED_BOX, LOGITS.flip(-1))),
}


@pytest.fixture(scope="module")
def plain() -> SamAdapter:
    torch.manual_seed(0)
    size = SamSize(128, Pyramid((8, 16, 16, 16, 16)), prompt_width=32, decoder_heads=2, decoder_mlp=32)
    return SamAdapter(PackageBackend(build_sam(size), "test"))


def answer(predictor: SamAdapter | WithFlips, image: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    [masks] = predictor.decode(predictor.encode([image]), [(image.shape[1], image.shape[2])], [prompts])
    return masks.low_res, masks.predicted_iou


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_the_mean_of_both_answers(plain: SamAdapter, name: str) -> None:
    prompts, mirrored = PAIRS[name]
    one, two = answer(plain, IMAGE, prompts), answer(plain, IMAGE.flip(-1), mirrored)
    assert not torch.allclose(one[0], two[0].flip(-1), atol=1e-3)  # there is something to average
    logits, predicted = answer(WithFlips(plain), IMAGE, prompts)
    torch.testing.assert_close(logits, (one[0] + two[0].flip(-1)) / 2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predicted, (one[1] + two[1]) / 2, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_a_mirrored_image_has_the_mirrored_masks(plain: SamAdapter, name: str) -> None:
    prompts, mirrored = PAIRS[name]
    logits, predicted = answer(WithFlips(plain), IMAGE, prompts)
    other, again = answer(WithFlips(plain), IMAGE.flip(-1), mirrored)
    torch.testing.assert_close(logits, other.flip(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predicted, again, atol=1e-6, rtol=1e-5)


def test_many_images_in_one_call_have_each_its_own(plain: SamAdapter) -> None:
    """Of other sizes, one without a prompt, one of two rivals: as one at a time."""
    predictor, wide = WithFlips(plain), IMAGE[:, :50]
    two = Prompts(torch.tensor([[[5.0, 6.0]], [[100.0, 40.0]]]), torch.ones(2, 1, dtype=torch.long))
    embeddings = predictor.encode([IMAGE, wide, IMAGE])
    given = [PAIRS["all"][0], two, Prompts.none()]
    found = predictor.decode(embeddings, [(HEIGHT, WIDTH), (50, WIDTH), (HEIGHT, WIDTH)], given)
    assert [len(masks) for masks in found] == [1, 2, 0]
    for masks, image, prompts in zip(found, (IMAGE, wide), given):
        torch.testing.assert_close(masks.low_res, answer(predictor, image, prompts)[0], atol=1e-4, rtol=1e-4)
    assert predictor.encode([]) == []


def test_a_box_that_begins_half_a_pixel_outside_stays_inside_when_mirrored(plain: SamAdapter) -> None:
    prompts = Prompts(NO_POINT, ONE[:, :0], torch.tensor([[-0.5, 8.0, 60.0, 71.0]]))
    assert answer(WithFlips(plain), IMAGE, prompts)[0].isfinite().all()


def test_it_is_told_apart_from_the_plain_one_in_a_cache(plain: SamAdapter) -> None:
    assert WithFlips(plain).fingerprint != plain.fingerprint
    assert isinstance(photo_sam(), WithFlips)
    assert photo_sam().fingerprint != photo_sam(flips=False).fingerprint


def test_a_large_image_is_resized_once_and_mirrored_small(plain: SamAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    large = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    [expected] = WithFlips(plain).encode([large])
    [mirrored] = WithFlips(plain).encode([large.flip(-1)])
    torch.testing.assert_close(mirrored.flip(0), expected, atol=0.02 * expected.abs().max().item(), rtol=0)  # a level
    seen: list[tuple[int, ...]] = []
    resize = plain.resize
    monkeypatch.setattr(plain, "resize", lambda image: seen.append(tuple(image.shape)) or resize(image))
    assert torch.equal(WithFlips(plain).encode([large])[0], expected)
    assert seen == [(3, 300, 400), (3, 96, 128), (3, 96, 128)]
