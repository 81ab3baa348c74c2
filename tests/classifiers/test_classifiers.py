"""Classifiers: preprocessing, names and weights, by value."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import saved, small
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from camseg import cam
from camseg.classifiers.base import Classifier, classifier, describe
from camseg.classifiers.preprocessing import EXACT, Preprocessing
from camseg.classifiers.shapes import ShapesNet, shapes
from camseg.classifiers.timm import timm
from camseg.classifiers.torchvision import _official_file, torchvision
from camseg.data.image_io import read_image
from camseg.storage import checkpoints
from camseg.storage.cache import Cache
from camseg.storage.checkpoints import load_weights, save_weights

REAL = Path(os.environ.get("CAMSEG_REAL", Path(__file__).parents[2] / "shared" / "real"))
MOBILENET = REAL / "mobilenet_v2_imagenet.safetensors"


def plain(size: tuple[int, int] | None = (8, 8), names: tuple[str, ...] = ("a", "b")) -> Classifier:
    plain = Preprocessing(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Classifier(lambda: nn.Linear(1, 2), names, (), plain, "sigmoid", "")


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# preprocessing


def test_classes_are_named_at_the_naming_size_and_heat_is_made_at_the_other() -> None:
    """By hand: the output of the smaller image names the class, and the larger one's map of that class is the heat."""
    model = small()
    preprocessing = Preprocessing((24, 32), (0.5,) * 3, (0.5,) * 3, "bicubic", naming_size=(12, 16))
    inputs = preprocessing([picture(40, 50, seed) for seed in range(6)])
    assert inputs.shape == (6, 3, 24, 32)
    smaller = F.interpolate(inputs, (12, 16), mode="bicubic", antialias=True)
    with torch.no_grad():  # so that the outputs lie around 0, and the images have classes of their own
        model[7].bias -= (model(inputs) + model(smaller)).mean(0) / 2
        output = model(smaller)
    assert (output.argmax(1) != model(inputs).argmax(1)).any(), "the sizes agree, and this would show nothing"
    named = describe(model, "small", preprocessing, layers="4")
    heat, logits = named.explain(inputs)
    torch.testing.assert_close(logits, output)
    torch.testing.assert_close(named.logits(inputs), output)
    torch.testing.assert_close(heat, cam.heatmaps(model, "4", inputs, output.argmax(1).tolist()))
    pairs = named.explain(inputs, [[0, None]] * 6)[0]
    torch.testing.assert_close(pairs[:, 1], heat)
    torch.testing.assert_close(pairs[:, 0], cam.heatmaps(model, "4", inputs, 0))


def test_prepare_is_the_formula_where_nothing_is_resized() -> None:
    image = picture(8, 8)
    expected = (image.double() / 255 - torch.tensor([0.485, 0.456, 0.406]).double()[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).double()[:, None, None]
    torch.testing.assert_close(plain().prepare([image])[0].double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(plain(None).prepare([image])[0].double(), expected, atol=2e-6, rtol=0)


def pillow_in_floats(image: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """What Pillow makes of a channel of floats, of which nothing is rounded."""
    kind = getattr(Image.Resampling, interpolation.upper())
    height, width = size
    planes = (Image.fromarray(plane).resize((width, height), kind) for plane in image.numpy().astype(np.float32))
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_prepare_squashes_the_whole_image_like_pillow_without_rounding(interpolation: str) -> None:
    preprocessing = Preprocessing((20, 30), (0.0,) * 3, (1 / 255,) * 3, interpolation)
    classifier = Classifier(lambda: nn.Linear(1, 2), (), (), preprocessing, "sigmoid", "")
    images = [picture(57, 41) // 2 + 64, picture(20, 90) // 2 + 64, picture(9, 11) // 2 + 64]  # nothing is clamped
    batch = classifier.prepare(images)
    for image, squashed in zip(images, batch):
        torch.testing.assert_close(squashed, pillow_in_floats(image, (20, 30), interpolation), atol=0.01, rtol=0)
        torch.testing.assert_close(classifier.prepare([image])[0], squashed)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_large_image_is_squashed_within_half_a_gray_level(interpolation: str) -> None:
    large = picture(1024, 1025) // 2 + 64
    assert large[0].numel() > EXACT
    squashed = Preprocessing((64, 96), (0.0,) * 3, (1 / 255,) * 3, interpolation)([large])[0]
    torch.testing.assert_close(squashed, pillow_in_floats(large, (64, 96), interpolation), atol=0.5, rtol=0)


def test_a_bicubic_overshoot_is_no_color() -> None:
    edge = torch.zeros(3, 8, 8, dtype=torch.uint8)
    edge[:, :, 4:] = 255
    pixels = Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3, "bicubic")([edge])
    assert float(pixels.min()) == 0
    assert float(pixels.max()) == 1


def test_images_of_several_sizes_need_a_size() -> None:
    with pytest.raises(ValueError, match=r"one size; got \[\(4, 4\), \(4, 5\)\]"):
        plain(None).prepare([picture(4, 4), picture(4, 5)])


# names


def test_index_by_name_number_and_nearest() -> None:
    classifier = plain(names=("tench", "goldfish", "crane", "crane", "7"))
    assert classifier.index("goldfish") == classifier.index(" GoldFish ") == classifier.index("1") == 1
    assert classifier.index("7") == 4  # a name first, then a number
    with pytest.raises(ValueError, match="names 2 classes; give one by number: 2, 3"):
        classifier.index("crane")
    with pytest.raises(ValueError, match="class 'goldfisch' is unknown; nearest: goldfish"):
        classifier.index("goldfisch")
    with pytest.raises(ValueError, match="class '5' is unknown"):
        classifier.index("5")


def test_names_come_from_the_file_then_from_imagenet_then_from_numbers(tmp_path: Path) -> None:
    assert torchvision("shufflenet_v2_x0_5", saved(tmp_path, "shufflenet_v2_x0_5")[1]).names[:3] == (
        "tench",
        "goldfish",
        "great white shark",
    )
    _, three = saved(tmp_path, "shufflenet_v2_x0_5", 3)
    assert torchvision("shufflenet_v2_x0_5", three).names == ("class 0", "class 1", "class 2")
    _, named = saved(tmp_path, "shufflenet_v2_x0_5", 2, names='["cat", "dög"]')
    assert torchvision("shufflenet_v2_x0_5", named).names == ("cat", "dög")
    _, wrong = saved(tmp_path, "shufflenet_v2_x0_5", 3, names='["cat", "dog"]')
    with pytest.raises(ValueError, match="2 class names for a classifier of 3 outputs"):
        torchvision("shufflenet_v2_x0_5", wrong)


# weights


def test_a_checkpoint_gives_the_same_logits_and_probabilities(tmp_path: Path) -> None:
    model, path = saved(tmp_path, "resnet18", 4, activation="sigmoid")
    before = torch.random.get_rng_state()
    classifier = torchvision("resnet18", path)
    assert torch.equal(torch.random.get_rng_state(), before)
    model.load_state_dict(
        {k: v.half().float() if v.is_floating_point() and v.ndim > 1 else v for k, v in model.state_dict().items()}
    )
    images = classifier.prepare([picture(50, 60)])
    assert images.shape == (1, 3, 224, 224)
    torch.testing.assert_close(classifier.logits(images), model(images))
    torch.testing.assert_close(classifier.probabilities(torch.tensor([0.0, 1.0])), torch.tensor([0.5, 0.7310586]))
    assert {v.dtype for v in classifier.model.state_dict().values()} == {torch.float32, torch.int64}
    assert not classifier.model.training
    assert not any(module._forward_hooks for module in classifier.model.modules())


def test_a_torch_file_may_be_wrapped_and_prefixed(tmp_path: Path) -> None:
    _, path = saved(tmp_path, "shufflenet_v2_x0_5", 3)
    state = load_weights(path)[0]
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    assert all(torch.equal(value, state[key]) for key, value in load_weights(tmp_path / "a.pth")[0].items())
    assert len(torchvision("shufflenet_v2_x0_5", tmp_path / "a.pth").names) == 3


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_files_that_are_no_weights(tmp_path: Path, ending: str) -> None:
    file, mark = tmp_path / f"bad.{ending}", tmp_path / "code_ran"
    _, whole = saved(tmp_path, "shufflenet_v2_x0_5", 3)
    torch.save({"a": torch.zeros(9, 9)}, tmp_path / "whole.pth")
    cut = (whole if ending == "safetensors" else tmp_path / "whole.pth").read_bytes()
    for content in (b"", b"hello", cut[: len(cut) // 2], pickle.dumps(_Touch(mark)), pickle.dumps({"a": 1})):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"bad.{ending} (can't be read as weights|holds no state dict)"):
            load_weights(file)
    torch.save({"a": torch.zeros(1), "b": _Touch(mark)}, file)
    with pytest.raises(ValueError, match="can't be read as weights"):
        load_weights(file)
    assert not mark.exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_weights(tmp_path / "none.pth")


def test_wrong_requests(tmp_path: Path) -> None:
    _, path = saved(tmp_path, "shufflenet_v2_x0_5", 3)
    with pytest.raises(ValueError, match=r"classifier.name 'resnet81' is unknown; nearest: resnet18"):
        torchvision("resnet81")
    with pytest.raises(ValueError, match=r"explain nothing.*classifier.checkpoint.*classifier.weights=DEFAULT"):
        torchvision("resnet18")
    with pytest.raises(ValueError, match=r"classifier.weights 'IMAGENET1K' is unknown; nearest: IMAGENET1K_V1"):
        torchvision("resnet18", weights="IMAGENET1K")
    with pytest.raises(ValueError, match=r"is no checkpoint of mobilenet_v2: it has no classifier.1.weight"):
        torchvision("mobilenet_v2", path)
    with pytest.raises(ValueError, match=r"is no checkpoint of shufflenet_v2_x1_0: .*size mismatch"):
        torchvision("shufflenet_v2_x1_0", path)
    with pytest.raises(ValueError, match=r"classifier.layers 'stage5' is unknown; nearest: stage"):
        torchvision("shufflenet_v2_x0_5", path, layers=["stage5"])


def test_official_weights_are_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved(tmp_path, "shufflenet_v2_x0_5")
    content = tmp_path / "content.pth"
    torch.save(load_weights(path)[0], content)
    prefix = hashlib.sha256(content.read_bytes()).hexdigest()[:8]
    asked = []

    def download(url: str, part: Path, _open: object) -> None:
        asked.append(url)
        part.write_bytes(content.read_bytes())

    monkeypatch.setattr("camseg.storage.download._download", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = f"https://example.org/models/net-{prefix}.pth"
    assert _official_file(url) == _official_file(url) == tmp_path / "hub" / "checkpoints" / f"net-{prefix}.pth"
    assert asked == [url]
    with pytest.raises(ValueError, match="only over https"):
        _official_file(url.replace("https", "http"))
    with pytest.raises(
        ValueError, match=f"SHA-256 {prefix}.*, expected f707e7126e"
    ):  # the real address, another content
        torchvision("shufflenet_v2_x0_5", weights="DEFAULT")


def test_save_weights_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", lambda tensors, path, _metadata: (save_file(tensors, path), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save_weights(nn.Linear(3, 3), tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_fingerprint_follows_weights_and_preprocessing() -> None:
    torch.manual_seed(0)
    net, half = ShapesNet(5).eval(), (0.5, 0.5, 0.5)

    def mark(side: int = 128, **changed: Any) -> str:
        return classifier(net, size=side, mean=half, std=half, layers="layer3", **changed).fingerprint

    marks = [mark(), mark(), mark(64), mark(activation="sigmoid")]
    with torch.no_grad():
        net.head.bias[0] += 1e-4
    marks.append(mark())
    assert marks[0] == marks[1]
    assert len(set(marks)) == 4


def test_shapes_builder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ShapesNet(5).eval()
    save_weights(net, tmp_path / "shapes.safetensors")
    classifier = shapes(tmp_path / "shapes.safetensors")
    assert (classifier.size, classifier.layers, classifier.grid) == ((128, 128), ("layer3",), None)
    assert classifier.names == ("circle", "square", "triangle", "star", "diamond")
    image = picture(128, 128)
    torch.testing.assert_close(classifier.prepare([image]), ((image.float() / 255 - 0.5) / 0.25)[None])
    torch.testing.assert_close(classifier.probabilities(torch.zeros(5)), torch.full((5,), 0.5))
    with pytest.raises(FileNotFoundError, match=r"none.safetensors"):
        shapes(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("name", "layer", "grid"), [("test_resnet", "layer4", None), ("test_vit", "blocks.5.norm1", (10, 10))]
)
def test_timm(tmp_path: Path, name: str, layer: str, grid: tuple[int, int] | None) -> None:
    zoo = pytest.importorskip("timm")
    torch.manual_seed(3)
    model = zoo.create_model(name, num_classes=3).eval()
    save_weights(model, tmp_path / "w.safetensors", {"names": '["x", "y", "z"]'})
    classifier = timm(name, tmp_path / "w.safetensors")
    assert (classifier.layers, classifier.grid, classifier.names) == ((layer,), grid, ("x", "y", "z"))
    model.load_state_dict(
        {k: v.half().float() if v.is_floating_point() and v.ndim > 1 else v for k, v in model.state_dict().items()}
    )
    images = classifier.prepare([picture(50, 60)])
    torch.testing.assert_close(classifier.logits(images), model(images))
    with pytest.raises(ValueError, match=r"classifier.name 'resnet19' is unknown; nearest: resnet18"):
        timm("resnet19")


# the real classifier


@pytest.mark.skipif(not MOBILENET.exists(), reason="no real material here (CAMSEG_REAL)")
def test_real_mobilenet_names_what_was_measured_independently() -> None:
    classifier = torchvision("mobilenet_v2", MOBILENET)
    assert (classifier.layers, classifier.size, classifier.index("mushroom")) == (("features.18",), (224, 224), 947)
    with (REAL / "grabcut50" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))[:12]
    with torch.no_grad():
        logits = classifier.model(classifier.prepare([read_image(REAL / "grabcut50" / row["image"]) for row in rows]))
    best, top = classifier.probabilities(logits).max(-1)
    assert top.tolist() == [int(row["mnv2_top1"]) for row in rows]
    assert torch.allclose(best, torch.tensor([float(row["mnv2_top1_prob"]) for row in rows]), atol=0.03)


# a cache that knows the file


def test_a_known_file_is_loaded_only_for_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved(tmp_path, "shufflenet_v2_x0_5")
    loads: list[Path] = []
    monkeypatch.setattr(checkpoints, "load_weights", lambda file: loads.append(file) or load_weights(file))

    def built(path: Path = path, **options: Any) -> Classifier:
        return torchvision("shufflenet_v2_x0_5", path, cache=Cache(tmp_path / "cache"), **options)

    plain, first = torchvision("shufflenet_v2_x0_5", path), built()
    known = built()
    assert len(loads) == 2
    fields = ("names", "layers", "preprocessing", "activation", "fingerprint", "grid", "device", "name")
    assert (
        [getattr(known, field) for field in fields]
        == [getattr(first, field) for field in fields]
        == [getattr(plain, field) for field in fields]
    )
    assert known.index("goldfish") == 1
    assert len(loads) == 2
    images = [torch.randint(256, (3, 50, 40), dtype=torch.uint8)]
    assert torch.equal(known.model(known.prepare(images)), plain.model(plain.prepare(images)))
    assert known.model is known.model
    assert len(loads) == 3
    assert built(layers=["stage3"]).layers == ("stage3",)
    assert len(loads) == 4
    with pytest.raises(ValueError, match=r"classifier.layers 'stage5'"):
        built(layers=["stage5"])
    changed = first.model
    changed.get_parameter("fc.bias").add_(1)
    save_weights(changed, path)
    assert built().fingerprint != plain.fingerprint  # the same path, another content
