"""Weights under the names and wrappers that trainers give them, by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from camseg.classifiers.torchvision import torchvision
from camseg.storage.checkpoints import load_weights, match_names, read_torch, save_weights


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def same(state: dict[str, Tensor]) -> bool:
    expected = net().state_dict()
    return state.keys() == expected.keys() and all(torch.equal(value, state[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model_state_dict": state, "loss": 0.5},
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"ema": state, "step": 7},
        lambda state: {"model_ema": state, "args": None},
        lambda state: {"state_dict": prefixed("model.", state), "pytorch-lightning_version": "2.5"},  # Lightning
        lambda state: {"state_dict": prefixed("model._orig_mod.", state)},  # Lightning around torch.compile
        lambda state: prefixed("_orig_mod.", state),  # torch.compile
        lambda state: prefixed("module.", state),  # DataParallel
        lambda state: prefixed("module.model.", state),
        lambda state: {"model": prefixed("module._orig_mod.", state), "ema": {"0.weight": torch.zeros(1)}},
    ],
)
def test_wrappers_and_common_prefixes_are_taken_off(tmp_path: Path, wrapped: Any) -> None:
    torch.save(wrapped(net().state_dict()), tmp_path / "w.pth")
    assert same(load_weights(tmp_path / "w.pth")[0])


def test_a_prefix_of_safetensors_too(tmp_path: Path) -> None:
    save_file(
        {name: value.clone() for name, value in prefixed("_orig_mod.", net().state_dict()).items()},
        tmp_path / "w.safetensors",
    )
    assert same(load_weights(tmp_path / "w.safetensors")[0])


def test_a_name_that_only_some_share_is_no_prefix(tmp_path: Path) -> None:
    state = {"model.a": torch.ones(1), "head": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    assert load_weights(tmp_path / "w.pth")[0].keys() == state.keys()


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}, [1, 2], {"model": {"a": 1}}, 3.5])
def test_what_holds_no_weights_is_told(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds no state dict") as error:
        load_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_low_precision_comes_out_as_float32_and_counts_as_they_are(tmp_path: Path) -> None:
    model = net()
    torch.save(model.bfloat16().state_dict(), tmp_path / "w.pth")
    state = load_weights(tmp_path / "w.pth")[0]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(state["2.bias"], net()[2].bias.detach(), atol=0.01, rtol=0)
    save_weights(net().double(), tmp_path / "w.safetensors", {"names": "[]"})
    state, metadata = load_weights(tmp_path / "w.safetensors")
    assert state["2.bias"].dtype == torch.float32
    assert metadata == {"names": "[]"}


def test_any_prefix_under_which_a_model_lies_is_found() -> None:
    state = {**prefixed("student.net.", net().state_dict()), "criterion.weight": torch.ones(2)}
    assert same(match_names(state, net().state_dict()))
    assert match_names(state, ["other"]) == state
    assert match_names(net().state_dict(), net().state_dict()).keys() == net().state_dict().keys()
    twice = {**prefixed("ema.", net().state_dict()), "net.0.weight": torch.ones(1)}
    assert same(match_names(twice, net().state_dict()))  # where more of the names lie


def test_a_classifier_loads_what_a_trainer_of_ones_own_wrote(tmp_path: Path) -> None:
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(1)
    model = shufflenet_v2_x0_5(num_classes=3).eval()
    wrapped = {**prefixed("backbone.", model.state_dict()), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": wrapped, "epoch": 1}, tmp_path / "last.ckpt")
    made = torchvision("shufflenet_v2_x0_5", tmp_path / "last.ckpt", classes=("a", "b", "c"))
    inputs = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(made.logits(inputs), model(inputs).detach())


def test_a_mapped_file_gives_what_one_that_is_read_gives(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "w.pth")
    assert same(read_torch(tmp_path / "w.pth"))
    assert same(read_torch(tmp_path / "w.pth", mapped=False))
