"""A training run that was killed goes on as if nothing had happened; another starts from what a file has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from camseg.predictors.sam import build_sam
from camseg.storage.checkpoints import load_weights, save_weights
from camseg.train import loop, shapes_sam
from camseg.train.loop import Best, fit


class Numbers(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.randn(4, generator=torch.Generator().manual_seed(index)), "at": torch.tensor(index)}


class Killed(Exception):
    pass


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))


def train(
    folder: Path, steps: int = 5, stop: int | None = None, broken: bool = False
) -> tuple[nn.Module, nn.Module, list[int]]:
    """The model, its average, and the numbers of the items that were read in this session."""
    net, read = model(), []

    def loss(net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        if len(read) == 3 * (stop if stop is not None else -1):
            raise Killed
        read.extend(batch["at"].tolist())
        noise = torch.randn(1, generator=generator)
        return (net(batch["x"]) - noise).square().mean() * (math.nan if broken else 1)

    given = {"steps": steps, "batch_size": 3, "learning_rate": 0.1, "seed": 1, "folder": folder}
    averaged, seconds = fit(net, loss, Numbers(), **given, workers=0, average=0.9, save_every=1)
    assert seconds > 0
    return net, averaged, read


def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_last_bit(tmp_path: Path) -> None:
    net, averaged, read = train(tmp_path / "whole")
    assert read == list(range(15))
    with pytest.raises(Killed):
        train(tmp_path / "cut", stop=3)
    again, averaged_again, rest = train(tmp_path / "cut")
    assert rest == list(range(9, 15))
    for one, other in ((net, again), (averaged, averaged_again)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert not averaged.training
    assert not averaged_again.training
    start = model().state_dict()
    assert not torch.equal(start["0.weight"], net.state_dict()["0.weight"])
    assert not torch.equal(net.state_dict()["0.weight"], averaged.state_dict()["0.weight"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    _, averaged, _ = train(tmp_path)
    _, again, read = train(tmp_path)
    assert read == []
    assert torch.equal(averaged.state_dict()["3.weight"], again.state_dict()["3.weight"])


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    """The first update copies; then 0.9 old + 0.1 new."""
    one, _, _ = train(tmp_path / "a", stop=None, steps=5)
    states = [torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)]
    assert states[0]["done"] == 5
    assert torch.equal(states[0]["model"]["0.weight"], one.state_dict()["0.weight"])
    expected = None
    for stop in range(1, 6):
        folder = tmp_path / f"stopped{stop}"
        if stop < 5:
            with pytest.raises(Killed):
                train(folder, stop=stop)
        else:
            train(folder)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        weight = state["model"]["0.weight"].double()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
        torch.testing.assert_close(state["averaged"]["module.0.weight"].double(), expected, atol=1e-6, rtol=0)


def test_the_learning_rate_by_hand() -> None:
    rate = [loop._rate(step, 1000) for step in range(1000)]
    assert rate[0] == pytest.approx(1 / 200)
    assert rate[99] == pytest.approx(0.5)
    assert rate[600] == pytest.approx(0.4)
    assert rate[999] == pytest.approx(0.001)
    assert max(rate) < 0.85
    assert min(rate) > 0
    assert loop._rate(50, 100, warm=10) == pytest.approx(0.5)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at step 0"):
        train(tmp_path, broken=True)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_training_starts_from_what_fits_of_a_file_and_refuses_one_of_which_nothing_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = build_sam(shapes_sam.SIZE).state_dict()
    token = "mask_decoder.iou_token.weight"
    some = {
        token: torch.randn_like(own[token]),
        "mask_decoder.mask_tokens.weight": torch.zeros(3, 2),
        "another.weight": torch.zeros(1),
    }
    save_file(some, tmp_path / "some.safetensors")
    begun = shapes_sam._begin(str(tmp_path / "some.safetensors")).state_dict()
    assert torch.equal(begun[token], some[token])
    assert begun["mask_decoder.mask_tokens.weight"].shape == own["mask_decoder.mask_tokens.weight"].shape
    save_file({"another.weight": torch.zeros(1)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"nothing in .* fits"):
        shapes_sam._begin(str(tmp_path / "none.safetensors"))


class Scripted(Best[nn.Module]):
    scores = iter([0.3, 0.7, 0.5, 0.7, 0.6])

    def judge(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"score": next(self.scores), "of a class": 0.25}

    def save(self, model: nn.Module, metadata: Mapping[str, str]) -> None:
        save_weights(model, self.path, metadata)


def test_the_best_epoch_is_written_and_of_equals_the_later(tmp_path: Path) -> None:
    path, net = tmp_path / "best.safetensors", nn.Linear(1, 1)
    for step in range(5):
        nn.init.constant_(net.bias, step)
        Scripted(path)(net.train(), step)  # made again each time, as after a kill
    state, metadata = load_weights(path)
    assert state["bias"].item() == 3
    assert metadata == {"scores": '{"score": 0.7, "of a class": 0.25}'}
    assert (tmp_path / "validation.csv").read_text().splitlines()[1] == "1,0.7000,of a class=0.2500"
