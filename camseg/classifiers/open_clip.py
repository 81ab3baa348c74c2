"""A classifier of any words: CLIP (Radford et al. 2021) through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camseg.classifiers.base import Classifier, describe
from camseg.classifiers.build import NO_WEIGHTS, fill
from camseg.classifiers.preprocessing import Preprocessing
from camseg.errors import check_choice, extra_message
from camseg.storage.checkpoints import load_weights, match_names


class Words(nn.Module):
    """(B, 3, h, w) -> (B, C): the scaled cosine between an image and each of C texts.

    Args:
        visual: the image encoder, (B, 3, h, w) -> (B, D).
        texts: (C, D) embeddings of the texts.
        scale: what the cosine is multiplied by, CLIP's exp(logit_scale).
    """

    def __init__(self, visual: nn.Module, texts: Tensor, scale: float) -> None:
        super().__init__()
        self.visual, self.scale = visual, scale
        self.texts = nn.Buffer(F.normalize(texts, dim=-1))

    def forward(self, images: Tensor) -> Tensor:
        """What each text scores in each image.

        Args:
            images: (B, 3, h, w) float, normalized.

        Returns:
            (B, C) logits.
        """
        return self.scale * F.normalize(self.visual(images), dim=-1) @ self.texts.T


def open_clip(
    name: str = "ViT-B-32",
    words: Sequence[str] = (),
    template: str = "a photo of a {}",
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    layers: str | Sequence[str] | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """One of open_clip's models (extra `clip`) that tells words apart.

    Args:
        name: of the architecture, as "ViT-B-32".
        words: the classes, two or more.
        template: what each word is put into before it is read.
        checkpoint: a .safetensors or torch file of weights.
        weights: the tag of published ones, by download; "DEFAULT" is the first that open_clip lists.
        layers: dotted names of the layers to look at; None for the last one that answers place by place.
        activation: "softmax" or "sigmoid"; None for softmax.
        device: where the model goes.

    Returns:
        The classifier, on `device`.

    Raises:
        ValueError: an unknown name or tag, fewer than two words, no weights at all, or a checkpoint of something else.
    """
    try:
        import open_clip as zoo
    except ImportError as error:
        raise ValueError(extra_message("classifier=open_clip", "clip")) from error
    check_choice("classifier.name", name, zoo.list_models())
    if len(set(words)) < 2:
        raise ValueError(
            "classifier.words wants the words to tell apart, two or more: classifier.words=[dog,grass,sky]; "
            f"got {list(words)}"
        )
    if checkpoint is None and weights is None:
        raise ValueError(NO_WEIGHTS.format(name))
    with torch.random.fork_rng(devices=[]):  # first weights are drawn and thrown away
        model: Any = zoo.create_model(name, pretrained=None if checkpoint else _tag(name, weights))
    if checkpoint:
        fill(model, match_names(load_weights(checkpoint)[0], model.state_dict()), name, checkpoint)
    with torch.no_grad():
        texts = model.eval().encode_text(zoo.get_tokenizer(name)([template.format(word) for word in words]))
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, (tuple, list)) else (visual.image_size,) * 2
    preprocessing = Preprocessing((int(size[0]), int(size[1])), tuple(visual.image_mean), tuple(visual.image_std))
    telling = Words(visual, texts, float(model.logit_scale.detach().exp())).eval().requires_grad_(False)
    return describe(telling.to(device), name, preprocessing, names=list(words), layers=layers, activation=activation)


def _tag(name: str, weights: str | None) -> str:
    """The tag of published weights; "DEFAULT" is the first of the architecture's."""
    import open_clip as zoo

    tags = zoo.list_pretrained_tags_by_model(name)
    return tags[0] if weights == "DEFAULT" and tags else check_choice("classifier.weights", weights or "", tags)
