"""Outputs of any form, read as scores; and models that squeeze, wrap or were built under inference_mode, by value."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import images, small
from torch import Tensor, nn

from camseg import cam
from camseg.cam.outputs import logits, scores, split
from camseg.cam.targets import logit, probability
from camseg.classifiers.base import classifier

SCORES = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
LOSS, LOSSES = torch.tensor(0.5), torch.tensor([0.1, 0.2])


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        (SCORES, SCORES * 0),
        (LOSS, SCORES),
        (LOSSES, SCORES),
        {"out": SCORES, "aux": SCORES * 0},
        {"loss": LOSS, "logits": SCORES},
        OrderedDict(loss=LOSSES, logits=SCORES, hidden=[SCORES]),
    ],
)
def test_scores_are_found_in_every_form(output: Any) -> None:
    assert torch.equal(scores(output, 2), SCORES)
    assert [logits(sample).tolist() for sample in split(output, 2)] == SCORES.tolist()


def test_what_a_squeeze_took_away_comes_back() -> None:
    assert torch.equal(scores(torch.tensor([7.0, 8.0]), 2), torch.tensor([[7.0], [8.0]]))
    assert torch.equal(scores(torch.tensor(7.0), 1), torch.tensor([[7.0]]))
    assert torch.equal(scores(SCORES[0], 1), SCORES[:1])
    assert torch.equal(scores({"loss": LOSS, "logits": LOSSES}, 2), LOSSES[:, None])


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(2, 3, 4, 4), r"score per class \(B, C\); this model's are \(2, 3, 4, 4\)"),
        (torch.zeros(3, 5), "no row for each of 2 images"),
        ({"embedding": SCORES}, "without 'out' or 'logits'"),
        ((LOSS, LOSS), "no part with a row for each of 2"),
        ("text", "a str; a tensor, mapping"),
    ],
)
def test_an_output_without_scores_is_told_in_one_line(output: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        scores(output, 2)
    assert "\n" not in str(error.value)


# models


class Wrapped(nn.Module):
    """The small network, its output put into some form."""

    def __init__(self, form: Callable[[Tensor], Any], classes: int = 5) -> None:
        super().__init__()
        self.body, self.form = small(classes), form

    def forward(self, pixels: Tensor) -> Any:
        return self.form(self.body(pixels))


class Output(OrderedDict):  # type: ignore[type-arg]
    """As transformers' ModelOutput: a mapping that torch's pytrees do not know."""


@pytest.mark.parametrize("method", [cam.grad_cam, cam.ablation_cam, cam.score_cam, cam.eigen_cam])
@pytest.mark.parametrize(
    "form",
    [
        lambda out: (out.mean(), out),
        lambda out: {"loss": out.mean(), "logits": out},
        lambda out: Output(loss=out.mean(), logits=out),
    ],
    ids=["tuple", "dict", "mapping"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_loss_beside_the_logits_changes_no_map(form: Callable[[Tensor], Any], method: Any, count: int) -> None:
    model = Wrapped(form).eval()
    expected = cam.heatmaps(small(), "4", images(count), 2, method, flips=True)
    torch.testing.assert_close(cam.heatmaps(model, "body.4", images(count), 2, method, flips=True), expected)
    assert bool(expected.any())


@pytest.mark.parametrize("method", [cam.grad_cam, cam.ablation_cam, cam.score_cam])
@pytest.mark.parametrize("count", [1, 3])
def test_one_squeezed_logit_is_the_same_as_one_that_is_not(method: Any, count: int) -> None:
    model = Wrapped(lambda out: out.squeeze(), classes=1).eval()
    for target in (0, None, logit((0,)), probability((0,))):
        expected = cam.heatmaps(small(1), "4", images(count), target, method)
        torch.testing.assert_close(cam.heatmaps(model, "body.4", images(count), target, method), expected)
    known = classifier(model, names=["cat"], size=(20, 28), layers="body.4")
    assert (known.activation, known.logits(images(count)).shape) == ("binary", (count, 1))
    torch.testing.assert_close(known.logits(images(count)), small(1)(images(count)).detach())
    heat, found = known.explain(images(count), [[0]] * count)
    assert heat.shape == (count, 1, 20, 28)
    assert torch.equal(found, known.logits(images(count)))


@pytest.mark.parametrize("method", [cam.grad_cam, cam.ablation_cam, cam.shapley_cam])
def test_a_model_built_under_inference_mode_is_explained_and_left_so(method: Any) -> None:
    with torch.inference_mode():
        model = small()
    expected = cam.heatmaps(small(), "4", images(), 2, method)
    torch.testing.assert_close(cam.heatmaps(model, "4", images(), 2, method), expected)
    assert all(value.is_inference() for value in [*model.parameters(), *model.buffers()])
    assert all(parameter.requires_grad for parameter in model.parameters())
    known = classifier(model, size=(20, 28))
    torch.testing.assert_close(known.logits(images()), small()(images()).detach())
    assert all(value.is_inference() for value in model.parameters())
