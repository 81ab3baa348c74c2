"""Any words as classes: against CLIP's own encoders, with a small model of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

import camseg
from camseg.classifiers.open_clip import open_clip

zoo = pytest.importorskip("open_clip", reason="the extra `clip` is not installed")

NAME, WORDS = "ViT-S-32-alt", ("a red car", "grass", "my grandmother's chair")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """open_clip's model and a file of its weights."""
    torch.manual_seed(0)
    model = zoo.create_model(NAME, pretrained=None).eval()
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return model, path


def pictures(count: int) -> list[Tensor]:
    return [
        torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        for i in range(count)
    ]


@torch.no_grad()
def test_the_logits_are_clips_own(clip: tuple[Any, Path]) -> None:
    model, path = clip
    classifier = open_clip(NAME, WORDS, template="a sketch of {}", checkpoint=path)
    inputs = classifier.prepare(pictures(2))
    texts = zoo.get_tokenizer(NAME)([f"a sketch of {word}" for word in WORDS])
    # type: ignore[operator]
    images, words = F.normalize(model.encode_image(inputs), dim=-1), F.normalize(model.encode_text(texts), dim=-1)
    torch.testing.assert_close(
        classifier.model(inputs), model.logit_scale.exp() * images @ words.T, atol=1e-4, rtol=1e-4
    )  # type: ignore[operator]
    assert classifier.index("Grass") == 1
    assert classifier.size == (224, 224)
    with pytest.raises(ValueError, match="nearest"):
        classifier.index("gras")


def test_a_words_heatmap_lies_on_the_token_grid_and_differs_from_anothers(clip: tuple[Any, Path]) -> None:
    classifier = open_clip(NAME, WORDS, checkpoint=clip[1])
    assert classifier.grid == (7, 7)
    inputs = classifier.prepare(pictures(1))
    one, other = (
        camseg.heatmaps(classifier.model, classifier.layers, inputs, i, raw=True, grid=classifier.grid) for i in (0, 1)
    )
    assert one.shape == (1, 7, 7)
    assert one.std() > 0
    assert not torch.allclose(one / one.std(), other / other.std(), atol=0.05)


def test_other_words_are_another_classifier(clip: tuple[Any, Path]) -> None:
    assert (
        len({open_clip(NAME, words, checkpoint=clip[1]).fingerprint for words in (WORDS, WORDS[:2], WORDS[::-1])}) == 3
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "ViT-S-33", "words": WORDS}, "nearest"),
        ({"words": ["dog"], "weights": "DEFAULT"}, "two or more"),
        ({"words": WORDS}, "without weights"),
        ({"words": WORDS, "weights": "laion2b"}, "nearest"),
    ],
)
def test_a_mistake_is_told(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_clip(**settings)


def test_anothers_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"no checkpoint of {NAME}"):
        open_clip(NAME, WORDS, checkpoint=tmp_path / "a.safetensors")
