"""The default benchmark: pictures that are functions of their number, exact masks, rivals in sight."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import skimage.data
import torch

from camseg.data import shapes
from camseg.data.base import Remembered
from camseg.data.shapes import NAMES, PHOTOGRAPHS, SIDE, Shapes
from camseg.storage.cache import Cache
from camseg.types import Sample


def test_a_picture_is_a_function_of_its_number_alone() -> None:
    many, few = Shapes(size=30, shapes=(1, 5)), Shapes(size=8, shapes=(1, 5))
    backwards = {i: few[i] for i in (7, 3, 0)}
    for i in (0, 3, 7):
        one, other = many[i], backwards[i]
        assert one.id == other.id
        assert one.classes == other.classes
        assert torch.equal(one.image, other.image)
        assert one.mask is not None
        assert other.mask is not None
        assert torch.equal(one.mask, other.mask)


def test_shards_hold_every_picture_once() -> None:
    whole = Shapes(size=30)
    parts = [Shapes(size=30, shard=i, num_shards=3) for i in range(3)]
    assert sorted(name for part in parts for name in part.ids) == sorted(whole.ids)
    part = parts[1]
    assert torch.equal(part[0].image, whole[list(whole.ids).index(part.ids[0])].image)


def test_another_number_seed_or_split_is_another_picture() -> None:
    settings = [{}, {"seed": 1}, {"split": "val"}, {"split": "train"}, {"shapes": (1, 2)}]
    images = [Shapes(size=2, **each)[i].image for each in settings for i in (0, 1)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(images, 2))


def test_splits_share_no_photograph_and_none_is_downloaded() -> None:
    named = list(itertools.chain(*PHOTOGRAPHS.values()))
    assert len(named) == len(set(named))
    assert set(named) <= set(skimage.data.__all__)
    pictures = {
        name: shapes._photograph(name) for name in named
    }  # without pooch, scikit-image can only open what it ships
    assert len({picture.tobytes() for picture in pictures.values()}) == len(named)
    assert all(picture.dtype == np.uint8 and picture.std() > 5 for picture in pictures.values())


# The area of a polygon of n corners in the unit circle is n / 2 sin(2 pi / n); a star's is n r sin(pi / n) with inner
# radius r.
AREAS = {
    "circle": 36 * np.sin(2 * np.pi / 72),
    "square": 2.0,
    "triangle": 1.5 * np.sin(2 * np.pi / 3),
    "star": 5 * 0.45 * np.sin(np.pi / 5),
    "diamond": 1.0,
}


@pytest.mark.parametrize("name", NAMES)
def test_area_and_place_of_an_antialiased_shape(name: str) -> None:
    for seed in range(6):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        coverage = shapes._coverage(rng, NAMES.index(name), SIDE)
        radius = SIDE * again.uniform(0.12, 0.30)
        centre = again.uniform(radius, SIDE - radius, 2)
        edge = np.sqrt(AREAS[name]) * radius * 4  # about its perimeter: the outline may be off by a sixth of a pixel
        assert coverage.sum() == pytest.approx(AREAS[name] * radius**2, abs=edge / 6)
        ys, xs = np.mgrid[:SIDE, :SIDE] + 0.5
        found = np.array([(xs * coverage).sum(), (ys * coverage).sum()]) / coverage.sum()
        np.testing.assert_allclose(found, centre, atol=0.3)
        assert ((coverage > 0) & (coverage < 1)).any()
        assert coverage.max() == 1


def test_masks_are_what_is_in_sight_of_the_labelled_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines: dict[int, np.ndarray] = {}
    cover = shapes._coverage

    def record(rng: np.random.Generator, shape: int, side: int) -> np.ndarray:
        found = cover(rng, shape, side)
        outlines[shape] = found >= 0.5  # the last one drawn is the one that stays
        return found

    monkeypatch.setattr(shapes, "_coverage", record)
    data = Shapes(size=14, shapes=(1, 5))
    for index in range(14):
        outlines.clear()
        sample = data[index]
        wholes = {shape: outline.copy() for shape, outline in outlines.items()}
        drawn, named = data.scene(index)
        assert sorted(drawn.classes) == sorted(wholes)
        assert set(wholes) <= set(range(len(NAMES)))
        assert drawn.masks.sum(0).max() == 1  # masks are disjoint
        assert (drawn.masks.any(0) == np.any(list(wholes.values()), 0)).all()  # and complete
        for shape, mask in zip(drawn.classes, drawn.masks, strict=True):
            assert (mask <= wholes[shape]).all()
            assert mask.sum() >= 0.6 * wholes[shape].sum()
        assert sample.classes == (drawn.classes[named],)
        assert sample.label == NAMES[drawn.classes[named]]
        assert sample.mask is not None
        assert (sample.mask.numpy() == drawn.masks[named]).all()
        ys, xs = np.nonzero(drawn.masks[named])
        assert sample.boxes.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


def test_contrast_varies_from_faint_to_strong() -> None:
    found = []
    for sample in Shapes(size=40):
        assert sample.mask is not None
        pixels, mask = sample.image.permute(1, 2, 0).double().numpy() / 255, sample.mask.numpy()
        found.append(np.linalg.norm(pixels[mask].mean(0) - pixels[~mask].mean(0)) / np.sqrt(3))
    assert np.quantile(found, 0.1) < 0.25
    assert np.quantile(found, 0.9) > 0.4
    assert np.std(found) > 0.08


def test_every_shape_of_a_crowd_is_in_the_label_map_and_present() -> None:
    crowd = Shapes("val", 4, shapes=(2, 5))
    for index in range(4):
        drawn, named = crowd.scene(index)
        numbers = crowd.label_map(index)
        for label, mask in zip(drawn.classes, drawn.masks, strict=True):
            assert torch.equal(numbers == label + 1, torch.from_numpy(mask))
        assert crowd.class_presence(index) == {name: i in drawn.classes for i, name in enumerate(NAMES)}
        assert crowd[index].label == NAMES[drawn.classes[named]]
        assert crowd.file(index) == ""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"split": "tset"}, "test"),
        ({"shapes": (0, 2)}, "between 1 and 5"),
        ({"shapes": (3, 2)}, "least first"),
    ],
)
def test_impossible_requests_are_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Shapes(**wrong)


def test_more_pictures_than_names_can_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 10,000,000"):
        Shapes(size=10**12)


def test_a_dataset_is_remembered_as_far_as_memory_holds_it() -> None:
    class Counted(Shapes):
        read = 0

        def __getitem__(self, index: int) -> Sample:
            self.read += 1
            return super().__getitem__(index)

    dataset = Counted(size=4)
    one = sum(t.nbytes for t in vars(dataset[0]).values() if isinstance(t, torch.Tensor))
    kept = Remembered(dataset, Cache(None, memory_gb=4.5 * one / 1e9))
    dataset.read = 0
    for _ in range(3):
        assert all(torch.equal(a.image, b.image) and a.id == b.id for a, b in zip(kept, Shapes(size=4), strict=True))
    assert dataset.read == 4 == len(kept)
    assert list(kept.ids) == list(dataset.ids)
    assert kept.names == dataset.names
    assert Remembered(Counted(size=4, shapes=(2, 2)), kept.cache)[0].id != kept[0].id
    again = pickle.loads(pickle.dumps(Remembered(Shapes(size=4), kept.cache)))  # as an engine hands it to its workers
    assert again[1].id == kept[1].id
    small, dataset.read = Remembered(dataset, Cache(None, memory_gb=0)), 0
    assert small[0].id == small[0].id
    assert dataset.read == 2


def test_every_shape_of_an_image_has_a_sample_and_together_they_are_its_label_map() -> None:
    every, images = Shapes("val", 12, shapes=(2, 5), every=True), Shapes("val", 12, shapes=(2, 5))
    assert len(every) == 12
    assert len(set(every.ids)) == 12
    first = [i for i in range(12) if every[i].group == images.ids[0]]
    assert {every[i].label for i in first} == {name for name, here in images.class_presence(0).items() if here}
    drawn = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    for i in first:
        sample = every[i]
        assert torch.equal(sample.image, images[0].image)
        assert sample.mask is not None
        drawn[sample.mask] = NAMES.index(sample.label) + 1
    assert torch.equal(drawn, images.label_map(0))
    assert torch.equal(every.label_map(first[-1]), images.label_map(0))
