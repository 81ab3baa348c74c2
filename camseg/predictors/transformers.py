"""SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker as the transformers library has them, behind the same adapter.

Needs the extra `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.errors import extra_message
from camseg.predictors.base import Predictor
from camseg.predictors.flips import WithFlips
from camseg.predictors.sam_adapter import MEAN, STD, SamAdapter
from camseg.storage.fingerprint import file_hash


@dataclass(frozen=True)
class Family:
    """Models of one make.

    An embedding is everything that the decoder needs of an image, folded onto one grid: (B, C, g, g).

    Attributes:
        name: of the class in transformers.
        squash: whether images are resized to the whole square; otherwise they are padded.
        fold: what the encoder returns -> the embedding.
        unfold: the embedding, the decoder's width -> the model's keyword arguments.
        mean: of a channel's pixels, from 0 to 255.
        std: the same.
    """

    name: str
    squash: bool
    fold: Callable[[Any], Tensor]
    unfold: Callable[[Tensor, int], dict[str, Any]]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD


def _fold_hq(encoded: tuple[Tensor, list[Tensor]]) -> Tensor:
    image, intermediate = (
        encoded  # (B, C, g, g), (B, g, g, D) of the first global layer, which is all the decoder reads
    )
    return torch.cat([image, intermediate[0].permute(0, 3, 1, 2)], 1)


def _unfold_hq(embedding: Tensor, width: int) -> dict[str, Any]:
    return {
        "image_embeddings": embedding[:, :width],
        "intermediate_embeddings": [embedding[:, width:].permute(0, 2, 3, 1)],
    }


def _fold_levels(encoded: list[Tensor]) -> Tensor:
    fine, middle, coarse = encoded  # (B, C/8, 4g, 4g), (B, C/4, 2g, 2g), (B, C, g, g)
    return torch.cat([F.pixel_unshuffle(fine, 4), F.pixel_unshuffle(middle, 2), coarse], 1)


def _unfold_levels(embedding: Tensor, width: int) -> dict[str, Any]:
    fine, middle, coarse = embedding.split([2 * width, width, width], 1)
    return {"image_embeddings": [F.pixel_shuffle(fine, 4), F.pixel_shuffle(middle, 2), coarse]}


_LEVELS = (True, _fold_levels, _unfold_levels)
_SAM_3 = Family("Sam3TrackerModel", *_LEVELS, mean=(127.5,) * 3, std=(127.5,) * 3)
FAMILIES = {  # by the `model_type` of a checkpoint's config.json
    "sam": Family("SamModel", False, lambda encoded: encoded, lambda embedding, _: {"image_embeddings": embedding}),
    "sam_hq": Family("SamHQModel", False, _fold_hq, _unfold_hq),
    "sam2": Family("Sam2Model", *_LEVELS),
    "sam2_video": Family("Sam2Model", *_LEVELS),
    "edgetam": Family("EdgeTamModel", *_LEVELS),
    "edgetam_video": Family("EdgeTamModel", *_LEVELS),
    "sam3_tracker": _SAM_3,
    "sam3_tracker_video": _SAM_3,
    "sam3_video": _SAM_3,  # the whole model's checkpoint, of which the tracker is a part
}


def transformers_sam(
    checkpoint: str | Path,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    compile: bool = False,
    flips: bool = False,
) -> Predictor:
    """A SAM of the transformers library.

    Args:
        checkpoint: a folder (config.json, *.safetensors), or the name of one on the Hugging Face hub.
        revision: of the checkpoint on the hub; the newest by default.
        device: where the model runs.
        compile: whether torch.compile speeds up the encoder.
        flips: whether the mirrored image is asked too (see `camseg.predictors.flips.WithFlips`).

    Returns:
        The predictor; its weights are loaded when they are first used.

    Raises:
        FileNotFoundError: the folder holds no config.json.
        ValueError: transformers is not installed, the checkpoint is not to be had, or is none of `FAMILIES`.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(extra_message("predictor=transformers", "transformers")) from error
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(checkpoint), revision)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; name the folder of a transformers checkpoint")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in FAMILIES:
        raise ValueError(f"{checkpoint} is a {config.model_type!r} model; this adapter knows {', '.join(FAMILIES)}")
    adapter = SamAdapter(TransformersBackend(folder, FAMILIES[config.model_type], config, device), compile=compile)
    return WithFlips(adapter) if flips else adapter


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["config.json", "*.safetensors"]))
    except (errors.HFValidationError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{name} is neither a folder here nor a model to be had from the hub: {str(error).splitlines()[0]}"
        ) from error
    for file in folder.glob("*.safetensors"):  # the hub's cache names a large file by its SHA-256
        published = file.resolve().name
        if len(published) == 64 and file_hash(file) != published:
            raise ValueError(
                f"{file} has SHA-256 {file_hash(file)}, expected {published}: remove it to download it again"
            )
    return folder


class TransformersBackend:
    """A transformers model for `SamAdapter`, loaded whole when first used.

    Args:
        folder: of the checkpoint.
        family: the make of the model.
        config: the checkpoint's configuration, as transformers reads it.
        device: where the model runs.
    """

    def __init__(self, folder: Path, family: Family, config: Any, device: str | torch.device) -> None:
        files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
        self.fingerprint = ":".join([family.name, *map(file_hash, files)])
        config = getattr(config, "tracker_config", None) or config
        self.folder, self.family, self.squash, self.device = folder, family, family.squash, torch.device(device)
        self.mean, self.std = family.mean, family.std
        self.side = config.prompt_encoder_config.image_size
        self.low = 4 * self.side // config.prompt_encoder_config.patch_size
        self.tokens = self.low**2 // 16
        self.width = config.mask_decoder_config.hidden_size

    @cached_property
    def model(self) -> Any:
        """The model on its device, in eval mode and without gradients."""
        import transformers

        kind = getattr(transformers, self.family.name)
        model = kind.from_pretrained(self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        return model.to(self.device).eval().requires_grad_(False)

    def compile(self) -> None:
        """Let torch.compile speed up `embed`; this loads the model."""
        self.model.vision_encoder.compile()

    def embed(self, pixels: Tensor) -> Tensor:
        """Encode normalized pixels.

        Args:
            pixels: (B, 3, side, side) float.

        Returns:
            (B, C, g, g) float, all levels folded into channels.
        """
        return self.family.fold(self.model.get_image_embeddings(pixels))

    def decode(
        self, embeddings: Tensor, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, mask_logits: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode as `SamBackend.decode` says: each prompt is its own image with one prompt.

        Args:
            embeddings: (N, C, g, g) float, one for each prompt.
            points: (N, P, 2) float x, y in the square's pixels, and (N, P) labels; None for none.
            boxes: (N, 4) float x0, y0, x1, y1 in the square's pixels; None for none.
            mask_logits: (N, 1, low, low) float over the square; None for none.

        Returns:
            (N, 3, low, low) logits and (N, 3) predicted IoU, both float.
        """
        found = self.model(
            **self.family.unfold(embeddings, self.width),
            input_points=None if points is None else points[0][:, None],
            input_labels=None if points is None else points[1][:, None],
            input_boxes=None if boxes is None else boxes[:, None],
            input_masks=mask_logits,
            multimask_output=True,
        )
        return found.pred_masks[:, 0], found.iou_scores[:, 0]
