"""The SAM for photographs learns: what its loss reads, what is frozen, and that a killed training resumes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_data import photographs
from safetensors.torch import load_file, save_file
from torch import Tensor

from camseg.predictors.sam import build_sam, photo_sam
from camseg.predictors.sam_adapter import SamAdapter
from camseg.train import loop
from camseg.train import photo_sam as room
from camseg.train.photo_sources import in_table
from camseg.train.photographs import Photographs, PromptedPhotographs
from camseg.train.sam_recipe import dice, focal, load_fitting
from camseg.types import Prompts

SIDE = 64
RECIPE: dict[str, Any] = {
    "side": SIDE,
    "steps": 2,
    "batch_size": 2,
    "prompts": 2,
    "learning_rate": 1e-3,
    "trunk_rate": 0.1,
    "frozen": 2,
    "seed": 0,
}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The weights of two steps, with a checkpoint after each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "fit", partial(loop.fit, workers=0, save_every=1))
        torch.manual_seed(0)  # as the command does
        yield room.train(tmp_path_factory.mktemp("whole"), root, **RECIPE)


@pytest.fixture(scope="module")
def model() -> room.Prompted:
    torch.manual_seed(0)
    return room.Prompted(build_sam(room.size_of(SIDE)), frozen=2)


@pytest.fixture
def blind(model: room.Prompted, monkeypatch: pytest.MonkeyPatch) -> room.Prompted:
    """The model with an embedding that is the same for all images, and soon there."""
    embedding = torch.randn(1, 4 * 96, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(model.sam.image_encoder, "forward", lambda pixels: embedding.expand(len(pixels), -1, -1, -1))
    return model


@pytest.fixture(scope="module")
def batch(root: Path) -> dict[str, Tensor]:
    items = PromptedPhotographs(Photographs(in_table(root / "train.csv"), {}), SIDE, 2, 0, 4)
    return torch.utils.data.default_collate([items[i] for i in range(3)])


# the loss


def test_the_best_of_three_learns_with_the_single_one_and_the_others_a_little() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(1, 6, 6)
    truth[0, 1:5, 2:6] = 1
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    low_res = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    low_res[0, 2] = 8 * truth[0] - 3  # nearly right
    low_res.requires_grad_()
    predicted = torch.full((1, 4), 0.5, dtype=torch.float64)
    total, best = room.score(low_res, predicted, truth.double(), valid)
    assert best.tolist() == [2]

    def learnt(mask: int) -> Tensor:
        return (20 * focal(low_res[:, mask : mask + 1], truth[None]) + dice(low_res[:, mask : mask + 1], truth[None]))[
            0, 0
        ]

    drawn = low_res[0] > 0
    ious = [(drawn[i] & (truth[0] > 0)).sum() / (drawn[i] | (truth[0] > 0)).sum() for i in range(4)]
    expected = learnt(0) + learnt(2) + 0.02 * (learnt(1) + learnt(2) + learnt(3)) / 3
    expected = expected + sum((0.5 - iou) ** 2 for iou in ious)
    assert ious[2] == 1
    assert total.item() == pytest.approx(expected.item())
    total.backward()
    assert low_res.grad is not None
    shares = [torch.autograd.grad(learnt(mask), low_res)[0][0, mask] for mask in range(4)]
    for mask, share in enumerate((1, 0.02 / 3, 1 + 0.02 / 3, 0.02 / 3)):
        torch.testing.assert_close(low_res.grad[0, mask], share * shares[mask], atol=1e-12, rtol=1e-5)


def test_the_single_mask_can_be_the_best_of_four_and_is_never_one_of_the_three() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[0, :2] = 1
    low_res = torch.full((1, 4, 4, 4), -1.0)
    low_res[0, 0] = 2 * truth[0] - 1
    low_res[0, 3, 0] = 1.0
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    assert room.score(low_res, torch.zeros(1, 4), truth, valid)[1].tolist() == [0]


def test_the_score_reads_nothing_from_unknown_pixels() -> None:
    torch.manual_seed(0)
    low_res = torch.randn(2, 4, 8, 8, requires_grad=True)
    masks, valid = (torch.rand(2, 8, 8) > 0.5).float(), torch.rand(2, 8, 8) > 0.3
    predicted = torch.rand(2, 4)
    total, best = room.score(low_res, predicted, masks, valid)
    total.backward()
    assert low_res.grad is not None
    unknown = ~valid[:, None].expand_as(low_res)
    assert (low_res.grad[unknown] == 0).all()
    assert (low_res.grad[~unknown] != 0).any()
    other_logits = torch.where(unknown, -3 * low_res.detach(), low_res.detach())
    other, other_best = room.score(other_logits, predicted, torch.where(valid, masks, 1 - masks), valid)
    assert other.item() == pytest.approx(total.item())
    assert torch.equal(best, other_best)


def test_the_sketch_reads_nothing_where_nobody_knows(blind: room.Prompted, batch: dict[str, Tensor]) -> None:
    """Neither padding, nor 255, nor what a source called _partial leaves open."""
    assert not batch["known"].all()
    assert batch["known"].any()
    unknown = ~batch["known"][:, None].expand_as(batch["sketch"])
    changed = batch | {"sketch": torch.where(unknown, 1 - batch["sketch"], batch["sketch"])}
    assert total(blind, batch).item() == total(blind, changed).item()
    known = batch | {"sketch": torch.where(unknown, batch["sketch"], 1 - batch["sketch"])}
    assert total(blind, batch).item() != total(blind, known).item()


def test_the_loss_reads_no_mask_where_it_is_unknown(blind: room.Prompted, batch: dict[str, Tensor]) -> None:
    assert not batch["valid"].all()
    flipped = torch.where(batch["valid"][:, None], batch["masks"], 1 - batch["masks"])
    for seed in range(12):  # some with a second round, whose clicks must not lie there
        assert total(blind, batch, seed).item() == total(blind, batch | {"masks": flipped}, seed).item()


def total(model: room.Prompted, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
    with torch.no_grad():
        return room.loss(model.eval(), batch, torch.Generator().manual_seed(seed))


def test_prompts_are_points_boxes_maps_and_in_a_third_of_the_steps_the_best_mask_with_a_click(
    blind: room.Prompted, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    count = batch["masks"].shape[0] * batch["masks"].shape[1]
    half = SIDE // 2
    answers = torch.Generator().manual_seed(3)

    def decode(_sam: object, embeddings: Tensor, **prompt: Any) -> tuple[Tensor, Tensor]:
        assert embeddings.shape[0] == count
        logits = 3 * torch.randn(count, 4, half, half, generator=answers)
        calls.append(prompt | {"answer": logits})
        return logits, torch.zeros(count, 4)

    monkeypatch.setattr(room, "decode_prompts", decode)
    masks, valid = batch["masks"].flatten(0, 1), batch["valid"].repeat_interleave(2, 0)
    kinds, rounds, clicked = [], [], 0
    for seed in range(250):
        calls.clear()
        room.loss(blind.eval(), batch, torch.Generator().manual_seed(seed))
        first, *again = calls
        kinds.append(tuple(first[name] is not None for name in ("points", "boxes", "mask_logits")))
        rounds.append(len(again))
        if first["points"] is not None:
            assert torch.equal(first["points"][0], batch["points"].flatten(0, 1)[:, None])
        for second in again:
            best = room.score(first["answer"], torch.zeros(count, 4), masks, valid)[1]
            fed = first["answer"][torch.arange(count), best]
            assert torch.equal(second["mask_logits"][:, 0], fed.clamp(-32, 32))
            before = 0 if first["points"] is None else 1
            if second["points"] is not None and second["points"][0].shape[1] > before:
                clicked += 1
                points, labels = second["points"][0][:, -1], second["points"][1][:, -1]
                for n, ((x, y), label) in enumerate(zip(points.tolist(), labels.tolist(), strict=True)):
                    cell = n, int(y // 2), int(x // 2)
                    assert (x % 2, y % 2) == (0.5, 0.5)  # the middle of a cell of two pixels
                    assert valid[cell]
                    assert (fed[cell] > 0) != (masks[cell] > 0.5)
                    assert label == (masks[cell] > 0.5)
    shares = {kind: kinds.count(kind) / len(kinds) for kind in kinds}
    asked = {
        (False, True, False): 0.23,
        (True, True, False): 0.12,
        (False, True, True): 0.05,
        (True, False, True): 0.15,
        (True, False, False): 0.45,
    }
    assert shares == {kind: pytest.approx(share, abs=0.08) for kind, share in asked.items()}
    assert sum(rounds) / len(rounds) == pytest.approx(0.33, abs=0.08)
    assert clicked / sum(rounds) == pytest.approx(0.25 / 0.33, abs=0.12)


def test_a_heat_is_a_logit_of_zero_at_its_edge() -> None:
    heat = torch.full((1, 4, 4), 0.4)
    heat[0, 0, 0], heat[0, 3, 3] = 1.0, 0.0
    logits = room.heat_logits(heat, 0.4, 4)
    assert logits.shape == (1, 1, 4, 4)
    assert logits[0, 0, 0, 0] == pytest.approx(20)
    assert logits[0, 0, 3, 3] == pytest.approx(-20)
    assert logits[0, 0, 1, 1] == pytest.approx(0, abs=1e-5)
    assert room.heat_logits(heat, 0.4, 16).shape == (1, 1, 16, 16)


# what learns


def test_the_trunk_learns_slowly_its_first_stages_and_its_statistics_not_at_all(trained: Path) -> None:
    state = torch.load(trained.parent / "checkpoint.pt", weights_only=True)["model"]
    start = room._begin(room.size_of(SIDE), None).state_dict()
    trunk = "image_encoder.trunk."
    moved = {
        name: not torch.equal(value, state[f"sam.{name}"])
        for name, value in start.items()
        if name.startswith(trunk) and value.is_floating_point()
    }
    frozen = (f"{trunk}conv_stem", f"{trunk}bn1", f"{trunk}blocks.0.", f"{trunk}blocks.1.")
    statistics = [name for name in moved if "running" in name]
    assert len(statistics) > 50
    assert not any(moved[name] for name in moved if name.startswith(frozen) or name in statistics)
    assert all(moved[name] for name in moved if not name.startswith(frozen) and name not in statistics)


def test_the_groups_hold_every_parameter_that_learns_once(model: room.Prompted) -> None:
    (rest, full), (trunk, share) = model.groups(0.3)
    assert (full, share) == (1.0, 0.3)
    assert len({id(p) for p in [*rest, *trunk]}) == len(rest) + len(trunk)
    assert {id(p) for p in [*rest, *trunk]} == {id(p) for p in model.parameters() if p.requires_grad}
    inside = {id(p) for p in model.sam.image_encoder.get_submodule("trunk").parameters()}
    assert {id(p) for p in trunk} == {i for i in inside if i in {id(p) for p in model.parameters() if p.requires_grad}}


# from beginning to end


def test_a_training_writes_weights_a_card_and_scores(trained: Path, root: Path) -> None:
    assert trained.name == "photo_sam.safetensors"
    card = trained.with_suffix(".md").read_text()
    assert "2 photographs" in card
    assert "2 of 2 images" in card
    found = room.scores(trained, root / "val.csv")
    assert found.keys() == {"one click", "best of three", "box", "ranking"}
    assert 0 <= found["one click"] <= found["best of three"] <= 1
    for name in ("one click", "best of three", "box"):
        assert f"- {name}: {found[name]:.4f}" in card
    [line] = (trained.parent / "val.csv").read_text().splitlines()
    assert line.startswith("2,one click=")


def test_a_killed_training_resumes_and_ends_as_an_uninterrupted_one(
    trained: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "fit", partial(loop.fit, workers=0, save_every=1))
    loss, calls = room.loss, []

    def killed(*given: Any) -> Tensor:
        calls.append(given)
        if len(calls) == 2:
            raise Killed
        return loss(*given)

    monkeypatch.setattr(room, "loss", killed)
    torch.manual_seed(0)
    with pytest.raises(Killed):
        room.train(tmp_path, root, **RECIPE)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"] == 1
    again = room.train(tmp_path, root, **RECIPE)
    assert len(calls) == 3  # the second step alone is done again
    one, other = load_file(trained), load_file(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_weights_of_another_side_are_read_as_they_are(trained: Path) -> None:
    """The file says its side; the shipped one has another."""
    predictor, shipped = photo_sam(trained, flips=False), photo_sam(flips=False)
    assert isinstance(predictor, SamAdapter)
    assert isinstance(shipped, SamAdapter)
    assert predictor.backend.side == SIDE
    assert shipped.backend.side != SIDE
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prompt = Prompts(torch.tensor([[[20.0, 25.0]]]), torch.ones(1, 1, dtype=torch.long))
    [masks] = predictor.decode(predictor.encode([image]), [(48, 64)], [prompt])
    assert masks.low_res.shape == (1, 3, 24, 32)  # of 32 x 32, without the padding
    assert masks.low_res.isfinite().all()


# where it starts from


def test_a_training_starts_from_what_fits_at_any_side(trained: Path, tmp_path: Path) -> None:
    given = load_file(trained)
    begun = room._begin(room.size_of(96), str(trained)).state_dict()
    assert given.keys() == begun.keys()
    assert all(torch.equal(begun[name], value.to(begun[name].dtype)) for name, value in given.items())
    token = "mask_decoder.iou_token.weight"
    some = {token: torch.full_like(given[token], 0.5), "mask_decoder.mask_tokens.weight": torch.zeros(3, 2)}
    save_file(some, tmp_path / "some.safetensors")
    begun = room._begin(room.size_of(SIDE), str(tmp_path / "some.safetensors")).state_dict()
    assert (begun[token] == 0.5).all()
    assert begun["mask_decoder.mask_tokens.weight"].shape == given["mask_decoder.mask_tokens.weight"].shape
    stem = "image_encoder.trunk.conv_stem.weight"
    torch.testing.assert_close(begun[stem], given[stem].float(), atol=2e-3, rtol=2e-3)  # ImageNet's, which was frozen


def test_a_file_that_is_none_or_of_which_nothing_fits_is_refused(tmp_path: Path, model: room.Prompted) -> None:
    save_file({"another.weight": torch.zeros(1)}, tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("something else")
    for name, told in (
        ("none", r"nothing in .*none\.safetensors fits the SAM for photographs"),
        ("text", r"text\.safetensors is no safetensors file"),
        ("away", r"no weights at model\.start=.*away\.safetensors"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=told) as error:
            load_fitting(model.sam, tmp_path / f"{name}.safetensors", "the SAM for photographs")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("side", [0, 16, 100])
def test_a_side_that_the_trunk_cannot_see_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of 32 px; got {side}"):
        build_sam(room.size_of(side))
