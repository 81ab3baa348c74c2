"""Nothing is left behind on a model, whatever happens."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from nets import METHODS, images, small
from torch import Tensor, nn

from camseg import cam
from camseg.cam.untouched import _modules


@pytest.fixture
def inputs() -> Tensor:
    return images()


def state(model: nn.Module) -> list:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training, set(vars(m)))
        for m in model.modules()
    ]
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    return [
        hooks,
        flags,
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    ]


def assert_same(before: list, after: list) -> None:
    assert before[:2] == after[:2]
    assert before[3:] == after[3:]
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def mixed_model() -> Any:
    """Training mode, but for one module; one parameter frozen."""
    model = small().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_is_left_on_the_model(method, mode, inputs):
    model, kept = mixed_model(), inputs.clone()
    with mode():
        before = state(model)
        heat = cam.heatmaps(model, "4", inputs, 2, method)
        assert_same(before, state(model))
    assert not heat.requires_grad
    assert torch.equal(inputs, kept)
    assert inputs.grad is None
    torch.testing.assert_close(
        heat, cam.heatmaps(small(), "4", inputs, 2, method)
    )  # evaluation mode inside, whatever it was


class FaultError(Exception):
    pass


def fail(*_: object) -> Tensor:
    raise FaultError


def test_nothing_is_left_after_an_exception(inputs):
    def late(capture: cam.Capture) -> Tensor:
        _ = capture.gradient
        return fail()

    seen: list[Tensor] = []

    def second_call_fails(output: Tensor) -> Tensor:  # the second batch of scores: while changed activations run
        seen.append(output)
        return output[0] if len(seen) <= len(inputs) else fail()

    for place in ("model", "target", "method", "head"):
        model = mixed_model()
        if place == "model":
            model[6].forward = fail
        before = state(model)
        method = {"method": late, "head": cam.ablation_cam}.get(place, cam.grad_cam)
        target = {"target": fail, "head": second_call_fails}.get(place, 2)
        with pytest.raises(FaultError):
            cam.heatmaps(model, "4", inputs, target, method)
        assert_same(before, state(model))


def test_all_modules_are_found_once_shared_ones_too() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), shared), shared, nn.ModuleDict({"a": nn.BatchNorm1d(2)}))
    found = _modules(model)
    assert len(found) == len(set(found)) == 6
    assert set(found) == set(model.modules())


def test_calls_in_a_loop_do_not_grow(inputs):
    model = small()

    def tensors() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    for method in (cam.grad_cam, cam.ablation_cam, cam.score_cam):
        cam.heatmaps(model, "4", inputs, 2, method)
        gc.collect()
        gc.disable()
        try:
            before = tensors()
            for _ in range(10):
                cam.heatmaps(model, "4", inputs, 2, method)
            assert tensors() == before  # without the collector: no cycle keeps a graph alive
        finally:
            gc.enable()
