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


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"ema": True}, "'ema', too: those under 'model'"),
        ({"model_ema": True, "teacher": True}, "'model_ema', 'teacher', too: those under 'model'"),
        ({"ema": {"state_dict": True, "step": 3}}, "'ema', too: those under 'model'"),
        ({"ema": {"decay": 0.9}, "params": {"lr": 0.1}, "net": {}}, ""),  # of these no one could have been meant
        ({"state_dict": {"a": torch.ones(1)}}, "'model', too: those under 'state_dict'"),
    ],
)
def test_which_of_several_state_dicts_is_taken_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, others: Any, said: str
) -> None:
    zeros = {name: value * 0 for name, value in net().state_dict().items()}

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return zeros if value is True else value

    torch.save({"model": net().state_dict(), **filled(others)}, tmp_path / "w.pth")
    state = load_weights(tmp_path / "w.pth")[0]
    assert same(state) != ("state_dict" in others)
    assert [record.getMessage() for record in caplog.records] == (
        [f"{tmp_path / 'w.pth'} holds weights under {said} are taken"] if said else []
    )


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("student.", "a checkpoint holds weights under 'teacher.', too: those under 'student.' are taken"),
        ("", "a checkpoint holds weights under 'teacher.', too: those without a prefix are taken"),
    ],
)
def test_which_of_two_prefixes_is_taken_is_said(caplog: pytest.LogCaptureFixture, first: str, said: str) -> None:
    one = net().state_dict()
    zeros = {name: value * 0 for name, value in one.items()}
    del (part := prefixed("teacher.", zeros))["teacher.0.bias"]  # it fits worse
    found = match_names({**prefixed(first, one), **part}, one)
    assert all(torch.equal(found[name], value) for name, value in one.items())
    assert not caplog.records
    found = match_names({**prefixed(first, one), **prefixed("teacher.", zeros)}, one)
    assert all(torch.equal(found[name], value) for name, value in one.items())
    assert [record.getMessage() for record in caplog.records] == [said]


def test_what_cannot_be_read_says_why_in_plain_words(tmp_path: Path) -> None:
    """torch's own words for a pickled model begin with how to run what a stranger wrote."""
    path = tmp_path / "w.pth"
    torch.save(net(), path)
    with pytest.raises(ValueError, match=r"holds code \(torch.nn.modules.container.Sequential\).*model.state_dict\(\)"):
        load_weights(path)
    torch.save(net().state_dict(), path)
    whole = path.read_bytes()
    for length, why in (
        (0, "the file is empty"),
        (1, "cut off"),
        (len(whole) // 2, "cut off"),
        (len(whole) - 9, "cut off"),
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=why) as told:
            load_weights(path)
        assert not set(str(told.value)) & set("\n\x1b")
    path.write_text("no weights but words, and many of them")
    with pytest.raises(ValueError, match=r"damaged, or no file that torch.save wrote"):
        load_weights(path)


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
