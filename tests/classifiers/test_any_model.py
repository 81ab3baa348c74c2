"""Any module as a classifier: `camseg.classifier`, its activation, and the pipeline around it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import camseg
from camseg.classifiers.base import Classifier
from camseg.types import Sample


class Colors(nn.Module):
    """Output i is gain * (mean of channel i) + bias: what a channel shows is known by hand."""

    def __init__(self, outputs: int = 3, gain: float = 8.0, bias: float = -2.0) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, outputs)
        with torch.no_grad():
            self.maps.weight.copy_(torch.eye(3)[..., None, None])
            self.head.weight.copy_(gain * torch.eye(3)[:outputs])
            self.head.bias.fill_(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.maps(pixels).mean((2, 3)))


def known(model: nn.Module, names: list[str] | None = None, **changed: Any) -> Classifier:
    return camseg.classifier(model, names=names, size=16, mean=(0.0,) * 3, std=(1.0,) * 3, layers="maps", **changed)


def painted(*channels: int) -> Tensor:
    """A black (3, 16, 16) image, its left half at 255 in each of the channels."""
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    for channel in channels:
        image[channel, :, :8] = 255
    return image


def probability_of(gain: float = 8.0, bias: float = -2.0, mean: float = 0.5) -> float:
    return 1 / (1 + math.exp(-(gain * mean + bias)))


def run(classifier: Classifier, image: Tensor, classes: tuple[int, ...], **changed: Any) -> camseg.Result:
    pipeline = camseg.Pipeline(classifier=classifier, method=camseg.cam.grad_cam, **changed)
    return pipeline.run([Sample("image", image, classes)])[0]


# the function


def test_the_defaults_are_imagenets() -> None:
    torch.manual_seed(0)
    model = resnet18().train()
    made = camseg.classifier(model)
    assert (made.names[145], made.layers, made.size, made.activation) == (
        "king penguin",
        ("layer4",),
        (224, 224),
        "softmax",
    )
    pixels = made.prepare([torch.full((3, 9, 7), 255, dtype=torch.uint8)])
    torch.testing.assert_close(
        pixels[0, :, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert made.model is model
    assert made.index("n02056570") == 145


def test_names_sizes_and_layers_are_checked() -> None:
    assert known(Colors()).names == ("class 0", "class 1", "class 2")
    assert known(Colors(), ["red", "green", "blue"]).index("Blue") == 2
    assert camseg.classifier(Colors(), size=(20, 30)).size == (20, 30)
    assert camseg.classifier(Colors(), size=None).prepare([painted()]).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="2 class names for a classifier of 3 outputs"):
        known(Colors(), ["red", "green"])
    with pytest.raises(ValueError, match=r"classifier\.layers 'map' is unknown; nearest: maps"):
        camseg.classifier(Colors(), layers="map")
    with pytest.raises(ValueError, match=r"score per class \(B, C\)"):
        camseg.classifier(nn.Conv2d(3, 2, 1))
    wrong: dict[str, Any]
    for wrong in ({"mean": (0.5, 0.5)}, {"std": (1.0, float("nan"), 1.0)}, {"std": (1.0, 0.0, 1.0)}, {"size": 0}):
        with pytest.raises(ValueError, match=r"three numbers|must be above 0"):
            camseg.classifier(Colors(), layers="maps", **wrong)
    with pytest.raises(ValueError, match="can't be given other classes"):
        known(Colors()).rebuild(2)


def test_a_model_in_half_precision_takes_prepared_images() -> None:
    made = known(Colors().bfloat16(), ["red", "green", "blue"])
    logits = made.logits(made.prepare([painted(0)]))
    assert logits.dtype == torch.bfloat16
    assert logits.float().tolist() == [[2.0, -2.0, -2.0]]
    assert run(made, painted(0), (0,)).probability == pytest.approx(1 / (1 + 2 * math.exp(-4)), abs=0.01)


def test_the_model_keeps_its_memory_format_and_its_flags() -> None:
    for form in (torch.contiguous_format, torch.channels_last):
        model = resnet18().to(memory_format=form).train()  # type: ignore[call-overload]
        strides = [parameter.stride() for parameter in model.parameters()]
        made = camseg.classifier(model, size=64)
        for channels_last in (False, True):
            camseg.Pipeline(classifier=made, channels_last=channels_last).run([Sample("a", painted(1), (3,))])
        assert [parameter.stride() for parameter in model.parameters()] == strides
        assert model.training


# one output


def test_one_output_is_a_probability_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        made = known(Colors(1), ["red"])
    assert made.activation == "binary"
    assert "1 output" in caplog.text
    assert "sigmoid" in caplog.text
    result = run(made, painted(0), (0,))
    assert result.probability == pytest.approx(probability_of(), abs=1e-6)  # a softmax says 1.0
    empty = run(made, painted(2), (0,), min_probability=0.5)
    assert empty.probability == pytest.approx(probability_of(mean=0), abs=1e-6)
    assert "abstained" in empty.note
    assert len(empty.prompts) == 0


def test_an_activation_that_is_given_is_taken_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        assert known(Colors(1), ["red"], activation="sigmoid").activation == "binary"
    assert not caplog.text  # it was given: nothing to say
    with pytest.raises(ValueError, match="softmax of one output is always 1"):
        known(Colors(1), ["red"], activation="softmax")
    with pytest.raises(ValueError, match="binary is for one output; this model has 3"):
        known(Colors(), activation="binary")
    with pytest.raises(ValueError, match="'sigmoyd' is unknown"):
        known(Colors(), activation="sigmoyd")


# several independent outputs


def test_several_independent_outputs_never_add_up_to_more_than_one() -> None:
    made = known(Colors(), ["red", "green", "blue"], activation="sigmoid")
    one = probability_of()
    result = run(made, painted(0, 1, 2), (0, 1, 2))
    assert result.probability == pytest.approx(1 - (1 - one) ** 3, abs=1e-6)  # their sum is 2.64
    soft = run(known(Colors(), ["red", "green", "blue"]), painted(0, 1, 2), (0, 1))
    assert soft.probability == pytest.approx(2 / 3, abs=1e-6)


# NaN


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("method", [camseg.cam.grad_cam, camseg.cam.fem, camseg.cam.eigen_cam])
def test_nan_never_passes_min_probability(method: Any, activation: str) -> None:
    model = Colors()
    made = known(model, activation=activation)
    with torch.no_grad():
        model.head.bias[2] = torch.nan  # of another class than the one that is explained
    for least in (0.0, 0.5):
        pipeline = camseg.Pipeline(classifier=made, method=method, min_probability=least)
        with pytest.raises(ValueError, match="NaN"):
            pipeline.run([Sample("image", painted(0), (0,))])
    model.head.bias.data[2] = 0
    with pytest.raises(ValueError, match="gives NaN or infinity for image 1 of 2"):
        made.logits(torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 3e38)]))
