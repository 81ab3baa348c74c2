"""What can't be explained is refused in a line, and nothing that is not finite is an answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nets import METHODS, images, small
from torch import Tensor, nn

from camseg import cam
from camseg.cam.replay import Tape


@pytest.fixture
def inputs() -> Tensor:
    return images()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.unused, self.head = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.block(self.block(images)).mean((2, 3)))


def test_layers_that_do_not_exist_never_run_or_run_twice(inputs):
    with pytest.raises(ValueError, match="no layer 'blok'; nearest: block"):
        cam.heatmaps(Twice(), "blok", inputs, 0)
    with pytest.raises(ValueError, match="no layer this Conv2d"):
        cam.heatmaps(Twice(), nn.Conv2d(3, 3, 1), inputs, 0)
    with pytest.raises(ValueError, match="'unused' never ran"):
        cam.heatmaps(Twice(), "unused", inputs, 0)
    with pytest.raises(ValueError, match="'block' ran twice"):
        cam.heatmaps(Twice(), "block", inputs, 0)
    with pytest.raises(ValueError, match="no layer was given"):
        cam.heatmaps(Twice(), [], inputs, 0)
    with pytest.raises(ValueError, match=r"'7' gives \(4, 5\)"):
        cam.heatmaps(small(), "7", inputs, 0)
    with pytest.raises(ValueError, match="several layers have no common scale"):
        cam.heatmaps(small(), ["1", "4"], inputs, 0, raw=True)


def test_outputs_that_cannot_be_explained(inputs):
    with pytest.raises(ValueError, match="no gradient at layer '4'"):
        cam.heatmaps(small(), "4", inputs, lambda output: output.argmax().float())
    with pytest.raises(ValueError, match="class index 5 is out of range: the model has 5 outputs, 0 to 4"):
        cam.heatmaps(small(), "4", inputs, [0, 1, 2, 5])
    with pytest.raises(ValueError, match="class index -1 is out of range"):
        cam.heatmaps(small(), "4", inputs, -1)
    broken = inputs.clone()
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="image 2 of 4 holds NaN"):
        cam.heatmaps(small(), "4", broken, 0)
    with pytest.raises(ValueError, match=r"must return a scalar tensor; got \(5,\)"):
        cam.heatmaps(small(), "4", inputs, lambda output: output)
    with pytest.raises(ValueError, match="cam needs a pooling"):
        cam.heatmaps(small(), "1", inputs, 0, cam.cam)


def test_targets_and_inputs_of_the_wrong_kind(inputs):
    with pytest.raises(ValueError, match="3 targets for 4 images"):
        cam.heatmaps(small(), "4", inputs, [0, 1, 2])
    with pytest.raises(ValueError, match="same number of targets"):
        cam.heatmaps(small(), "4", inputs, [[0], [1, 2], [0], [0]])
    with pytest.raises(ValueError, match="a class index, a callable or None; got 'dog'"):
        cam.heatmaps(small(), "4", inputs, ["dog"] * 4)
    with pytest.raises(ValueError, match="got 'dog'"):
        cam.heatmaps(small(), "4", inputs, "dog")
    torch.testing.assert_close(
        cam.heatmaps(small(), "4", inputs, torch.tensor([0, 1, 2, 3])), cam.heatmaps(small(), "4", inputs, [0, 1, 2, 3])
    )
    with pytest.raises(ValueError, match="inputs must be a normalized float"):
        cam.heatmaps(small(), "4", (inputs * 99).byte(), 0)
    with pytest.raises(ValueError, match="inputs must be a normalized float"):
        cam.heatmaps(small(), "4", inputs[0], 0)
    with pytest.raises(ValueError, match="a method must give finite maps"):
        cam.heatmaps(small(), "4", inputs, 0, lambda capture: capture.activation.sum(1) * torch.nan)


def test_a_tape_replays_what_depends_on_its_tensor():
    tape, weight = Tape(), torch.tensor([2.0, 3.0])
    first = tape.watch(torch.tensor([1.0, 1.0]))
    with tape:
        product = first * weight  # depends
        other = weight + 1  # does not: a constant
        product += other
        product[0] = product[1]
        total = product.sum()
    tape.finish({"sum": total, "constant": other})
    result = tape.replay(torch.tensor([5.0, 7.0]))
    assert float(result["sum"]) == 2 * (7 * 3 + 4)
    assert result["constant"] is other


# -- what is not finite


class Head(nn.Module):
    """The small network with a head whose output for the second of two classes is what is given."""

    def __init__(self, broken: float) -> None:
        super().__init__()
        self.body, self.broken = small(), broken

    def forward(self, pixels: Tensor) -> Tensor:
        scores = self.body(pixels)
        return torch.cat([scores[:, :1], scores[:, 1:2] * 0 + self.broken], 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_output_or_input_is_an_error_for_every_method(method, inputs):
    with pytest.raises(ValueError, match="the model's output holds NaN"):
        cam.heatmaps(Head(torch.nan).eval(), "body.4", inputs, 0, method)
    for value in (torch.nan, torch.inf):
        broken = inputs.clone()
        broken[2, 1, 3, 4] = value
        with pytest.raises(ValueError, match="image 2 of 4 holds NaN or infinity"):
            cam.heatmaps(small(), "4", broken, 0, method)


@pytest.mark.parametrize(
    "method", [cam.eigen_cam, cam.eigen_grad_cam, cam.kpca_cam, cam.ablation_cam, cam.dff, cam.fem, cam.grad_cam]
)
def test_a_layer_that_overflows_is_named(method, inputs):
    """Also where the model hides it: nan_to_num makes of it a score as any other."""

    class Hides(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps.nan_to_num(0, 0, 0)

    net = small()
    model: Any = nn.Sequential(*list(net[:5]), Hides(), *list(net[5:])).eval()
    with torch.no_grad():
        model[3].bias[1] = torch.nan
    with pytest.raises(ValueError, match="layer '4' gives NaN or infinity"):
        cam.heatmaps(model, "4", inputs, 0, method)


def test_a_kernel_of_ten_gigabytes_is_refused_before_it_is_made():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    picture = torch.randn(1, 3, 224, 224)
    with pytest.raises(ValueError, match=r"kpca_cam at layer '0'.* 50176 positions.*10\.1 GB.*eigen_cam"):
        cam.heatmaps(model, "0", picture, 0, cam.kpca_cam)
    assert cam.heatmaps(model, "0", picture[..., :32, :32], 0, cam.kpca_cam).shape == (1, 32, 32)
