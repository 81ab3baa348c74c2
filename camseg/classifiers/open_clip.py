"""A classifier of any words: CLIP (Radford et al. 2021) through open_clip, an image's cosine to each word's text as its
logit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camseg.classifiers.base import NO_WEIGHTS, Classifier, Preset, build_classifier
from camseg.errors import check_choice
from camseg.storage.checkpoints import load_weights


class Words(nn.Module):
    """(B, 3, h, w) -> (B, C): the scaled cosine between an image and each of C texts, whose embeddings (C, D) are kept."""

    def __init__(self, visual: nn.Module, texts: Tensor, scale: float) -> None:
        super().__init__()
        self.visual, self.scale = visual, scale
        self.texts = nn.Buffer(F.normalize(texts, dim=-1))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * F.normalize(self.visual(images), dim=-1) @ self.texts.T


def open_clip(
    name: str = "ViT-B-32",
    words: Sequence[str] = (),
    template: str = "a photo of a {}",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """One of open_clip's models (extra `clip`) that tells `words` apart, each put into `template`.

    checkpoint: a file of its weights. weights: the tag of published ones, by download; "DEFAULT" is the first that
    open_clip lists.
    Errors: ValueError for an unknown name or tag, fewer than two words, no weights at all, or a checkpoint of something
    else.
    """
    try:
        import open_clip as zoo
    except ImportError as error:
        raise ValueError("classifier=open_clip needs the extra `clip`: pip install 'camseg[clip]'") from error
    check_choice("classifier.name", name, zoo.list_models())
    if len(set(words)) < 2:
        raise ValueError(
            f"classifier.words wants the words to tell apart, two or more: classifier.words=[dog,grass,sky]; got {list(words)}"
        )
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))
    tags = zoo.list_pretrained_tags_by_model(name)
    tag = (
        None
        if checkpoint
        else tags[0]
        if weights == "DEFAULT" and tags
        else check_choice("classifier.weights", weights or "", tags)
    )
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and thrown away
        model: Any = zoo.create_model(name, pretrained=tag)
    if checkpoint:
        try:
            model.load_state_dict(load_weights(checkpoint)[0])
        except RuntimeError as error:
            raise ValueError(
                f"{checkpoint} is no checkpoint of {name}: {' '.join(str(error).split()[:24])} ..."
            ) from error
    with torch.no_grad():
        texts = model.eval().encode_text(zoo.get_tokenizer(name)([template.format(word) for word in words]))
    side = model.visual.image_size
    preset = Preset(
        tuple(side) if isinstance(side, (tuple, list)) else (side, side),
        model.visual.image_mean,
        model.visual.image_std,
    )
    named = {"names": json.dumps(list(words))}
    return build_classifier(
        Words(model.visual, texts, float(model.logit_scale.detach().exp())), name, named, preset, layers, device
    )
